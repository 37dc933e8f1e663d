"""Run coroutines from synchronous code, and cancel them.

Execute a plan, and store every request in the run's folder, whatever ends the run.

Record a benchmark run: send each load level to a reranker, store every request below ``results/``.

``load.py`` sends, ``plan.py`` says what, ``recorder.py`` stores; ``stats.py`` and ``verdict.py`` evaluate.
"""

from __future__ import annotations

import asyncio
import functools
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from ragops.bench import load, order, wire
from ragops.bench.load import Plan
from ragops.bench.order import OrderReport
from ragops.bench.overhead import measure_overhead
from ragops.bench.records import ClientReport, RunFolder, RunInfo, load_run, trial_order
from ragops.bench.workload import again
from ragops.errors import BenchError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Coroutine

    from ragops.bench.load import BenchmarkConfig, Sampler, Server
    from ragops.bench.records import Provenance, RequestRecord
    from ragops.bench.workload import Workload

P = ParamSpec("P")
T = TypeVar("T")

_STOP_EVERY = 0.1


async def cancel_when(stop: threading.Event, task: asyncio.Task[Any]) -> None:
    """Cancel a task as soon as the event is set."""
    while not stop.is_set():  # noqa: ASYNC110 - it is set in another thread, which knows no loop
        await asyncio.sleep(_STOP_EVERY)
    task.cancel()


def this() -> asyncio.Task[Any]:
    """The task that runs."""
    return cast("asyncio.Task[Any]", asyncio.current_task())


async def end(watch: asyncio.Task[None] | None) -> None:
    """Cancel a task, if there is one, and wait until it has ended."""
    if watch is not None:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


def in_any_thread(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Blocking form of a coroutine function, also inside a running event loop, as in Jupyter."""

    @functools.wraps(function)
    def blocking(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(function(*args, **kwargs))
        return _in_thread(function(*args, **kwargs))

    return blocking


def _in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run in a thread with a loop of its own, and pass an interrupt on to it."""
    handle: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def registered() -> T:
        handle.append((asyncio.get_running_loop(), this()))
        return await coroutine

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(asyncio.run, registered())
        try:
            return job.result()
        except KeyboardInterrupt:
            for loop, task in handle:
                loop.call_soon_threadsafe(task.cancel)
            raise


_SAMPLE_EVERY = 1.0
_GONE_AFTER = 5
_SAME_CLOCK = 5_000_000_000


@dataclass(frozen=True)
class Progress:
    """Progress of a run, passed to the ``progress`` callback after each request."""

    done: int
    total: int
    errors: int
    latency: float
    """Seconds that the latest request took, from when it was due."""
    level: str
    folder: Path
    """The run's folder."""


class Recorder:
    """Records one run.

    Args:
        plan: The trials.
        folder: Where to store them.
        sampler: Reads the server's counters; called in its own thread.
        progress: Called after each request.
    """

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        sampler: Sampler | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.plan, self.folder = plan, folder
        self.sampler, self.progress = sampler, progress
        self.info = plan.info
        self.total = plan.total
        kept = plan.before.requests if plan.before else ()
        self.done = len(kept)
        self.errors = sum(bool(one.error) and not one.is_cancelled for one in kept)
        self.cpu_ns = self.info.client.cpu_ns if self.info.client else 0
        self.unreached = 0
        self.shift = _shift(plan)
        self.sampler_errors = list(self.info.sampler_errors)
        folder.write_info(self.info)

    async def run(self, http: wire.Client, stop: threading.Event | None) -> Path:
        """Send everything; ``run.json`` records the reason when it ends early."""
        stopper = asyncio.create_task(cancel_when(stop, this())) if stop else None
        reason = "ended by an error"
        try:
            await self._play(http)
            reason = ""
        except asyncio.CancelledError:
            reason = "stopped by the user"
            if stop is None or not stop.is_set():
                raise
        except BaseException as error:
            reason = f"ended by {_root(error)!r}"
            if isinstance(_root(error), BenchError):
                raise _root(error) from error
            raise
        finally:
            await end(stopper)
            self._close(reason)
        return self.folder.path

    async def _play(self, http: wire.Client) -> None:
        for round_ in self.plan.rounds():
            trial = self.plan.encoded(round_)
            await self._sample()
            watch = asyncio.create_task(self._watch())
            began = time.thread_time_ns()
            try:
                await load.play(trial, http, self.plan.target, self._store)
            finally:
                self.cpu_ns += time.thread_time_ns() - began
                await end(watch)
            await self._sample()
        if not self.info.order.skipped:
            after = await order.ask(http, self.plan.target, self.info.order.check)
            self.info = replace(self.info, order=replace(self.info.order, after=after))

    def _store(self, record: RequestRecord) -> None:
        self.folder.add_request(self._on_run_clock(record))
        self.done += 1
        self.errors += bool(record.error) and not record.is_cancelled
        if self.progress:
            self.progress(
                Progress(self.done, self.total, self.errors, record.latency, record.level, self.folder.path)
            )
        self._check_reachable(record)

    def _on_run_clock(self, record: RequestRecord) -> RequestRecord:
        if not self.shift:
            return record
        times = (record.t_sched, record.t_send, record.t_done)
        t_sched, t_send, t_done = (t + self.shift for t in times)
        return replace(record, t_sched=t_sched, t_send=t_send, t_done=t_done)

    def _check_reachable(self, record: RequestRecord) -> None:
        """End the run after some connection errors in a row, instead of failing all other requests."""
        if record.is_cancelled:
            return
        self.unreached = self.unreached + 1 if record.error.startswith("connection:") else 0
        if self.unreached >= _GONE_AFTER:
            raise BenchError(
                f"the reranker is gone: {_GONE_AFTER} connection errors in a row",
                code="reranker-gone",
                evidence=record.error,
                hint=f"when it runs again: ragops bench --resume {self.folder.path}",
            )

    async def _watch(self) -> None:
        while self.sampler:
            await asyncio.sleep(_SAMPLE_EVERY)
            await self._sample()

    async def _sample(self) -> None:
        """Sample before and after each trial, so that the differences are those of the trial."""
        if self.sampler is None:
            return
        try:
            sample = await asyncio.to_thread(self.sampler)
        except Exception as error:  # noqa: BLE001 - a sampler's fault must not end the run
            self.sampler_errors.append(repr(error)[:200])
        else:
            self.folder.add_sample(replace(sample, t=sample.t + self.shift))

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
        try:
            self.folder.write_info(self.info)
        except BenchError:
            if not reason:
                raise
        finally:
            self.folder.close()


def _shift(plan: Plan) -> int:
    """Nanoseconds to add to this clock, which a reboot resets, to continue the clock of the run."""
    if plan.before is None:
        return 0
    since = datetime.now(UTC) - datetime.fromisoformat(plan.info.started)
    shift = plan.info.started_ns + int(since.total_seconds() * 1e9) - time.perf_counter_ns()
    return shift if abs(shift) > _SAME_CLOCK else 0


def _root(error: BaseException) -> BaseException:
    """The first error of ours inside a group, else the error itself."""
    if isinstance(error, BaseExceptionGroup):
        own = error.subgroup(BenchError)
        return _root(own.exceptions[0]) if own else error
    return error


__all__ = ["Progress", "record", "record_sync", "resume", "resume_sync"]

_MUST_STAY = ("image_digest", "model_sha256", "launch_arguments", "cores", "cpu_model")


async def record(
    server: Server,
    config: BenchmarkConfig,
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Path:
    """Measure a server, and record the run in a new folder.

    Args:
        server: What is measured.
        config: What to send, and where to store the run.
        progress: Called after each request.
        stop: Ends the run when it is set, from any thread.

    Returns:
        The run's folder; of a run that was stopped, what was recorded until then.

    Raises:
        BenchError: The server does not respond or ranks wrongly, the folder is not writable, or the
            server stopped responding; what was recorded stays.
    """
    timeout = config.request_timeout
    order_of_trials = trial_order(tuple(config.levels), config.repeats, config.seed)
    info = RunInfo(
        name=config.name,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        started_ns=time.perf_counter_ns(),
        base_url=server.base_url,
        model=server.model,
        timeout=timeout,
        workload=config.workload.info(),
        levels=tuple(config.levels),
        order_played=tuple(f"{level.name}#{repeat}" for level, repeat in order_of_trials),
        repeats=config.repeats,
        warmup=config.warmup,
        seed=config.seed,
        fresh=config.fresh,
        order=OrderReport.of(order.OrderCheck(*config.order_check), config.no_order_check),
        provenance=server.provenance,
        limit=server.limit,
        template_tokens=server.template_tokens,
    )
    target = wire.Target(server.base_url, server.model, server.api_key, timeout)
    plan = Plan(info, config.workload, target)
    async with wire.client() as http:
        plan = replace(plan, info=await _prepared(plan, http, floor=config.with_limits))
        folder = RunFolder(Path(config.results) / _folder_name(plan.info))
        return await Recorder(plan, folder, server.sampler, progress).run(http, stop)


async def resume(  # noqa: PLR0913 - one keyword for each thing that a run is continued with
    path: Path,
    *,
    workload: Workload | None = None,
    provenance: Provenance | None = None,
    sampler: Sampler | None = None,
    progress: Callable[[Progress], None] | None = None,
    api_key: str = "x",
    stop: threading.Event | None = None,
) -> Path:
    """Resume an incomplete run: send the missing requests, into the same folder.

    Args:
        path: The run's folder.
        workload: The requests where they were the user's own; otherwise they are generated again.
        provenance: Of the server now; image, model and cores must not have changed.
        sampler: As for :func:`record`.
        progress: As for :func:`record`.
        api_key: As for :func:`record`.
        stop: As for :func:`record`.

    Returns:
        The run's folder.

    Raises:
        BenchError: The run is complete, the requests or the server changed, or as :func:`record`.
    """
    before = load_run(path)
    info = before.info
    if info.complete:
        raise BenchError(
            f"{path} is complete", code="run-not-continued", hint="record a new run instead", file=path
        )
    texts = workload or again(info.workload)
    _refuse_other(info, texts, provenance)
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    info = replace(info, resumed=(*info.resumed, moment), reason="still running")
    plan = Plan(info, texts, wire.Target(info.base_url, info.model, api_key, info.timeout), before)
    async with wire.client() as http:
        checked = await _prepared(plan, http, floor=False)
        folder = RunFolder(before.path, again=True)
        return await Recorder(replace(plan, info=checked), folder, sampler, progress).run(http, stop)


async def _prepared(plan: Plan, http: wire.Client, *, floor: bool) -> RunInfo:
    """``run.json`` with the order check and the client's overhead."""
    info, report = plan.info, plan.info.order
    if not report.skipped:
        before = await order.ask(http, plan.target, report.check)
        if not before.right:
            raise order.refusal(before, plan.target)
        report = replace(report, before=report.before or before)
    client = ClientReport(0, 0, await measure_overhead(plan.workload)) if floor else info.client
    return replace(info, order=report, client=client)


def _refuse_other(info: RunInfo, workload: Workload, provenance: Provenance | None) -> None:
    if workload.sha256 != info.workload.sha256:
        raise BenchError(
            "these are not the requests of that run",
            code="run-not-continued",
            evidence=f"sha256 {workload.sha256[:12]}, the run has {info.workload.sha256[:12]}",
            hint="give the same file with --workload",
        )
    if provenance is None:
        return
    changed = []
    for name in _MUST_STAY:
        before, now = getattr(info.provenance, name), getattr(provenance, name)
        if before != now:
            changed.append(f"{name}: {before}, now {now}")
    if changed:
        raise BenchError(
            "the reranker is not the one that the run began with",
            code="run-not-continued",
            evidence="\n".join(changed),
            hint="record a new run, and compare the two with ragops compare",
        )


def _folder_name(info: RunInfo) -> str:
    names = (info.provenance.machine or "machine", info.name)
    parts = (re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") for text in names)
    moment = datetime.fromisoformat(info.started).strftime("%Y%m%dT%H%M%SZ")
    return "-".join([moment, *(part or "run" for part in parts)])


record_sync = in_any_thread(record)
"""Blocking form of :func:`record`, also inside a running event loop, as in Jupyter. Ctrl-C ends the run
and keeps what was recorded."""

resume_sync = in_any_thread(resume)
"""Blocking form of :func:`resume`; see :func:`record_sync`."""
