"""Execute a plan, and store every request in the run's folder, whatever ends the run."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ragops.bench import load, order
from ragops.bench.records import ClientReport
from ragops.bench.threads import cancel_when, end, this
from ragops.errors import BenchError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from ragops.bench import wire
    from ragops.bench.folder import RunFolder
    from ragops.bench.plan import Plan, Sampler
    from ragops.bench.records import RequestRecord

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
