"""What a benchmark is configured to send, and the trials of a run in order; pure.

``run.py`` makes a plan from the configuration, ``recorder.py`` executes it trial by trial.

Send the requests of a load level on time; record when each was due, sent and completed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from ragops.bench import wire
from ragops.bench.order import DEFAULT_CHECK, OrderCheck
from ragops.bench.records import (
    GemmPeak,
    Level,
    Phase,
    Provenance,
    RequestRecord,
    Sample,
    due_times,
    trial_order,
)
from ragops.errors import BenchError
from ragops.ragflow import releases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ragops.bench.records import Run, RunInfo
    from ragops.bench.workload import Workload

Sampler = Callable[[], Sample]
"""Reads the counters of server and machine once."""

UNKNOWN = Provenance()
"""Provenance of a server of which nothing is recorded."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """What a benchmark sends, how it arrives, and where the run is stored.

    ::

        config = BenchmarkConfig(workload=ragflow(400), levels=(Level.closed(1),), repeats=5)

    Args:
        workload: The requests; see :mod:`ragops.bench.workload`.
        levels: The load levels, sent in a seeded random order in each repetition.
        name: Part of the run folder's name.
        results: Folder of all runs.
        warmup: Requests at the head of each trial that are recorded but not counted.
        repeats: Repetitions of each load level.
        seed: Seed of the arrival times and of the order of load levels.
        fresh: Number the texts of each trial, so that no text is sent twice and no cache is hit; False
            to measure the cache.
        timeout: Seconds until a request is cancelled; twice RAGFlow's own timeout when None.
        order_check: Query, documents and the index of the relevant one, sent before and after the run.
        no_order_check: Why the order is not checked, such as ``random weights``; empty to check it.
        with_limits: Also measure, before the load, the client's overhead and, for a reranker that ragops
            runs, the matrix multiplication limit of the machine; takes about half a minute.
    """

    workload: Workload
    levels: tuple[Level, ...] = (Level.closed(1),)
    name: str = "bench"
    results: Path | str = "results"
    warmup: int = 3
    repeats: int = 1
    seed: int = 1
    fresh: bool = True
    timeout: float | None = None
    order_check: OrderCheck = DEFAULT_CHECK
    no_order_check: str = ""
    with_limits: bool = True

    @property
    def request_timeout(self) -> float:
        """Seconds until a request is cancelled."""
        return self.timeout or 2 * releases.of(self.workload.release or releases.NEWEST).timeout


@dataclass(frozen=True)
class Server:
    """The server that is measured, and what is known of it.

    Args:
        base_url: Address as registered in RAGFlow, ending in ``/v1``.
        model: Served model name.
        api_key: Bearer token; never recorded.
        provenance: Image, model, machine and versions.
        sampler: Called before and after each trial and once a second, in its own thread.
        limit: Matrix multiplication limit of the machine, from :func:`ragops.bench.measure.measure`.
        template_tokens: Tokens that the score template adds to each pair.
    """

    base_url: str
    model: str
    api_key: str = "x"
    provenance: Provenance = UNKNOWN
    sampler: Sampler | None = None
    limit: GemmPeak | None = None
    template_tokens: int = 0


@dataclass(frozen=True)
class Round:
    """One repetition of a load level, or its remaining requests."""

    number: int
    """Of the trial in the run, from 1."""
    level: Level
    repeat: int
    places: tuple[int, ...]
    """Indices of the workload that are measured."""


@dataclass(frozen=True)
class Plan:
    """A run to record, or to resume.

    Args:
        info: ``run.json`` before the first request.
        workload: The requests.
        target: The server.
        before: The run as recorded so far; None for a new run.

    Raises:
        BenchError: There is no load level, one is given twice, or the key is empty.
    """

    info: RunInfo
    workload: Workload
    target: wire.Target
    before: Run | None = None

    def __post_init__(self) -> None:
        info, names = self.info, [level.name for level in self.info.levels]
        if not names or len(set(names)) < len(names) or info.repeats < 1 or info.warmup < 0:
            counts = f"{info.repeats} repeats, {info.warmup} warm-up requests"
            raise BenchError(
                "there is no load level, or one is given twice",
                code="load-refused",
                evidence=f"levels: {', '.join(names) or 'none'}; {counts}",
                hint="give each level once, repeats of at least 1 and a warm-up of at least 0",
            )
        if not self.target.api_key.strip():
            raise BenchError(
                "the key is empty", code="load-refused", hint="leave api_key out if the server asks for none"
            )

    @property
    def session(self) -> int:
        """Number of times that the run has been resumed."""
        return len(self.info.resumed)

    @property
    def total(self) -> int:
        """Requests of all sessions, warm-up included."""
        kept = len(self.before.requests) if self.before else 0
        return kept + sum(self.info.warmup + len(round_.places) for round_ in self.rounds())

    def rounds(self) -> Iterator[Round]:
        """The trials with requests left to measure, in order."""
        kept = self.before.measured if self.before else ()
        done = {(record.level, record.repeat, record.index) for record in kept}
        order = trial_order(self.info.levels, self.info.repeats, self.info.seed)
        for number, (level, repeat) in enumerate(order, start=1):
            planned = range(self.info.planned(level))
            places = tuple(place for place in planned if (level.name, repeat, place) not in done)
            if places:
                yield Round(number, level, repeat, places)

    def encoded(self, round_: Round) -> Trial:
        """The encoded requests: warm-up from the workload's end, then the measured ones."""
        warm = range(self.info.warmup)
        requests = [self._request(round_, -1 - n % len(self.workload.requests), "warmup") for n in warm]
        requests += [self._request(round_, place, "measure") for place in round_.places]
        seed = self.info.seed + round_.repeat + 1000 * self.session
        return Trial(round_.level, round_.repeat, tuple(requests), seed, self.session)

    def _request(self, round_: Round, place: int, phase: Phase) -> EncodedRequest:
        request = self.workload.requests[place]
        query, documents = request.query, request.documents
        if self.info.fresh:
            mark = _mark(round_.number, self.session, phase)
            query, documents = mark + query, tuple(mark + text for text in documents)
        body = wire.encode(self.target.model, query, documents)
        index = place % len(self.workload.requests)
        return EncodedRequest(index, phase, body, len(documents), request.words)


def _mark(number: int, session: int, phase: Phase) -> str:
    """Prefix that makes the texts of each trial unique."""
    letters = ("w" if phase == "warmup" else "") + "r" * session
    return f"{number}{letters}. "


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
