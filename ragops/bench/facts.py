"""Verdict, provenance and limits of a recorded run as text, for report and site; pure."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

from ragops.bench.counters import disturbances
from ragops.bench.quantiles import seconds
from ragops.bench.stats import figures
from ragops.bench.verdict import verdict
from ragops.errors import BenchError

if TYPE_CHECKING:
    from ragops.bench.records import Run

Fact = tuple[str, str]
"""A name and a value."""

_GIB = 2**30


def headline(run: Run) -> str:
    """The sentence of the verdict, or what was measured instead."""
    try:
        return verdict(run).sentence
    except BenchError:  # a run of another kind of load has no verdict
        work = run.info.workload
        return f"Measured: {work.description}. Loads of this kind give no verdict on RAGFlow's limit."


def judged(run: Run) -> tuple[Fact, ...]:
    """The rows of the verdict; empty for workloads without one."""
    try:
        result = verdict(run)
    except BenchError:
        return ()
    return (*result.rows(), *(("note", note) for note in result.notes if note not in result.sentence))


def stand_ins(run: Run) -> tuple[Fact, ...]:
    """Substitute model and client, if any."""
    origin = run.info.provenance
    kinds = (("substitute model", origin.model_is_stand_in), ("substitute client", origin.client_is_stand_in))
    return tuple((name, reason) for name, reason in kinds if reason)


def origin(run: Run) -> tuple[Fact, ...]:
    """The run, the machine, the software and the method; only what is known."""
    rows = (*_subject(run), *_machine(run), *_software(run), *_method(run))
    return tuple((name, value) for name, value in rows if value)


def _subject(run: Run) -> tuple[Fact, ...]:
    info, made = run.info, run.info.provenance
    digest = made.image_digest.removeprefix("sha256:")
    return (
        ("run", run.path.name),
        ("started", _joined(info.started, *(f"continued {one}" for one in info.resumed))),
        ("complete", "yes" if info.complete else f"no: {info.reason}"),
        ("model", _joined(made.model or info.model, made.model_sha256 and f"sha256 {made.model_sha256}")),
        ("substitute model", made.model_is_stand_in or "no"),
        ("client", made.client_is_stand_in and f"substitute: {made.client_is_stand_in}"),
        ("measured from", made.vantage),
        ("image", _joined(made.image, digest and f"sha256 {digest}")),
        ("vLLM options", shlex.join(made.launch_arguments)),
        ("environment", " ".join(f"{name}={value}" for name, value in made.environment)),
    )


def _machine(run: Run) -> tuple[Fact, ...]:
    made = run.info.provenance
    memory = f"{made.memory_bytes / _GIB:.1f} GiB of memory" if made.memory_bytes else ""
    limits = (
        f"{made.cgroup_cpu_cores:g} cores" if made.cgroup_cpu_cores else "",
        f"{made.cgroup_memory_bytes / _GIB:.2f} GiB of memory" if made.cgroup_memory_bytes else "",
    )
    return (
        ("machine", _joined(made.machine, made.cpu_model, memory)),
        ("CPU features", " ".join(made.cpu_features)),
        ("cores", _joined(made.cores, f"{made.core_count} in all" if made.core_count else "")),
        ("container's limits", _joined(*limits)),
        ("matrix multiplication limit", _limit(run)),
    )


def _limit(run: Run) -> str:
    """The GEMM peak of the machine, and the fraction of it that was reached."""
    limit = run.info.limit
    if limit is None:
        return ""
    each = [
        f"{one.dtype} {one.tflops:.2f} TFLOP/s" if one.tflops else f"{one.dtype}: {one.error}"
        for one in limit.gemms
    ]
    reached = max((row.limit_share or 0 for row in figures(run)), default=0)
    allowed = f"so at most {limit.tokens_per_s:.0f} tokens/s" if limit.tokens_per_s else ""
    return _joined(*each, allowed, f"of which {reached:.0%} were reached" if reached else "")


def _software(run: Run) -> tuple[Fact, ...]:
    made = run.info.provenance
    dirty = ", with changes" if made.git_dirty else ""
    return (
        ("vLLM", made.vllm),
        ("ragops", _joined(made.ragops, made.git_commit and f"commit {made.git_commit}{dirty}")),
        ("Docker", made.docker),
        ("kernel", made.kernel),
        ("Python", made.python),
    )


def _method(run: Run) -> tuple[Fact, ...]:
    info = run.info
    repeats = "once" if info.repeats == 1 else f"{info.repeats} times"
    fresh = "no request sent twice" if info.fresh else "the same texts in each trial, so a cache may be hit"
    return (
        ("workload", info.workload.description),
        ("workload's sha256", info.workload.sha256),
        ("seeds", f"workload {info.workload.seed}, arrivals and order {info.seed}"),
        ("load levels", f"each {repeats}, in the order {', '.join(info.order_played)}; {fresh}"),
        ("warm-up", f"{info.warmup} requests at the head of each trial, not counted"),
        ("timeout", f"{info.timeout:g} s"),
        ("scores", info.order.verdict),
        ("client overhead", _client(run)),
    )


def _client(run: Run) -> str:
    client = run.info.client
    if client is None:
        return ""
    cost = f"{client.cpu_seconds_per_request * 1e3:.1f} ms of CPU a request"
    floor = client.floor
    return _joined(cost, (floor and f"{seconds(floor.p50_ns / 1e9)} against the echo server") or "")


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def not_shown(run: Run) -> tuple[str, ...]:
    """What the run does not show."""
    info = run.info
    unsure = sorted(
        {found.name for row in figures(run) for found in row.latency if found.value is None},
        key=lambda name: float(name[1:]),
    )
    candidates = (
        *(f"{name.capitalize()}: {reason}." for name, reason in stand_ins(run)),
        *(f"{problem}." for problem in run.problems),
        *(f"Disturbed: {line}." for line in disturbances(run)),
        "RAGFlow itself, its search and its chat model are in no number here.",
        f"Too few requests on some load levels for: {', '.join(unsure)}." if unsure else "",
        f"Documents were cut to {info.workload.cut_to} words a pair, so the load is lighter than RAGFlow's."
        if info.workload.cut_to
        else "",
        "One repetition of each load level, so the drift between repetitions is unknown."
        if info.repeats == 1
        else "",
        _one_client(run),
        f"Whether the scores are right: {info.order.verdict}."
        if info.order.skipped or info.order.failed
        else "",
        "CPU, memory and vLLM's queue: no samples were taken." if not run.samples else "",
        "The client's overhead was not measured." if not (info.client and info.client.floor) else "",
        "The matrix multiplication limit of the machine was not measured."
        if not (info.limit and info.limit.tokens_per_s)
        else "",
        "Other machines, other models, other days: this is one run.",
    )
    return tuple(one for one in candidates if one)


def _one_client(run: Run) -> str:
    most = max((level.clients or math.inf for level in run.info.levels), default=0)
    return "Several concurrent clients were not measured." if most == 1 else ""
