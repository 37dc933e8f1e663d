"""Overhead of the client: the same requests to a server whose response takes no time."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from ragops.bench import wire
from ragops.bench.records import ClientOverhead
from ragops.testing.echo import MODEL, EchoProcess

if TYPE_CHECKING:
    from ragops.bench.workload import Workload


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
