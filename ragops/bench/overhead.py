"""A server that takes no time, or a known time: what the client is measured against.

It answers in the shape of vLLM, with the same score for every document, from a process of its own
with nothing but the standard library. It is a stand-in: it reads no text. ``testing/stub.py`` does.

Overhead of the client: the same requests to a server whose response takes no time.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import zlib
from contextlib import closing
from functools import lru_cache, partial
from http.client import HTTPConnection
from statistics import median
from typing import TYPE_CHECKING, Self

from ragops.bench import wire
from ragops.bench.records import ClientOverhead

if TYPE_CHECKING:
    from ragops.bench.workload import Workload

MODEL = "stub-reranker"
"""The name that it gives back; it is not looked at."""

_PATIENCE = 20.0


class EchoProcess:
    """The server in a process of its own.

    ::

        with EchoProcess(least=0.2, most=0.6) as echo:
            httpx.post(echo.base_url + "/rerank", json={...})

    Args:
        least: Shortest time of an answer in seconds.
        most: Longest; each request's time lies between, by its text. The same as ``least`` when None.
    """

    def __init__(self, least: float = 0.0, most: float | None = None) -> None:
        self.least, self.most = least, least if most is None else most
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.set_inheritable(True)

    @property
    def base_url(self) -> str:
        """Address as RAGFlow takes it, ending in ``/v1``."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._process.pid

    def __enter__(self) -> Self:
        """Start; the socket listens already, so a first request waits until it is answered."""
        number = self._listener.fileno()
        argv = [sys.executable, "-P", __file__, str(number), str(self.least), str(self.most)]
        self._process = subprocess.Popen(argv, pass_fds=[number])
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, and close the port."""
        self._process.terminate()
        self._process.wait(_PATIENCE)
        self._listener.close()

    def took(self) -> list[int]:
        """Its own stopwatch: ns from the last byte of each request to the answer, in their order."""
        host, port = self._listener.getsockname()
        connection = HTTPConnection(host, port, timeout=_PATIENCE)
        with closing(connection):
            connection.request("GET", "/took")
            found: list[int] = json.loads(connection.getresponse().read())
        return found


def seconds(body: bytes, least: float, most: float) -> float:
    """How long the answer to this body takes."""
    return least + (most - least) * zlib.crc32(body) / 0xFFFFFFFF


@lru_cache(maxsize=1024)
def _answer(body: bytes) -> bytes:
    documents = json.loads(body)["documents"]
    words = sum(map(len, documents)) // 5
    answer = {
        "id": "echo",
        "model": MODEL,
        "usage": {"prompt_tokens": words, "total_tokens": words},
        "results": [
            {"index": place, "document": {"text": text, "multi_modal": None}, "relevance_score": 0.5}
            for place, text in enumerate(documents)
        ],
    }
    return _http(json.dumps(answer).encode())


def _http(content: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


class _Talk(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport

    def __init__(self, least: float, most: float, took: list[int]) -> None:
        self.least, self.most, self.took = least, most, took
        self.read = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP server has no other
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.read += data
        head, mark, rest = bytes(self.read).partition(b"\r\n\r\n")
        _, _, after = head.lower().partition(b"content-length:")
        length = int(after.partition(b"\r\n")[0] or 0)
        if mark and len(rest) >= length:
            self.read.clear()
            self._serve(head, rest[:length])

    def _serve(self, head: bytes, body: bytes) -> None:
        begun = time.perf_counter_ns()
        if head.startswith(b"GET"):
            self.transport.write(_http(json.dumps(self.took).encode()))
            return
        answer = _answer(body)
        wait = seconds(body, self.least, self.most) - (time.perf_counter_ns() - begun) / 1e9
        if self.most:
            asyncio.get_running_loop().call_later(wait, partial(self._send, answer, begun))
        else:
            self._send(answer, begun)

    def _send(self, answer: bytes, begun: int) -> None:
        self.took.append(time.perf_counter_ns() - begun)
        self.transport.write(answer)


async def _serve(number: int, least: float, most: float) -> None:
    took: list[int] = []
    listener = socket.socket(fileno=number)
    server = await asyncio.get_running_loop().create_server(lambda: _Talk(least, most, took), sock=listener)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))


async def measure_overhead(workload: Workload, requests: int = 40) -> ClientOverhead:
    """Send the workload's first requests, one at a time, to the echo server.

    Args:
        workload: Whose requests to send, repeatedly if there are too few.
        requests: Number of requests.

    Returns:
        Median latency, which includes the echo server's own time, and CPU time of this thread for each
        request, both in ns.
    """
    with EchoProcess() as echo:
        target = wire.Target(echo.base_url, MODEL)
        async with wire.client() as http:
            return await _measure(workload, requests, http, target)


async def _measure(
    workload: Workload, requests: int, http: wire.Client, target: wire.Target
) -> ClientOverhead:
    chosen = [workload.requests[number % len(workload.requests)] for number in range(requests)]
    bodies = [(wire.encode(MODEL, r.query, r.documents), len(r.documents)) for r in chosen]
    for body, documents in bodies:  # warm-up
        await wire.post(http, target, body, documents)
    began = time.thread_time_ns()
    replies = [await wire.post(http, target, body, documents) for body, documents in bodies]
    used = time.thread_time_ns() - began
    times = [reply.t_done - reply.t_send for reply in replies]
    errors = sum(bool(reply.error) for reply in replies)
    return ClientOverhead(requests, int(median(times)), used // requests, errors)
