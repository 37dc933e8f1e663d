"""What the client costs by itself: the same requests to a server that takes no time.

``run.py`` keeps the result beside a run, so that a reader sees how much of a latency is ours.
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

from ragops.bench import wire
from ragops.bench.records import Floor
from ragops.errors import BenchError

if TYPE_CHECKING:
    import httpx

    from ragops.bench.workload import Workload

_MODEL = "stub-reranker"


async def measure_floor(workload: Workload, requests: int = 20) -> Floor:
    """Send the workload's first requests, one at a time, to a stub in a process of its own.

    Args:
        workload: Whose requests to send; they are sent again from the first when there are too few.
        requests: How many.

    Returns:
        Median latency, which holds the stub's own reading and writing too, and CPU time of this
        thread for each request, both in ns.

    Raises:
        BenchError: The stub's libraries are not installed.
    """
    try:
        from ragops.testing.stub import Behaviour, StubProcess  # noqa: PLC0415 - an extra
    except ImportError as error:
        hint = "pip install 'ragops-rerank[testing]'"
        raise BenchError("the stub needs more libraries", evidence=str(error), hint=hint) from error
    with StubProcess(Behaviour(order="constant")) as stub:
        target = wire.Target(stub.base_url, _MODEL)
        async with wire.client() as http:
            return await _measure(workload, requests, http, target)


async def _measure(
    workload: Workload, requests: int, http: httpx.AsyncBaseTransport, target: wire.Target
) -> Floor:
    chosen = [workload.requests[number % len(workload.requests)] for number in range(requests)]
    bodies = [(wire.encode(_MODEL, r.query, r.documents), len(r.documents)) for r in chosen]
    await wire.post(http, target, *bodies[0])  # waits for the stub to start
    began = time.thread_time_ns()
    replies = [await wire.post(http, target, body, documents) for body, documents in bodies]
    used = time.thread_time_ns() - began
    times = [reply.t_done - reply.t_send for reply in replies]
    errors = sum(bool(reply.error) for reply in replies)
    return Floor(requests, int(median(times)), used // requests, errors)
