"""What the client costs by itself: the same requests to a server that takes no time.

``run.py`` keeps the result beside a run, so that a reader sees how much of a latency is ours.
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from ragops.bench import wire
from ragops.bench.records import Floor
from ragops.testing.echo import MODEL, EchoProcess

if TYPE_CHECKING:
    from ragops.bench.workload import Workload


async def measure_floor(workload: Workload, requests: int = 40) -> Floor:
    """Send the workload's first requests, one at a time, to a stand-in that answers at once.

    Args:
        workload: Whose requests to send; they are sent again from the first when there are too few.
        requests: How many.

    Returns:
        Median latency, which holds the stand-in's own reading and writing too, and CPU time of this
        thread for each request, both in ns.
    """
    with EchoProcess() as echo:
        target = wire.Target(echo.base_url, MODEL)
        async with wire.client() as http:
            return await _measure(workload, requests, http, target)


async def _measure(workload: Workload, requests: int, http: wire.Client, target: wire.Target) -> Floor:
    chosen = [workload.requests[number % len(workload.requests)] for number in range(requests)]
    bodies = [(wire.encode(MODEL, r.query, r.documents), len(r.documents)) for r in chosen]
    for body, documents in bodies:  # waits for the process to start, and lets it learn the answers
        await wire.post(http, target, body, documents)
    began = time.thread_time_ns()
    replies = [await wire.post(http, target, body, documents) for body, documents in bodies]
    used = time.thread_time_ns() - began
    times = [reply.t_done - reply.t_send for reply in replies]
    errors = sum(bool(reply.error) for reply in replies)
    return Floor(requests, int(median(times)), used // requests, errors)
