"""Carries a plan out and keeps everything in the run's folder, whatever ends it."""

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
    """How far a run is; handed to the ``progress`` callback after each request."""

    done: int
    total: int
    errors: int
    latency: float
    """Seconds that the latest request took, from when it was due."""
    level: str
    folder: Path
    """Where the run is kept, also when it is stopped now."""


class Recorder:
    """Keeps one run: what is known of it, its folder, and how far it is.

    Args:
        plan: What to play.
        folder: Where it is kept.
        sampler: Looks at the server; called in a thread of its own.
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
        """Play all; whatever ends it is named in ``run.json``."""
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
        for turn in self.plan.turns():
            encoded = self.plan.encoded(turn)  # beforehand, so that it is not measured
            await self._sample()
            watch = asyncio.create_task(self._watch())
            began = time.thread_time_ns()
            try:
                await load.play(encoded, http, self.plan.target, self._keep)
            finally:
                self.cpu_ns += time.thread_time_ns() - began
                await end(watch)
            await self._sample()
        if not self.info.order.skipped:
            after = await order.ask(http, self.plan.target, self.info.order.check)
            self.info = replace(self.info, order=replace(self.info.order, after=after))

    def _keep(self, record: RequestRecord) -> None:
        self.folder.add_request(self._on_the_runs_clock(record))
        self.done += 1
        self.errors += bool(record.error) and not record.is_cancelled
        if self.progress:
            self.progress(
                Progress(self.done, self.total, self.errors, record.latency, record.level, self.folder.path)
            )
        self._see_whether_gone(record)

    def _on_the_runs_clock(self, record: RequestRecord) -> RequestRecord:
        if not self.shift:
            return record
        times = (record.t_sched, record.t_send, record.t_done)
        t_sched, t_send, t_done = (t + self.shift for t in times)
        return replace(record, t_sched=t_sched, t_send=t_send, t_done=t_done)

    def _see_whether_gone(self, record: RequestRecord) -> None:
        """End the run when nobody has listened for some requests, instead of failing all the others."""
        if record.is_cancelled:
            return
        self.unreached = self.unreached + 1 if record.error.startswith("connection:") else 0
        if self.unreached >= _GONE_AFTER:
            raise BenchError(
                f"the reranker is gone: {_GONE_AFTER} requests in a row found nobody there",
                code="reranker-gone",
                evidence=record.error,
                hint=f"when it is back, go on: ragops bench --resume {self.folder.path}",
            )

    async def _watch(self) -> None:
        while self.sampler:
            await asyncio.sleep(_SAMPLE_EVERY)
            await self._sample()

    async def _sample(self) -> None:
        """Look at the server: before and after each pass, so that its counters tell of that pass alone."""
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
    """Nanoseconds to add to this clock, so that a run goes on where it was: a reboot sets it back."""
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
