"""What a benchmark sends, and sending it on time.

:class:`BenchmarkConfig` is the input of :func:`ragops.bench.record`. A :class:`RunPlan` is pure: it yields
the trials to send. :func:`send_trial` sends one and passes on when each request was due, sent and completed.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ragops.bench import records, wire
from ragops.bench.workload import Workload
from ragops.errors import BenchError
from ragops.ragflow import releases

Store = Callable[[records.RequestRecord], None]
Encoded = tuple[records.RequestRecord, bytes]
"""The record of a request without its times, and its body: encoding is not measured."""
Send = Callable[[Encoded, int], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class BenchmarkConfig:
    """What a benchmark sends, how it arrives, and where the run is stored.

    ::

        config = BenchmarkConfig(workload=ragflow(400), levels=(LoadLevel.closed(1),), repeats=5)

    Args:
        workload: The requests; see :mod:`ragops.bench.workload`.
        levels: The load levels, sent in a seeded random order in each repetition.
        name: Part of the run folder's name.
        results: Folder of all runs.
        warmup: Requests at the head of each trial that are recorded but not counted.
        repeats: Repetitions of each load level.
        seed: Seed of the arrival times and of the order of load levels.
        fresh: Number the texts of each trial, so that no text is sent twice, and don't use the gateway's
            cache; False to measure the caches.
        timeout: Seconds until a request is cancelled; twice RAGFlow's own timeout when None.
        no_order_check: Why the order is not checked, such as ``random weights``; empty to check it.
        with_limits: Also measure, before the load of a reranker that ragops runs, the matrix multiplication
            limit of the machine; takes about half a minute.

    Raises:
        BenchError: There is no load level, one is given twice, or a number is too small.
    """

    workload: Workload
    levels: tuple[records.LoadLevel, ...] = (records.LoadLevel.closed(1),)
    name: str = "bench"
    results: Path | str = "results"
    warmup: int = 3
    repeats: int = 1
    seed: int = 1
    fresh: bool = True
    timeout: float | None = None
    no_order_check: str = ""
    with_limits: bool = True

    def __post_init__(self) -> None:
        names = [level.name for level in self.levels]
        if not names or len(set(names)) < len(names) or self.repeats < 1 or self.warmup < 0:
            counts = f"{self.repeats} repeats, {self.warmup} warm-up requests"
            what, evidence = "invalid load", f"levels: {', '.join(names) or 'none'}; {counts}"
            hint = "give each level once, repeats of at least 1 and a warm-up of at least 0"
            raise BenchError(what, code="load-refused", evidence=evidence, hint=hint)

    @property
    def request_timeout(self) -> float:
        """Seconds until a request is cancelled."""
        return self.timeout or 2 * releases.of_or_nearest(self.workload.release).timeout


@dataclass(frozen=True)
class Trial:
    """One repetition of a load level."""

    level: records.LoadLevel
    requests: tuple[Encoded, ...]
    seed: int
    fresh: bool = True


@dataclass(frozen=True)
class RunPlan:
    """A run to record, or to resume; ``before`` is the run as recorded so far."""

    info: records.RunInfo
    workload: Workload
    before: records.Run | None = None

    @property
    def total(self) -> int:
        """Requests of all sessions, warm-up included."""
        recorded = len(self.before.requests) if self.before else 0
        return recorded + sum(self.info.warmup + len(places) for *_, places in self._incomplete())

    def trials(self) -> Iterator[Trial]:
        """The trials with requests left to measure, in order; each is encoded when it is taken.

        The warm-up is from the workload's end.
        """
        session, count = len(self.info.resumed), len(self.workload.requests)
        for number, level, repeat, places in self._incomplete():
            trial = (number, level, repeat)
            requests = [self._encode(*trial, -1 - n % count, "warmup") for n in range(self.info.warmup)]
            requests += [self._encode(*trial, place, "measure") for place in places]
            seed = self.info.seed + repeat + 1000 * session
            yield Trial(level, tuple(requests), seed, self.info.fresh)

    def _incomplete(self) -> Iterator[tuple[int, records.LoadLevel, int, list[int]]]:
        """Number of the trial from 1, load level, repetition, and places of the requests to measure."""
        measured = self.before.measured if self.before else ()
        done = {(record.level, record.repeat, record.index) for record in measured}
        order = records.trial_order(self.info.levels, self.info.repeats, self.info.seed)
        for number, (level, repeat) in enumerate(order, start=1):
            planned = range(self.info.planned(level))
            if places := [place for place in planned if (level.name, repeat, place) not in done]:
                yield number, level, repeat, places

    def _encode(
        self, number: int, level: records.LoadLevel, repeat: int, place: int, phase: records.Phase
    ) -> Encoded:
        request, prefix, session = self.workload.requests[place], "", len(self.info.resumed)
        if self.info.fresh:  # a prefix that makes the texts of each trial unique
            prefix = f"{number}{'w' * (phase == 'warmup')}{'r' * session}. "
        documents = tuple(prefix + text for text in request.documents)
        body = wire.encode(self.info.model, prefix + request.query, documents, self.workload.release)
        times, index = (0, 0, 0), place % len(self.workload.requests)
        sizes = len(documents), request.words
        record = records.RequestRecord(
            level.name, repeat, phase, index, *sizes, *times, None, None, session=session
        )
        return record, body


async def send_trial(trial: Trial, client: wire.Client, store: Store) -> None:
    """Send every request of a trial; ``store`` gets its record when it ends, fails or is cancelled."""

    async def send(request: Encoded, t_sched: int) -> None:
        (record, body), t_send = request, time.perf_counter_ns()
        try:
            response = await client.post(body, record.documents, fresh=trial.fresh)
        except asyncio.CancelledError:
            response = wire.RerankResponse(t_send, time.perf_counter_ns(), error="cancelled")
            raise
        finally:
            fields = {name: value for name, value in vars(response).items() if name != "scores"}
            store(replace(record, t_sched=t_sched, **fields))

    queue, level = iter(trial.requests), trial.level
    if level.kind == "closed":
        await _send_closed(min(int(level.value), len(trial.requests)), queue, send)
    elif level.kind == "burst":
        await _send_bursts(int(level.value), queue, send)
    else:
        due = records.due_times(level, len(trial.requests), trial.seed)
        await _send_open(due, queue, send)


async def _send_closed(clients: int, queue: Iterator[Encoded], send: Send) -> None:
    async def client() -> None:
        for request in queue:
            await send(request, time.perf_counter_ns())

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())


async def _send_open(due: list[int], queue: Iterator[Encoded], send: Send) -> None:
    start = time.perf_counter_ns()
    async with asyncio.TaskGroup() as group:
        for request, offset in zip(queue, due, strict=True):
            t_sched = start + offset
            await asyncio.sleep(max(0, t_sched - time.perf_counter_ns()) / 1e9)
            group.create_task(send(request, t_sched))


async def _send_bursts(size: int, queue: Iterator[Encoded], send: Send) -> None:
    while burst := tuple(islice(queue, size)):
        t_sched = time.perf_counter_ns()
        async with asyncio.TaskGroup() as group:
            for request in burst:
                group.create_task(send(request, t_sched))
