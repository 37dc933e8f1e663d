"""Records a run: plays levels against a reranker and keeps everything below ``results/``.

The load is in ``load.py``, what to send in ``plan.py``, the keeping in ``recorder.py``; nothing here
draws a conclusion, see ``stats.py`` and ``verdict.py`` for that.
"""

from __future__ import annotations

import re
import time
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.bench import order, wire
from ragops.bench.floor import measure_floor
from ragops.bench.folder import RunFolder, load_run
from ragops.bench.level import playing_order
from ragops.bench.order import DEFAULT_CHECK, OrderReport
from ragops.bench.plan import Plan
from ragops.bench.recorder import Progress, Recorder, Sampler
from ragops.bench.records import ClientReport, Limit, Provenance, RunInfo
from ragops.bench.threads import in_any_thread
from ragops.bench.workload import again
from ragops.errors import BenchError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ragops.bench.level import Level
    from ragops.bench.workload import Workload

__all__ = ["UNKNOWN", "Progress", "Sampler", "record", "record_sync", "resume", "resume_sync"]

UNKNOWN = Provenance()
"""Where a run comes from when the caller does not say."""

_MUST_STAY = ("image_digest", "model_sha256", "launch_arguments", "cores", "cpu_model")


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
    limit: Limit | None = None,
    template_tokens: int = 0,
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
        sampler: Called before and after each pass and once a second, in a thread of its own.
        warmup: Requests at the head of each pass that are kept but that no figure counts.
        repeats: How often each level is played.
        progress: Called after each request.
        order_check: Query, documents, and the place of the one that answers it.
        no_order_check: Why the order is not checked, such as ``random weights``.
        timeout: Seconds until a request is given up; RAGFlow's 30.
        api_key: Sent as the bearer, and kept nowhere.
        seed: Seed of the arrivals and of the order of levels.
        fresh: Number the queries and documents of each pass, so that no text is sent twice and no
            cache answers for the model; False where the cache is what is measured.
        floor: Also measure what the client costs by itself, beforehand.
        limit: What the machine could do at most, from :func:`ragops.limit.measure`.
        template_tokens: Tokens that the server's score template adds to each pair.
        stop: When it is set, from any thread, the run ends and keeps what there is.

    Returns:
        The run's folder. A run that is stopped keeps its folder, which then says why.

    Raises:
        BenchError: The server does not answer or sorts wrongly, the folder can't be made or written
            to, or the server went away; what was recorded stays.
    """
    info = RunInfo(
        name=name,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        started_ns=time.perf_counter_ns(),
        base_url=base_url,
        model=model,
        timeout=timeout,
        workload=workload.info(),
        levels=tuple(levels),
        order_played=tuple(f"{one.name}#{n}" for one, n in playing_order(tuple(levels), repeats, seed)),
        repeats=repeats,
        warmup=warmup,
        seed=seed,
        fresh=fresh,
        order=OrderReport.of(order.OrderCheck(*order_check), no_order_check),
        provenance=provenance,
        limit=limit,
        template_tokens=template_tokens,
    )
    plan = Plan(info, workload, wire.Target(base_url, model, api_key, timeout))
    return await _recorded(plan, results, sampler, progress, stop, floor)


async def _recorded(
    plan: Plan,
    results: Path,
    sampler: Sampler | None,
    progress: Callable[[Progress], None] | None,
    stop: threading.Event | None,
    floor: bool,
) -> Path:
    async with wire.client() as http:
        plan = replace(plan, info=await _prepared(plan, http, floor=floor))
        folder = RunFolder(results / _folder_name(plan.info))
        return await Recorder(plan, folder, sampler, progress).run(http, stop)


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
    """Go on with a run that was cut short: play what is missing, into the same folder.

    Args:
        path: The run's folder.
        workload: Its texts where they were the user's own; otherwise they are drawn again.
        provenance: What is measured now; it must be what was measured before.
        sampler: As for :func:`record`.
        progress: As for :func:`record`.
        api_key: As for :func:`record`.
        stop: As for :func:`record`.

    Returns:
        The run's folder.

    Raises:
        BenchError: Nothing is missing, the texts or the server are not the same, or as :func:`record`.
    """
    before = load_run(path)
    info = before.info
    if info.complete:
        raise BenchError(f"{path} is complete", hint="record a new run instead")
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
    """What is known once the order was asked for and the client's own cost measured."""
    info, report = plan.info, plan.info.order
    if not report.skipped:
        before = await order.ask(http, plan.target, report.check)
        if not before.right:
            raise order.refusal(before, plan.target)
        report = replace(report, before=report.before or before)
    found = await measure_floor(plan.workload) if floor else None
    client = ClientReport(0, 0, found) if found else info.client
    return replace(info, order=report, client=client)


def _refuse_other(info: RunInfo, workload: Workload, provenance: Provenance | None) -> None:
    if workload.sha256 != info.workload.sha256:
        raise BenchError(
            "these are not the texts of that run",
            evidence=f"sha256 {workload.sha256[:12]}, the run has {info.workload.sha256[:12]}",
            hint="bring the same file along",
        )
    if provenance is None:
        return
    pairs = [
        (one.name, getattr(info.provenance, one.name), getattr(provenance, one.name))
        for one in fields(provenance)
    ]
    changed = [f"{name}: {old}, now {new}" for name, old, new in pairs if name in _MUST_STAY and old != new]
    if changed:
        raise BenchError(
            "the reranker is not the one that the run began with",
            evidence="\n".join(changed),
            hint="record a new run, and put the two side by side with ragops compare",
        )


def _folder_name(info: RunInfo) -> str:
    names = (info.provenance.machine or "machine", info.name)
    parts = (re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") for text in names)
    moment = datetime.fromisoformat(info.started).strftime("%Y%m%dT%H%M%SZ")
    return "-".join([moment, *(part or "run" for part in parts)])


record_sync = in_any_thread(record)
"""As :func:`record`, but waits; also inside a running event loop, as in Jupyter. An interrupt
(Ctrl-C, or a notebook's stop button) ends the run and keeps what there is."""

resume_sync = in_any_thread(resume)
"""As :func:`resume`, but waits; see :func:`record_sync`."""
