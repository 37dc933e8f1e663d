"""Send the requests of a load level on time; record when each was due, sent and completed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice

from ragops.bench import wire
from ragops.bench.level import Level, due_times
from ragops.bench.records import Phase, RequestRecord

Send = Callable[["EncodedRequest", int], Awaitable[None]]
Store = Callable[[RequestRecord], None]

_NANO = 1_000_000_000


@dataclass(frozen=True)
class EncodedRequest:
    """One request, encoded before the trial so that encoding is not measured."""

    index: int
    """Place in the workload."""
    phase: Phase
    body: bytes
    documents: int
    words: int
    """Mean words a document."""


@dataclass(frozen=True)
class Trial:
    """One repetition of a load level."""

    level: Level
    repeat: int
    requests: tuple[EncodedRequest, ...]
    seed: int
    session: int = 0
    """Number of times that the run had been resumed."""


async def play(trial: Trial, http: wire.Client, target: wire.Target, store: Store) -> None:
    """Send every request of a trial.

    Args:
        trial: The requests and their load level.
        http: From :func:`ragops.bench.wire.client`.
        target: The server.
        store: Called with each record when its request ends, also if it failed or was cancelled.
    """

    async def send(request: EncodedRequest, t_sched: int) -> None:
        t_send = time.perf_counter_ns()
        try:
            reply = await wire.post(http, target, request.body, request.documents)
        except asyncio.CancelledError:
            reply = wire.Reply(t_send, time.perf_counter_ns(), error="cancelled")
            store(_record(trial, request, t_sched, reply))
            raise
        store(_record(trial, request, t_sched, reply))

    if trial.level.kind == "closed":
        await _closed(int(trial.level.value), trial.requests, send)
    elif trial.level.kind == "burst":
        await _bursts(int(trial.level.value), trial.requests, send)
    else:
        await _open(due_times(trial.level, len(trial.requests), trial.seed), trial.requests, send)


def _record(trial: Trial, request: EncodedRequest, t_sched: int, reply: wire.Reply) -> RequestRecord:
    return RequestRecord(
        level=trial.level.name,
        repeat=trial.repeat,
        phase=request.phase,
        index=request.index,
        documents=request.documents,
        words=request.words,
        t_sched=t_sched,
        t_send=reply.t_send,
        t_done=reply.t_done,
        tokens=reply.tokens,
        status=reply.status,
        error=reply.error,
        session=trial.session,
    )


async def _closed(clients: int, requests: tuple[EncodedRequest, ...], send: Send) -> None:
    queue = iter(requests)

    async def one_client() -> None:
        for request in queue:
            await send(request, time.perf_counter_ns())

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one_client())


async def _open(due: list[int], requests: tuple[EncodedRequest, ...], send: Send) -> None:
    start = time.perf_counter_ns()
    async with asyncio.TaskGroup() as group:
        for request, offset in zip(requests, due, strict=True):
            t_sched = start + offset
            await asyncio.sleep(max(0, t_sched - time.perf_counter_ns()) / _NANO)
            group.create_task(_awaited(send, request, t_sched))


async def _bursts(size: int, requests: tuple[EncodedRequest, ...], send: Send) -> None:
    queue = iter(requests)
    while burst := list(islice(queue, size)):
        now = time.perf_counter_ns()
        async with asyncio.TaskGroup() as group:
            for request in burst:
                group.create_task(_awaited(send, request, now))


async def _awaited(send: Send, request: EncodedRequest, t_sched: int) -> None:
    await send(request, t_sched)
