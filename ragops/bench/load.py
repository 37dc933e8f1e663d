"""Sends a level's requests on time and notes when each was due, sent and answered.

The level says when (``level.py``), the wire says what (``wire.py``); ``recorder.py`` keeps the notes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice

from ragops.bench import wire
from ragops.bench.level import Level, due_times
from ragops.bench.records import Phase, RequestRecord

Fire = Callable[["Job", int], Awaitable[None]]
Keep = Callable[[RequestRecord], None]

_NANO = 1_000_000_000


@dataclass(frozen=True)
class Job:
    """One request, encoded beforehand so that encoding is not measured."""

    index: int
    """Place in the workload."""
    phase: Phase
    body: bytes
    documents: int
    words: int
    """Mean words a document."""


@dataclass(frozen=True)
class Pass:
    """One level played once."""

    level: Level
    repeat: int
    jobs: tuple[Job, ...]
    seed: int
    session: int = 0
    """How often the run had been continued."""


async def play(turn: Pass, http: wire.Client, target: wire.Target, keep: Keep) -> None:
    """Send every request of a pass.

    Args:
        turn: What to send, and how it arrives.
        http: From :func:`ragops.bench.wire.client`.
        target: Where to.
        keep: Takes each record as its request ends, failed and cancelled ones too.
    """

    async def fire(job: Job, t_sched: int) -> None:
        t_send = time.perf_counter_ns()
        try:
            reply = await wire.post(http, target, job.body, job.documents)
        except asyncio.CancelledError:
            reply = wire.Reply(t_send, time.perf_counter_ns(), error="cancelled")
            keep(_note(turn, job, t_sched, reply))
            raise
        keep(_note(turn, job, t_sched, reply))

    if turn.level.kind == "closed":
        await _closed(int(turn.level.value), turn.jobs, fire)
    elif turn.level.kind == "burst":
        await _bursts(int(turn.level.value), turn.jobs, fire)
    else:
        await _open(due_times(turn.level, len(turn.jobs), turn.seed), turn.jobs, fire)


def _note(turn: Pass, job: Job, t_sched: int, reply: wire.Reply) -> RequestRecord:
    return RequestRecord(
        level=turn.level.name,
        repeat=turn.repeat,
        phase=job.phase,
        index=job.index,
        documents=job.documents,
        words=job.words,
        t_sched=t_sched,
        t_send=reply.t_send,
        t_done=reply.t_done,
        tokens=reply.tokens,
        status=reply.status,
        error=reply.error,
        session=turn.session,
    )


async def _closed(clients: int, jobs: tuple[Job, ...], fire: Fire) -> None:
    queue = iter(jobs)

    async def one_client() -> None:
        for job in queue:
            await fire(job, time.perf_counter_ns())

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one_client())


async def _open(due: list[int], jobs: tuple[Job, ...], fire: Fire) -> None:
    start = time.perf_counter_ns()
    async with asyncio.TaskGroup() as group:
        for job, offset in zip(jobs, due, strict=True):
            t_sched = start + offset
            await asyncio.sleep(max(0, t_sched - time.perf_counter_ns()) / _NANO)
            group.create_task(_awaited(fire, job, t_sched))


async def _bursts(size: int, jobs: tuple[Job, ...], fire: Fire) -> None:
    queue = iter(jobs)
    while burst := list(islice(queue, size)):
        now = time.perf_counter_ns()
        async with asyncio.TaskGroup() as group:
            for job in burst:
                group.create_task(_awaited(fire, job, now))


async def _awaited(fire: Fire, job: Job, t_sched: int) -> None:
    await fire(job, t_sched)
