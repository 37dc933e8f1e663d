"""Record a benchmark run: send each load level to a reranker, store every request below ``results/``.

``load.py`` sends, ``plan.py`` says what, ``recorder.py`` stores; ``stats.py`` and ``verdict.py`` evaluate.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.bench import order, wire
from ragops.bench.floor import measure_overhead
from ragops.bench.folder import RunFolder, load_run
from ragops.bench.level import trial_order
from ragops.bench.order import OrderReport
from ragops.bench.plan import Plan
from ragops.bench.recorder import Progress, Recorder
from ragops.bench.records import ClientReport, RunInfo
from ragops.bench.threads import in_any_thread
from ragops.bench.workload import again
from ragops.errors import BenchError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ragops.bench.plan import BenchmarkConfig, Sampler, Server
    from ragops.bench.records import Provenance
    from ragops.bench.workload import Workload

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
