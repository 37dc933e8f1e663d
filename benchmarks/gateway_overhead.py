"""Measures what the gateway adds to a request, and what it costs: time, CPU seconds and memory.

::

    python -m benchmarks.gateway_overhead docs/_data/gateway_overhead.json

takes three minutes. Simulated replicas respond at once, so that all of the time is that of client, gateway
and network. The same request goes to one replica directly and through the gateway, in turn. The gateway has
one CPU, client and replicas have another one. Values depend on other processes, which the file records.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import gateways, write
from ragops.bench import wire
from ragops.bench.workload import synthetic
from ragops.errors import BenchError

if TYPE_CHECKING:
    from ragops.bench.workload import Workload

DOCUMENTS, WORDS, TEXTS, SEED = 64, 360, 32, 1
REPLICAS = (1, 4, 8, 16, 64, 256)
WARMUP, PAIRS = 64, 400


@dataclass(frozen=True)
class Overhead:
    """One number of replicas; times in ms."""

    replicas: int
    shares_a_request: float
    direct_p50_ms: float
    gateway_p50_ms: float
    added_p50_ms: float
    """Median of the differences in each pair."""
    requests_per_cpu_s: float
    """Of the gateway, its health checks included."""
    rss_bytes: int
    """Of the gateway, without a cache, after all requests."""
    pairs: tuple[tuple[float, float], ...]
    """Direct and through the gateway, in order of time."""


@dataclass(frozen=True, kw_only=True)
class Measured(gateways.Record):
    """The record."""

    request_bytes: int
    """Median of the bodies."""
    rows: tuple[Overhead, ...]


def main(file: str, pairs: int = PAIRS) -> None:
    """Measure, and write the file."""
    watch, cpus = gateways.Watch(), sorted(os.sched_getaffinity(0))
    texts = synthetic(TEXTS, DOCUMENTS, WORDS, seed=SEED)
    os.sched_setaffinity(0, {cpus[0]})
    rows = tuple(_overhead(texts, replicas, pairs, cpus) for replicas in REPLICAS)
    sizes = [len(wire.encode(gateways.NAME, one.query, one.documents)) for one in texts.requests]
    record = Measured(
        **watch.fields(texts),
        request_bytes=round(median(sizes)),
        rows=rows,
    )
    write(record, file, digits=3)


def _overhead(texts: Workload, replicas: int, pairs: int, cpus: list[int]) -> Overhead:
    with (
        gateways.stubs([0.0] * replicas, cpu=cpus[0]) as addresses,
        gateways.gateway(addresses, cpu=cpus[-1], equal_shares=True) as gateway,
    ):
        urls = (f"http://{addresses[0]}", gateway.url)
        asyncio.run(_pairs(texts, urls, WARMUP))
        cpu, shares = gateway.cpu_seconds, gateway.shares
        times = asyncio.run(_pairs(texts, urls, pairs))
        cpu, shares = gateway.cpu_seconds - cpu, gateway.shares - shares
        rss = gateway.rss_bytes
    direct, through = zip(*times, strict=True)
    return Overhead(
        replicas=replicas,
        shares_a_request=shares / pairs,
        direct_p50_ms=median(direct),
        gateway_p50_ms=median(through),
        added_p50_ms=median(after - before for before, after in times),
        requests_per_cpu_s=pairs / cpu,
        rss_bytes=rss,
        pairs=times,
    )


async def _pairs(texts: Workload, urls: tuple[str, str], count: int) -> tuple[tuple[float, float], ...]:
    """The same request to both addresses, in an order that changes with each pair; ms."""
    bodies = [wire.encode(gateways.NAME, one.query, one.documents) for one in texts.requests]
    clients = [wire.Client(wire.Server(f"{url}/v1", gateways.NAME)) for url in urls]
    pairs = []
    with closing(clients[0]), closing(clients[1]):
        for number in range(count):
            times = [0.0, 0.0]
            for which in (0, 1) if number % 2 else (1, 0):
                reply = await clients[which].post(bodies[number % len(bodies)], DOCUMENTS)
                if reply.error:
                    raise BenchError(f"{urls[which]} did not respond", evidence=reply.error)
                times[which] = (reply.t_done - reply.t_send) / 1e6
            pairs.append((times[0], times[1]))
    return tuple(pairs)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
