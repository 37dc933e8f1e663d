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
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from ragops.bench import wire
from ragops.bench.echo import MODEL, EchoProcess
from ragops.bench.load import EncodedRequest, Trial, send_trial
from ragops.bench.records import LoadLevel
from ragops.bench.workload import Workload, synthetic
from ragops.reranker import host as hosts

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
    rounded = json.loads(json.dumps(asdict(measured)), parse_float=lambda text: round(float(text), 5))
    Path(file).write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def _cost(texts: Workload, at_once: int, cpus: list[int], rounds: int = 5, requests: int = 1000) -> Cost:
    with EchoProcess() as echo:
        if len(cpus) > 1:
            os.sched_setaffinity(echo.pid, set(cpus[1:]))
            os.sched_setaffinity(0, {cpus[0]})
        try:
            _sent(echo, texts, at_once, 200)
            pairs = [_round(echo, texts, at_once, requests) for _ in range(rounds)]
        finally:
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


def _round(echo: EchoProcess, texts: Workload, at_once: int, requests: int) -> tuple[float, float]:
    """CPU-seconds and seconds."""
    cpu, start = time.thread_time(), time.perf_counter()
    _sent(echo, texts, at_once, requests)
    return time.thread_time() - cpu, time.perf_counter() - start


def _accuracy(texts: Workload, least: float, most: float, at_once: int, requests: int = 400) -> Accuracy:
    with EchoProcess(least, most) as echo:
        _sent(echo, texts, at_once, 64)  # warm-up
        skipped = len(echo.durations())
        client = sorted(_sent(echo, texts, at_once, requests))
        server = sorted(one / 1e9 for one in echo.durations()[skipped:])
    p50, p99 = (_at(server, 0.5), _at(client, 0.5)), (_at(server, 0.99), _at(client, 0.99))
    errors = (pair[1] / pair[0] - 1 for pair in (p50, p99))
    return Accuracy(requests, at_once, least, most, *p50, *p99, *errors)


def _sent(echo: EchoProcess, texts: Workload, at_once: int, requests: int) -> list[float]:
    """Seconds of each request as the load generator records them."""
    bodies = [wire.encode(MODEL, one.query, one.documents) for one in texts.requests]
    encoded = tuple(
        EncodedRequest(n, "measure", bodies[n % len(bodies)], DOCUMENTS, WORDS) for n in range(requests)
    )
    times: list[float] = []

    async def whole() -> None:
        async with wire.client() as http:
            target = wire.Target(echo.base_url, MODEL)
            trial = Trial(LoadLevel.closed(at_once), 0, encoded, seed=1)
            await send_trial(trial, http, target, lambda record: times.append(record.service))

    asyncio.run(whole())
    return times


def _at(ordered: list[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


def _busy() -> float:
    """CPU seconds of the whole machine since its start."""
    fields = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0].split()[1:8]
    user, nice, system, _, _, irq, softirq = map(int, fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(sys.argv[1])
