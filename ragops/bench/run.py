"""Plays levels against a reranker and keeps everything in a new folder under ``results/``.

The load itself is in ``load.py``, the folder's form in ``records.py``; nothing here draws a
conclusion, see ``stats.py`` and ``verdict.py`` for that.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.bench import load, order, wire
from ragops.bench.floor import measure_floor
from ragops.bench.level import Level, playing_order
from ragops.bench.order import DEFAULT_CHECK, OrderCheck, OrderReport
from ragops.bench.records import ClientReport, Phase, Provenance, RequestRecord, RunFolder, RunInfo, Sample
from ragops.bench.threads import cancel_when, end, in_any_thread, this
from ragops.errors import BenchError

if TYPE_CHECKING:
    import threading

    import httpx

    from ragops.bench.workload import Workload

Sampler = Callable[[], Sample]

_SAMPLE_EVERY = 1.0

UNKNOWN = Provenance()
"""Where a run comes from when the caller does not say."""


@dataclass(frozen=True)
class Progress:
    """How far a run is; handed to the ``progress`` callback after each request."""

    done: int
    total: int
    errors: int
    latency: float
    """Seconds that the latest request took, from when it was due."""
    level: str
    folder: Path
    """Where the run is kept, also when it is stopped now."""


@dataclass(frozen=True)
class _Plan:
    """What to play, checked."""

    target: wire.Target
    workload: Workload
    levels: tuple[Level, ...]
    name: str
    results: Path
    provenance: Provenance
    warmup: int
    repeats: int
    check: OrderCheck
    no_order_check: str
    seed: int
    fresh: bool
    floor: bool

    def __post_init__(self) -> None:
        names = [level.name for level in self.levels]
        if not names or len(set(names)) < len(names) or self.repeats < 1 or self.warmup < 0:
            counts = f"{self.repeats} repeats, {self.warmup} warm-up requests"
            raise BenchError(
                "there is nothing to play, or a level is named twice",
                evidence=f"levels: {', '.join(names) or 'none'}; {counts}",
                hint="give each level once, repeats of at least 1 and a warm-up of at least 0",
            )
        if not self.target.api_key.strip():
            raise BenchError("the key is empty", hint="leave api_key out if the server asks for none")

    def passes(self) -> list[tuple[Level, int]]:
        return playing_order(self.levels, self.repeats, self.seed)

    def measured(self, level: Level) -> int:
        return min(level.requests or len(self.workload.requests), len(self.workload.requests))

    def total(self) -> int:
        return sum(self.warmup + self.measured(level) for level in self.levels) * self.repeats


async def record(  # noqa: PLR0913 - one keyword for each thing that a run may vary
    *,
    base_url: str,
    model: str,
    workload: Workload,
    levels: tuple[Level, ...],
    name: str,
    results: Path = Path("results"),
    provenance: Provenance = UNKNOWN,
    sampler: Sampler | None = None,
    warmup: int = 3,
    repeats: int = 1,
    progress: Callable[[Progress], None] | None = None,
    order_check: tuple[str, tuple[str, ...], int] = DEFAULT_CHECK,
    no_order_check: str = "",
    timeout: float = wire.RAGFLOW_TIMEOUT,  # noqa: ASYNC109 - of each request, not of this call
    api_key: str = "x",
    seed: int = 1,
    fresh: bool = True,
    floor: bool = False,
    stop: threading.Event | None = None,
) -> Path:
    """Measure, and keep what was measured in a new folder.

    Args:
        base_url: Address as registered in RAGFlow, ending in ``/v1``.
        model: Served model name.
        workload: What to send; see :mod:`ragops.bench.workload`.
        levels: How it arrives; played in a seeded random order, anew in each repeat.
        name: What the run is about; part of the folder's name.
        results: The folder of all runs.
        provenance: Where the run comes from.
        sampler: Called about once a second in a thread of its own.
        warmup: Requests at the head of each pass that are kept but that no figure counts.
        repeats: How often each level is played.
        progress: Called after each request.
        order_check: Query, documents, and the place of the one that answers it.
        no_order_check: Why the order is not checked, such as ``random weights``.
        timeout: Seconds until a request is given up; RAGFlow's 30.
        api_key: Sent as the bearer, and kept nowhere.
        seed: Seed of the arrivals and of the order of levels.
        fresh: Number the queries of each pass, so that no request is sent twice and no cache
            answers for the model.
        floor: Also measure what the client costs by itself.
        stop: When it is set, from any thread, the run ends and keeps what there is.

    Returns:
        The run's folder. A run that is stopped keeps its folder, which then says why.

    Raises:
        BenchError: The server does not answer or sorts wrongly, or the folder can't be made.
    """
    target = wire.Target(base_url, model, api_key, timeout)
    check = OrderCheck(*order_check)
    plan = _Plan(
        target, workload, tuple(levels), name, results, provenance, warmup, repeats,
        check, no_order_check, seed, fresh, floor,
    )  # fmt: skip
    async with wire.client(target) as http:
        report = await _asked_before(plan, http)
        recorder = _Recorder(plan, report, progress)
        return await recorder.run(http, sampler, stop)


async def _asked_before(plan: _Plan, http: httpx.AsyncClient) -> OrderReport:
    check = plan.check
    report = OrderReport(check.query, tuple(check.documents), check.best, skipped=plan.no_order_check)
    if plan.no_order_check:
        return report
    before = await order.ask(http, plan.target, check)
    if not before.right:
        raise order.refusal(before, plan.target)
    return replace(report, before=before)


class _Recorder:
    """Keeps one run: what is known of it, its folder, and how far it is."""

    def __init__(self, plan: _Plan, report: OrderReport, progress: Callable[[Progress], None] | None) -> None:
        self.plan = plan
        self.progress = progress
        self.done = self.errors = self.cpu_ns = 0
        self.sampler_errors: list[str] = []
        now = datetime.now(UTC)
        self.info = _first_info(plan, report, now)
        self.folder = RunFolder(plan.results / _folder_name(now, plan.provenance.machine, plan.name))
        self.folder.write_info(self.info)

    async def run(
        self, http: httpx.AsyncClient, sampler: Sampler | None, stop: threading.Event | None
    ) -> Path:
        """Play all; whatever ends it is named in ``run.json``."""
        watch = asyncio.create_task(self._watch(sampler)) if sampler else None
        stopper = asyncio.create_task(cancel_when(stop, this())) if stop else None
        reason = "ended by an error"
        try:
            await self._play(http)
            if sampler:
                await self._sample(sampler)
            reason = ""
        except asyncio.CancelledError:
            reason = "stopped by the user"
            if stop is None or not stop.is_set():
                raise
        except BaseException as error:
            reason = f"ended by {error!r}"
            raise
        finally:
            await end(watch)
            await end(stopper)
            self._close(reason)
        return self.folder.path

    async def _play(self, http: httpx.AsyncClient) -> None:
        for number, (level, repeat) in enumerate(self.plan.passes(), start=1):
            turn = _turn(self.plan, level, repeat, number)
            began = time.thread_time_ns()
            try:
                await load.play(turn, http, self.plan.target, self._keep)
            finally:
                self.cpu_ns += time.thread_time_ns() - began
        if not self.plan.no_order_check:
            after = await order.ask(http, self.plan.target, self.plan.check)
            self.info = replace(self.info, order=replace(self.info.order, after=after))
        if self.plan.floor:
            found = await measure_floor(self.plan.workload)
            self.info = replace(self.info, client=ClientReport(0, 0, found))

    def _keep(self, record: RequestRecord) -> None:
        self.folder.add_request(record)
        self.done += 1
        self.errors += bool(record.error)
        if self.progress:
            self.progress(
                Progress(
                    self.done, self.plan.total(), self.errors, record.latency, record.level, self.folder.path
                )
            )

    async def _watch(self, sampler: Sampler) -> None:
        while True:
            await self._sample(sampler)
            await asyncio.sleep(_SAMPLE_EVERY)

    async def _sample(self, sampler: Sampler) -> None:
        try:
            self.folder.add_sample(await asyncio.to_thread(sampler))
        except Exception as error:  # noqa: BLE001 - a sampler's fault must not end the run
            self.sampler_errors.append(repr(error)[:200])

    def _close(self, reason: str) -> None:
        floor = self.info.client.floor if self.info.client else None
        self.info = replace(
            self.info,
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            complete=not reason,
            reason=reason,
            client=ClientReport(self.done, self.cpu_ns, floor),
            sampler_errors=tuple(dict.fromkeys(self.sampler_errors))[:20],
        )
        self.folder.write_info(self.info)
        self.folder.close()


def _first_info(plan: _Plan, report: OrderReport, now: datetime) -> RunInfo:
    return RunInfo(
        name=plan.name,
        started=now.isoformat(timespec="seconds"),
        started_ns=time.perf_counter_ns(),
        base_url=plan.target.base_url,
        model=plan.target.model,
        timeout=plan.target.timeout,
        workload=plan.workload.info(),
        levels=plan.levels,
        order_played=tuple(f"{level.name}#{repeat}" for level, repeat in plan.passes()),
        repeats=plan.repeats,
        warmup=plan.warmup,
        seed=plan.seed,
        fresh=plan.fresh,
        order=report,
        provenance=plan.provenance,
    )


def _folder_name(now: datetime, machine: str, name: str) -> str:
    parts = (re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") for text in (machine or "machine", name))
    return "-".join([now.strftime("%Y%m%dT%H%M%SZ"), *(part or "run" for part in parts)])


def _turn(plan: _Plan, level: Level, repeat: int, number: int) -> load.Pass:
    """The requests of one pass: warm-up from the workload's end, then its head."""
    requests = plan.workload.requests
    places: list[tuple[int, Phase]] = [(-1 - n % len(requests), "warmup") for n in range(plan.warmup)]
    places += [(index, "measure") for index in range(plan.measured(level))]
    jobs = []
    for place, phase in places:
        request = requests[place]
        mark = f"{number}{'w' if phase == 'warmup' else ''}. " if plan.fresh else ""
        body = wire.encode(plan.target.model, mark + request.query, request.documents)
        index = place % len(requests)
        jobs.append(load.Job(index, phase, body, len(request.documents), request.words))
    return load.Pass(level, repeat, tuple(jobs), plan.seed + repeat)


record_sync = in_any_thread(record)
"""As :func:`record`, but waits; also inside a running event loop, as in Jupyter. An interrupt
(Ctrl-C, or a notebook's stop button) ends the run and keeps what there is."""
