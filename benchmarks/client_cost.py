"""Measures the load generator: its CPU time, and its accuracy against a server of known response time.

::

    python -m benchmarks.client_cost docs/_data/client.json

measures for about two minutes. It is not a test: values depend on other processes, which the file records.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import platform
import socket
import subprocess
import sys
import time
import zlib
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import write
from ragops.bench import wire
from ragops.bench.records import LoadLevel, RequestRecord
from ragops.bench.run import Trial, send_trial
from ragops.bench.workload import Workload, synthetic
from ragops.reranker import host as hosts

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENTS, WORDS = 64, 100
AIPERF_CPU_S = 13.4
"""CPU seconds of AIPerf 0.13 for 1,000 such requests, on two cores of an Intel Xeon with AMX."""


@dataclass(frozen=True)
class Cost:
    """CPU time of the client against a server that responds at once, on another core."""

    requests: int
    """In each round."""
    at_once: int
    cpu_s_per_1000: tuple[float, ...]
    """Of each round, ascending; other processes increase it."""
    requests_per_s: tuple[float, ...]
    """From one core, shared with other processes; of each round, descending."""
    requests_per_core_s: float
    """Per CPU second, in the cheapest round."""
    share_of_aiperf: float
    """Fraction of its CPU seconds, in the cheapest round."""


@dataclass(frozen=True)
class Accuracy:
    """Times of the client and of the server, in seconds."""

    requests: int
    at_once: int
    least_s: float
    most_s: float
    p50_server_s: float
    p50_client_s: float
    p99_server_s: float
    p99_client_s: float
    p50_error: float
    """Fraction by which the client's p50 exceeds the server's."""
    p99_error: float


@dataclass(frozen=True)
class Measured:
    """The measurements and the machine."""

    date: str
    cpu_model: str
    cpus: int
    python: str
    httpx: str
    niceness: int
    """Of client and server; below 0 they have priority over other processes."""
    used_by_others: float
    """Cores that other processes used at the same time."""
    cost: tuple[Cost, ...]
    accuracy: tuple[Accuracy, ...]


def main(file: str) -> None:
    """Measure, and write the file."""
    cpus = sorted(os.sched_getaffinity(0))
    start, busy = time.monotonic(), _busy()
    mine = time.process_time()
    texts = synthetic(64, DOCUMENTS, WORDS)
    cost = tuple(_cost(texts, at_once, cpus) for at_once in (1, 4, 16))
    laws = ((0.2, 0.2, 1), (0.2, 0.2, 4), (0.1, 0.6, 8), (2.0, 3.0, 16))
    accuracy = tuple(_accuracy(texts, *law) for law in laws)
    children = os.times().children_user + os.times().children_system
    used = time.process_time() - mine + children
    host = hosts.read_host()
    measured = Measured(
        date=datetime.now(UTC).date().isoformat(),
        cpu_model=host.cpu_model,
        cpus=len(cpus),
        python=platform.python_version(),
        httpx=version("httpx"),
        niceness=os.getpriority(os.PRIO_PROCESS, 0),
        used_by_others=max(0.0, (_busy() - busy - used) / (time.monotonic() - start)),
        cost=cost,
        accuracy=accuracy,
    )
    write(measured, file)


def _cost(texts: Workload, at_once: int, cpus: list[int], rounds: int = 5, requests: int = 1000) -> Cost:
    server = EchoServer()
    if len(cpus) > 1:
        os.sched_setaffinity(server.process.pid, set(cpus[1:]))
        os.sched_setaffinity(0, {cpus[0]})
    try:
        _sent(server, texts, at_once, 200)
        pairs = [_round(server, texts, at_once, requests) for _ in range(rounds)]
    finally:
        server.end()
        os.sched_setaffinity(0, set(cpus))
    cpu, took = (sorted(column) for column in zip(*pairs, strict=True))
    return Cost(
        requests=requests,
        at_once=at_once,
        cpu_s_per_1000=tuple(1000 * one / requests for one in cpu),
        requests_per_s=tuple(requests / one for one in took),
        requests_per_core_s=requests / cpu[0],
        share_of_aiperf=1000 * cpu[0] / requests / AIPERF_CPU_S,
    )


def _round(server: EchoServer, texts: Workload, at_once: int, requests: int) -> tuple[float, float]:
    """CPU-seconds and seconds."""
    cpu, start = time.thread_time(), time.perf_counter()
    _sent(server, texts, at_once, requests)
    return time.thread_time() - cpu, time.perf_counter() - start


def _accuracy(texts: Workload, least: float, most: float, at_once: int, requests: int = 400) -> Accuracy:
    echo_server, warmup = EchoServer(least, most), 64
    try:
        _sent(echo_server, texts, at_once, warmup)
        client = sorted(_sent(echo_server, texts, at_once, requests))
    finally:
        durations = echo_server.end()
    server = sorted(durations[warmup:])
    p50, p99 = (_at(server, 0.5), _at(client, 0.5)), (_at(server, 0.99), _at(client, 0.99))
    errors = (pair[1] / pair[0] - 1 for pair in (p50, p99))
    return Accuracy(requests, at_once, least, most, *p50, *p99, *errors)


def _sent(server: EchoServer, texts: Workload, at_once: int, requests: int) -> list[float]:
    """Seconds of each request as the load generator records them."""
    bodies = [wire.encode("echo", one.query, one.documents) for one in texts.requests]
    empty = RequestRecord("closed", 0, "measure", 0, DOCUMENTS, WORDS, 0, 0, 0, None, None)
    encoded = tuple((empty, bodies[n % len(bodies)]) for n in range(requests))
    times: list[float] = []

    async def whole() -> None:
        trial = Trial(LoadLevel.closed(at_once), encoded, seed=1)
        with closing(wire.Client(wire.Server(server.base_url, "echo"))) as client:
            await send_trial(trial, client, lambda record: times.append(record.service))

    asyncio.run(whole())
    return times


def _at(ordered: list[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


def _busy() -> float:
    """CPU seconds of the whole machine since its start."""
    fields = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0].split()[1:8]
    user, nice, system, _, _, irq, softirq = map(int, fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class EchoServer:
    """The echo server in its own process; each response takes a known time between two limits, in seconds."""

    def __init__(self, least: float = 0.0, most: float = 0.0) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            self.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            number = listener.fileno()
            argv = [sys.executable, "-m", "benchmarks.client_cost", "serve", *map(str, (number, least, most))]
            self.process = subprocess.Popen(
                argv, pass_fds=[number], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )

    def end(self) -> list[float]:
        """End the process; seconds from each request to its response by the server's clock, in order."""
        durations: list[float] = json.loads(self.process.communicate()[0])
        return durations


class Connection(asyncio.Protocol):
    """One connection; :meth:`respond` gets the body of each request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start with an empty buffer."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP server has no other
        self.transport, self.buffer = transport, bytearray()

    def data_received(self, data: bytes) -> None:
        """Respond when the request is complete."""
        self.buffer += data
        head, end, body = bytes(self.buffer).partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if end and len(body) >= int(length):
            self.buffer.clear()
            self.respond(body)

    def respond(self, body: bytes) -> None:
        """Send the response."""
        self.transport.write(response(body))


@lru_cache(maxsize=1024)
def response(body: bytes) -> bytes:
    """The response to a rerank request, as HTTP."""
    documents = json.loads(body)["documents"]
    tokens = sum(map(len, documents)) // 5
    rows = [
        {"index": index, "document": {"text": text, "multi_modal": None}, "relevance_score": 0.5}
        for index, text in enumerate(documents)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return http(json.dumps({"id": "echo", "model": "echo", "usage": usage, "results": rows}).encode())


def http(content: bytes) -> bytes:
    """A response with JSON as HTTP."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def serve(number: int, connection: Callable[[], Connection]) -> None:
    """Serve on the socket with this file descriptor until the process ends."""
    listener = socket.socket(fileno=number)
    server = await asyncio.get_running_loop().create_server(connection, sock=listener)
    await server.serve_forever()


async def _serve(number: int, least: float, most: float) -> None:
    durations: list[float] = []

    class DelayedConnection(Connection):
        def respond(self, body: bytes) -> None:
            begun, content = time.perf_counter(), response(body)
            delay = least + (most - least) * zlib.crc32(body) / 0xFFFFFFFF

            def send() -> None:
                durations.append(time.perf_counter() - begun)
                self.transport.write(content)

            if delay:
                asyncio.get_running_loop().call_later(delay - (time.perf_counter() - begun), send)
            else:
                send()

    server = asyncio.create_task(serve(number, DelayedConnection))
    await asyncio.to_thread(sys.stdin.read)
    server.cancel()
    print(json.dumps(durations))  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(_serve(int(sys.argv[2]), *map(float, sys.argv[3:])))
    else:
        main(sys.argv[1])
