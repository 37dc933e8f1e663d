"""Record a benchmark run: send each trial on time, and store every request below ``results/``.

:func:`record` and :func:`resume` plan and execute; the run's folder (``records.py``) keeps what was recorded,
whatever ends the run. ``statistics.py`` and ``report.py`` evaluate it.
"""

import asyncio
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from ragops import progress
from ragops.bench import records, wire
from ragops.bench.wire import Server
from ragops.bench.workload import Workload, regenerate
from ragops.errors import BenchError
from ragops.ragflow import releases
from ragops.ragflow.api import KEY_VARIABLE

_log = logging.getLogger(__name__)

_STOP_CHECK_S = 0.1
_SAMPLE_S = 1.0
_UNREACHABLE_AFTER = 5
_MUST_STAY = ("image_digest", "model_sha256", "launch_arguments", "gateway", "cores", "cpu_model")
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


def record(
    server: Server,
    config: BenchmarkConfig,
    *,
    stop: threading.Event | None = None,
) -> Path:
    """Measure a server, and record the run in a new folder.

    It blocks, also inside a running event loop, as in Jupyter, and reports to :mod:`ragops.progress`. Ctrl-C
    ends the run and keeps what was recorded.

    Args:
        server: What is measured.
        config: What to send, and where to store the run.
        stop: Ends the run when it is set, from any thread.

    Returns:
        The run's folder; a stopped run is incomplete.

    Raises:
        BenchError: The server does not respond or ranks wrongly, the folder is not writable, or the
            server stopped responding; what was recorded stays.
    """
    order = records.trial_order(config.levels, config.repeats, config.seed)
    info = records.RunInfo(
        name=config.name,
        started=_now(),
        started_ns=time.perf_counter_ns(),
        base_url=server.base_url,
        model=server.model,
        timeout=config.timeout or 2 * releases.of_or_nearest(config.workload.release).timeout,
        workload=config.workload.info(),
        levels=config.levels,
        order_played=tuple(f"{level.name}#{repeat}" for level, repeat in order),
        repeats=config.repeats,
        warmup=config.warmup,
        seed=config.seed,
        fresh=config.fresh,
        order=records.OrderReport(skipped=config.no_order_check or server.no_order_check),
        provenance=server.provenance,
        limit=server.limit,
    )
    names = (info.provenance.machine or "machine", info.name)
    parts = (re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "run" for text in names)
    moment = datetime.fromisoformat(info.started).strftime("%Y%m%dT%H%M%SZ")
    path = Path(config.results) / "-".join([moment, *parts])
    return _execute(RunPlan(info, config.workload), path, server, stop)


def resume(
    path: Path,
    server: Server | None = None,
    *,
    workload: Workload | None = None,
    stop: threading.Event | None = None,
) -> Path:
    """Resume an incomplete run: send the missing requests, into the same folder; blocks as :func:`record`.

    Args:
        path: The run's folder.
        server: The server, with its key and counters; image, model and cores must not have changed.
        workload: The user's own requests; generated workloads are generated again.
        stop: Ends the run when it is set, from any thread.

    Returns:
        The run's folder.

    Raises:
        BenchError: The run is complete, the requests or the server changed, or as :func:`record`.
    """
    before = records.load_run(path)
    info = before.info
    rebooted = info.started_ns > time.perf_counter_ns()
    if info.complete or rebooted:
        what = f"the machine was restarted since {path} began" if rebooted else f"{path} is complete"
        raise BenchError(what, code="run-not-continued", hint="record a new run instead", file=path)
    texts = workload or regenerate(info.workload)
    server = server or Server(info.base_url, info.model)
    _refuse_changes(info, texts, server.provenance)
    resumed = replace(info, resumed=(*info.resumed, _now()), reason="still running")
    plan = RunPlan(resumed, texts, before)
    return _execute(plan, path, replace(server, model=info.model), stop)


def same_load(info: records.RunInfo, results: Path, workload: Workload | None = None) -> BenchmarkConfig:
    """The texts and the load of a recorded run, to record them again.

    Args:
        info: Of the recorded run.
        results: Folder for the new run.
        workload: The user's own requests; generated workloads are generated again.
    """
    texts = workload or regenerate(info.workload)
    _refuse_changes(info, texts, records.Provenance())
    same: dict[str, Any] = {
        name: getattr(info, name)
        for name in ("levels", "name", "warmup", "repeats", "seed", "fresh", "timeout")
    }
    skipped = info.order.skipped
    own = skipped != info.provenance.model_is_stand_in  # else the reason is of the model that was served
    return BenchmarkConfig(texts, results=results, no_order_check=skipped if own else "", **same)


def _execute(plan: RunPlan, path: Path, server: Server, stop: threading.Event | None) -> Path:
    """Send a plan; inside a running event loop in a thread, which an interrupt stops."""
    stop = stop or threading.Event()

    async def run() -> Path:
        with closing(wire.Client(server, plan.info.timeout, plan.info.workload.release)) as client:
            checked = replace(plan, info=await _check_order_before(plan.info, client))
            folder = records.RunFolder(path, resume=plan.before is not None)
            return await _Recorder(checked, folder, client).run(stop)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(copy_context().run, asyncio.run, run())
        try:
            return job.result()
        except KeyboardInterrupt:
            stop.set()
            raise


class _Recorder:
    """Executes a plan; the sampler runs in its own thread, progress is reported after each request."""

    def __init__(self, plan: RunPlan, folder: records.RunFolder, client: wire.Client) -> None:
        self.plan, self.folder, self.client = plan, folder, client
        self.sampler = client.server.sampler
        self.info, self.total = plan.info, plan.total
        recorded = plan.before.requests if plan.before else ()
        self.done = len(recorded)
        self.errors = sum(bool(record.error) and not record.is_cancelled for record in recorded)
        self.cpu_ns = self.info.client.cpu_ns if self.info.client else 0
        self.connection_errors = 0
        self.sampler_errors = list(self.info.sampler_errors)
        folder.write_info(self.info)

    async def run(self, stop: threading.Event) -> Path:
        """Send all requests; if the run ends early, ``run.json`` records the reason."""
        reason = "ended by an error"
        try:
            async with _background(_cancel_when(stop, asyncio.current_task())):
                await self._send_trials()
            reason = ""
        except asyncio.CancelledError:
            reason = "stopped by the user"
            _log.info("continue with: ragops bench --resume %s", self.folder.path)
            if not stop.is_set():
                raise
        except BaseException as error:
            reason = f"ended by {_root(error)!r}"
            if isinstance(_root(error), BenchError):
                raise _root(error) from error
            raise
        finally:
            self._close(reason)
        return self.folder.path

    async def _send_trials(self) -> None:
        """Sample before and after each trial, so that the differences are those of the trial."""
        for trial in self.plan.trials():
            await self._sample()
            async with _background(self._sample_repeatedly()):
                began = time.thread_time_ns()
                try:
                    await send_trial(trial, self.client, self._store)
                finally:
                    self.cpu_ns += time.thread_time_ns() - began
            await self._sample()
        if not (order := self.info.order).skipped:
            after = await check_order(self.client, order)
            self.info = replace(self.info, order=replace(order, after=after))

    def _store(self, record: records.RequestRecord) -> None:
        self.folder.add(record)
        self.done += 1
        if not record.is_cancelled:
            self.errors += bool(record.error)
            is_unreachable = record.error.startswith("connection:")
            self.connection_errors = self.connection_errors + 1 if is_unreachable else 0
        text = f"requests, {self.errors} errors ({record.level}, {record.latency:.2f} s)"
        progress.advance(self.done, self.total, text)
        if self.connection_errors >= _UNREACHABLE_AFTER:  # instead of failing all other requests
            what = f"the reranker is unreachable: {_UNREACHABLE_AFTER} connection errors in a row"
            hint = f"start the reranker, then resume: ragops bench --resume {self.folder.path}"
            raise BenchError(what, code="reranker-gone", evidence=record.error, hint=hint)

    async def _sample_repeatedly(self) -> None:
        while self.sampler:
            await asyncio.sleep(_SAMPLE_S)
            await self._sample()

    async def _sample(self) -> None:
        if self.sampler is None:
            return
        try:
            sample = await asyncio.to_thread(self.sampler)
        except Exception as error:  # noqa: BLE001 - a sampler's fault must not end the run
            self.sampler_errors.append(repr(error)[:200])
        else:
            self.folder.add(sample)

    def _close(self, reason: str) -> None:
        self.info = replace(
            self.info,
            complete=not reason,
            reason=reason,
            client=records.ClientReport(self.done, self.cpu_ns),
            sampler_errors=tuple(dict.fromkeys(self.sampler_errors))[:20],
        )
        try:
            self.folder.write_info(self.info)
        except BenchError:
            if not reason:
                raise
        finally:
            self.folder.close()


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


async def _cancel_when(stop: threading.Event, task: asyncio.Task[Any] | None) -> None:
    while not stop.is_set():  # noqa: ASYNC110 - set in another thread, which has no event loop
        await asyncio.sleep(_STOP_CHECK_S)
    if task:
        task.cancel()


@asynccontextmanager
async def _background(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine until the block ends, then raise its errors."""
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def check_order(client: wire.Client, check: records.OrderReport) -> records.OrderResult:
    """Send an order check with each document first in turn, so that no position passes by chance.

    The result is the first if all were right, else the first wrong one, with scores in the check's order.
    """
    count, results = len(check.documents), []
    for first in range(count):
        rotated = check.documents[first:] + check.documents[:first]
        body = wire.encode(client.server.model, check.query, rotated, client.release)
        response = await client.post(body, count)
        scores = response.scores[count - first :] + response.scores[: count - first]
        others = scores[: check.best] + scores[check.best + 1 :]
        right = not response.error and scores[check.best] > max(others)
        results.append(records.OrderResult(right, scores, response.error))
    wrong = [result for result in results if not result.right]
    return (wrong or results)[0]


async def _check_order_before(info: records.RunInfo, client: wire.Client) -> records.RunInfo:
    """``run.json`` with the result of the order check; an error when it is wrong."""
    if info.order.skipped:
        return info
    result = await check_order(client, info.order)
    if result.error:
        what, hint = f"{client.url} did not respond", "ragops status shows its state and served model name"
        if result.error.startswith("HTTP 401"):
            hint = f"set {KEY_VARIABLE} to the server's key, or use --key-file"
        raise BenchError(what, code="server-silent", evidence=result.error, hint=hint, url=str(client.url))
    if not result.right:
        what = f"{info.model} ranks the documents of a known query wrongly, so its speed is not measured"
        evidence = f"scores: {', '.join(f'{score:.3f}' for score in result.scores)}"
        hint = "check score template and hf-overrides; for random weights set no_order_check='random weights'"
        raise BenchError(what, code="order-wrong", evidence=evidence, hint=hint, url=str(client.url))
    return replace(info, order=replace(info.order, before=info.order.before or result))


def _refuse_changes(info: records.RunInfo, workload: Workload, provenance: records.Provenance) -> None:
    code = "run-not-continued"
    if workload.sha256 != info.workload.sha256:
        evidence = f"sha256 {workload.sha256[:12]}, the run has {info.workload.sha256[:12]}"
        hint = "use the same workload file: --workload FILE"
        raise BenchError(
            "the workload differs from the workload of the run", code=code, evidence=evidence, hint=hint
        )
    changes = []
    for name in () if provenance == records.Provenance() else _MUST_STAY:
        before, now = getattr(info.provenance, name), getattr(provenance, name)
        if before != now:
            changes.append(f"{name}: {before}, now {now}")
    if changes:
        what, hint = "the reranker has changed since the run began", "record a new run, then ragops compare"
        raise BenchError(what, code=code, evidence="\n".join(changes), hint=hint)


def _root(error: BaseException) -> BaseException:
    """The first ``BenchError`` of an exception group, else the error itself."""
    if isinstance(error, BaseExceptionGroup):
        own = error.subgroup(BenchError)
        return _root(own.exceptions[0]) if own else error
    return error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
