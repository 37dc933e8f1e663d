"""Where a recorded run comes from and what it does not show, in words; pure.

The report and the site show these, so that both say the same.
"""

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
    """The sentence that answers whether RAGFlow's calls fit, or what was measured instead."""
    try:
        return verdict(run).sentence
    except BenchError:  # a run of another kind of load has no verdict
        work = run.info.workload
        return f"Measured: {work.description}. Loads of this kind give no verdict on RAGFlow's limit."


def judged(run: Run) -> tuple[Fact, ...]:
    """What stands behind the headline and is not in it; nothing for loads that give no verdict."""
    try:
        result = verdict(run)
    except BenchError:
        return ()
    return (*result.rows(), *(("note", note) for note in result.notes if note not in result.sentence))


def stand_ins(run: Run) -> tuple[Fact, ...]:
    """What stands in for what; empty when nothing does."""
    origin = run.info.provenance
    kinds = (("stand-in model", origin.model_is_stand_in), ("stand-in client", origin.client_is_stand_in))
    return tuple((name, said) for name, said in kinds if said)


def origin(run: Run) -> tuple[Fact, ...]:
    """The run, the machine, what was served and how it was measured; only what is known."""
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
        ("stand-in model", made.model_is_stand_in or "no"),
        ("client", made.client_is_stand_in and f"a stand-in: {made.client_is_stand_in}"),
        ("measured from", made.vantage),
        ("image", _joined(made.image, digest and f"sha256 {digest}")),
        ("launch arguments", shlex.join(made.launch_arguments)),
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
    """What the machine's multiplications allow, and what share of it was reached."""
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
    fresh = "no request sent twice" if info.fresh else "requests sent again as they were: a cache may answer"
    return (
        ("workload", info.workload.description),
        ("workload's sha256", info.workload.sha256),
        ("seeds", f"workload {info.workload.seed}, arrivals and order {info.seed}"),
        ("played", f"each load {repeats}, in the order {', '.join(info.order_played)}; {fresh}"),
        ("warm-up", f"{info.warmup} requests at the head of each pass, in no figure"),
        ("given up after", f"{info.timeout:g} s"),
        ("scores", info.order.verdict),
        ("client's own cost", _client(run)),
    )


def _client(run: Run) -> str:
    client = run.info.client
    if client is None:
        return ""
    cost = f"{client.cpu_seconds_per_request * 1e3:.1f} ms of CPU a request"
    floor = client.floor
    return _joined(
        cost, (floor and f"{seconds(floor.p50_ns / 1e9)} against a server that takes no time") or ""
    )


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def not_shown(run: Run) -> tuple[str, ...]:
    """What a reader might take from this run and must not."""
    info = run.info
    unsure = sorted(
        {found.name for row in figures(run) for found in row.latency if found.value is None},
        key=lambda name: float(name[1:]),
    )
    candidates = (
        *(f"{name.capitalize()}: {said}." for name, said in stand_ins(run)),
        *(f"{problem}." for problem in run.problems),
        *(f"Not alone: {one}." for one in disturbances(run)),
        "RAGFlow itself, its search and its chat model are in no number here.",
        f"Not everywhere enough requests to tell: {', '.join(unsure)}." if unsure else "",
        f"Documents were cut to {info.workload.cut_to} words a pair, so the load is lighter than RAGFlow's."
        if info.workload.cut_to
        else "",
        "Each load was played once, so drift from one pass to the next is not seen."
        if info.repeats == 1
        else "",
        _one_client(run),
        f"Whether the scores are right: {info.order.verdict}."
        if info.order.skipped or info.order.failed
        else "",
        "CPU, memory and vLLM's queue: no samples were taken." if not run.samples else "",
        "What the client costs by itself: it was not measured against an empty server."
        if not (info.client and info.client.floor)
        else "",
        "How near it comes to what the machine can do: the matrix multiplication limit was not measured."
        if not (info.limit and info.limit.tokens_per_s)
        else "",
        "Other machines, other models, other days: this is one run.",
    )
    return tuple(one for one in candidates if one)


def _one_client(run: Run) -> str:
    most = max((level.clients or math.inf for level in run.info.levels), default=0)
    return "More than one client at once was not tried." if most == 1 else ""
