"""A recorded run as one self-contained HTML page: verdict, charts with their values, provenance.

Charts are inline SVG in the page's colours in light and dark. The same run gives the same bytes.
``data/report.html.jinja`` lays the page out.
"""

import math
import shlex
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from ragops.bench import statistics
from ragops.bench.records import Run
from ragops.bench.statistics import extra, load_name, resource_usage
from ragops.bench.verdict import judge, notes_of, release_of, sentences
from ragops.checks.latency import percentile, seconds
from ragops.errors import BenchError, file_errors
from ragops.reranker.sizing import GIB
from ragops.table import Column, Row, Table

NamedValue = tuple[str, str]


@dataclass(frozen=True)
class Section:
    """A part of the page with its chart, text and table."""

    title: str
    text: str
    """What the chart shows, in words; or why there is none."""
    table: Table | None = None
    chart: str = ""
    """Name of the function of ``ragops.bench.plots``; empty without one."""


def page(run: Run) -> str:
    """The report of a run: a self-contained HTML document."""
    jinja2, plots = extra("jinja2"), extra("ragops.bench.plots")
    source = (resources.files("ragops.data") / "report.html.jinja").read_text(encoding="utf-8")
    options: Any = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    template = jinja2.Environment(autoescape=True, **options).from_string(source)
    facts = [("Verdict", verdict_rows(run)), ("Provenance", provenance(run))]
    verdict, origin = (
        Section(title, "", Table(_columns("fact", "value"), rows, css_class="facts")) for title, rows in facts
    )
    missing = Section("What this run does not show", "", Table(notes=limitations(run)))
    parts = (*([verdict] if verdict_rows(run) else []), *sections(run), missing, origin)
    names = [section.chart for section in parts if section.chart]
    charts = {name: plots.inline(plots.svg(getattr(plots, name)(run)), f"{name}-") for name in names}
    text: str = template.render(name=run.path.name, headline=headline(run), sections=parts, charts=charts)
    return text


def _columns(*names: str) -> tuple[Column, ...]:
    return tuple(map(Column, names))


def write_report(run: Run, out: Path) -> Path:
    """Write the report atomically, and return its file; an existing file is replaced.

    Args:
        run: From :func:`ragops.bench.load_run`.
        out: The page's file.

    Raises:
        BenchError: The file can't be written, or matplotlib or Jinja2 is not installed.
    """
    text, draft = page(run), out.with_name(f".{out.name}.new")
    with file_errors(BenchError, f"can't write {out}", out, hint="name another place with --out"):
        if out.exists() and not out.is_file():
            raise OSError("it is not a regular file")  # /dev/null would be replaced
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text, encoding="utf-8")
            draft.replace(out)
        finally:
            draft.unlink(missing_ok=True)
    return out


def headline(run: Run) -> str:
    """The sentence of the verdict, or what was measured instead."""
    try:
        return judge(run).sentence
    except BenchError:  # a run of another kind of load has no verdict
        kind = "loads of this kind give no verdict on RAGFlow's timeout"
        notes = notes_of(run, release_of(run))
        return sentences(f"measured: {run.info.workload.description}", kind, *notes)


def verdict_rows(run: Run) -> tuple[Row, ...]:
    """The rows of the verdict; none for workloads without one."""
    try:
        return judge(run).table().rows
    except BenchError:
        return ()


def provenance(run: Run) -> tuple[NamedValue, ...]:
    """The run, the machine, the software and the method; only what is known."""
    info, origin = run.info, run.info.provenance
    digest = origin.image_digest.removeprefix("sha256:")
    fresh = "no request sent twice" if info.fresh else "the same texts in each trial, so a cache may be hit"
    cpu_ms = info.client and info.client.cpu_seconds_per_request * 1e3
    repeats = "once" if info.repeats == 1 else f"{info.repeats} times"
    commit, changed = _labelled("commit {}", origin.git_commit), "with changes" * bool(origin.git_dirty)
    limits = _joined(_labelled("{:g} cores", origin.cgroup_cpu_cores), _gib(origin.cgroup_memory_bytes))
    rows = (
        ("run", run.path.name),
        ("started", _joined(info.started, *(f"continued {time}" for time in info.resumed))),
        ("complete", "yes" if info.complete else f"no: {info.reason}"),
        ("model", _joined(origin.model or info.model, _labelled("sha256 {}", origin.model_sha256))),
        ("substitute model", origin.model_is_stand_in or "no"),
        ("client", _labelled("substitute: {}", origin.client_is_stand_in)),
        ("measured from", origin.vantage),
        ("image", _joined(origin.image, _labelled("sha256 {}", digest))),
        ("vLLM options", shlex.join(origin.launch_arguments)),
        ("gateway", origin.gateway),
        ("environment", " ".join(f"{name}={value}" for name, value in origin.environment)),
        ("machine", _joined(origin.machine, origin.cpu_model, _gib(origin.memory_bytes))),
        ("CPU features", " ".join(origin.cpu_features)),
        ("cores", origin.cores),
        ("container's limits", limits),
        ("matrix multiplication limit", _limit(run)),
        ("vLLM", origin.vllm),
        ("ragops", _joined(origin.ragops, commit, changed)),
        ("Docker", origin.docker),
        ("kernel", origin.kernel),
        ("Python", origin.python),
        ("workload", info.workload.description),
        ("workload's sha256", info.workload.sha256),
        ("seeds", f"workload {info.workload.seed}, arrivals and order {info.seed}"),
        ("load levels", f"each {repeats}, in the order {', '.join(info.order_played)}; {fresh}"),
        ("warm-up", f"{info.warmup} requests at the head of each trial, not counted"),
        ("timeout", f"{info.timeout:g} s"),
        ("scores", info.order.verdict),
        ("client overhead", _labelled("{:.1f} ms of CPU a request", cpu_ms)),
    )
    return tuple((name, value) for name, value in rows if value)


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _labelled(form: str, value: Any) -> str:
    return form.format(value) if value else ""


def _gib(size: int | None) -> str:
    return f"{size / GIB:.2f} GiB of memory" if size else ""


def _limit(run: Run) -> str:
    """The GEMM peak of the machine, and the fraction of it that was reached."""
    limit = run.info.limit
    if limit is None:
        return ""
    peaks = [
        f"{gemm.dtype} {gemm.tflops:.2f} TFLOP/s" if gemm.tflops else f"{gemm.dtype}: {gemm.error}"
        for gemm in limit.gemms
    ]
    reached = max((row.limit_fraction or 0 for row in statistics.level_statistics(run)), default=0)
    at_most = _labelled("so at most {:.0f} tokens/s", limit.tokens_per_s)
    return _joined(*peaks, at_most, _labelled("of which {:.0%} were reached", reached))


def limitations(run: Run) -> tuple[str, ...]:
    """What the run does not show, apart from what the headline names."""
    info = run.info
    few = sorted({p.name for row in statistics.level_statistics(run) for p in row.latency if p.value is None})
    clients = max((level.clients or math.inf for level in info.levels), default=0)
    drift = "One repetition of each load level, so the drift between repetitions is unknown."
    has_peak = info.limit and info.limit.tokens_per_s
    rows = (
        *((True, f"{problem}.") for problem in run.problems),
        (True, "RAGFlow itself, its search and its chat model are in no number here."),
        (few, f"Too few requests on some load levels for: {', '.join(few)}."),
        (info.repeats == 1, drift),
        (clients == 1, "Several concurrent clients were not measured."),
        (not run.samples, "CPU, memory and vLLM's queue: no samples were taken."),
        (not info.client, "The client's overhead was not measured."),
        (not has_peak, "The matrix multiplication limit of the machine was not measured."),
        (True, "Other machines, other models, other days: this is one run."),
    )
    return tuple(sentence for applies, sentence in rows if applies)


def sections(run: Run) -> tuple[Section, ...]:
    """All questions, in the order of the report."""
    return (_percentiles(run), _throughput(run), _sizes(run), _timeline(run))


def _percentiles(run: Run) -> Section:
    title, rows = "How slow are the slowest?", statistics.level_statistics(run)
    if not rows:
        return Section(title, "No request was measured, so there is no percentile.")
    slowest = max((r.latency for r in run.measured if not r.error), default=0)
    texts = [
        f"{load_name(row.level.name)} (n={row.n}): "
        + ", ".join(f"{p.name} {p}" for p in row.latency if p.value is not None)
        for row in rows
    ]
    timeout = release_of(run).timeout
    texts.append(f"The slowest response took {seconds(slowest)}; RAGFlow's timeout is {timeout:g} s.")
    return Section(title, ". ".join(texts), statistics.level_table(rows), "percentile_curve")


def _throughput(run: Run) -> Section:
    title, rows = "How much at once, and what does it cost?", statistics.level_statistics(run)
    if len(rows) < 2:
        return Section(title, "There is one load level, so there is no throughput to compare.")
    texts = [f"{load_name(row.level.name)}: {row.documents_per_s:.3g} documents/s" for row in rows]
    return Section(title, f"{', '.join(texts)}. The table above has all values.", chart="throughput")


def _sizes(run: Run) -> Section:
    title = "How long for how many documents of which length?"
    level, records = statistics.lightest_level(run) if run.measured else (None, [])
    table = statistics.frame(replace(run, requests=tuple(r for r in records if not r.error)))
    if not level or table.empty:
        return Section(title, "No request was successful.")
    lengths, sizes = table.words.nunique(), len(table.groupby(["documents", "words"]))
    is_grid = lengths <= 12 and 2 * sizes > lengths * table.documents.nunique()
    rows = []
    for size, group in table.groupby(["documents", "words"] if is_grid else ["documents"]):
        p50, tokens = percentile(list(group.latency), 0.5), group.tokens.median()
        middle = f"{seconds(group.latency.median())} (no interval)" if p50.value is None else str(p50)
        counted = "not counted" if math.isnan(tokens) else f"{tokens:.0f}"
        documents, words = (*map(str, size), "all")[:2]
        rows.append((documents, words, str(len(group)), counted, middle, seconds(group.latency.max())))
    form = "{4} for {0} documents of {1} words" if is_grid else "{4} for {0} documents"
    least, most = (form.format(*row) for row in (rows[0], rows[-1]))
    columns = _columns("documents", "words in each", "n", "tokens in a request, median", "p50", "slowest")
    text, heading = f"p50 goes from {least} to {most}.", f"Latency by size, {load_name(level.name)}"
    return Section(title, text, Table(columns, tuple(rows), heading), "latency_by_size")


def _timeline(run: Run) -> Section:
    title = "What happened when?"
    if not run.requests:
        return Section(title, "No request was sent.")
    failed = sum(bool(record.error) and not record.is_cancelled for record in run.requests)
    warm = sum(record.phase == "warmup" for record in run.requests)
    text = f"{len(run.requests)} requests, {warm} of them warm-up, {failed} failed."
    usage = resource_usage(run)
    if usage.empty:
        return Section(title, f"{text} CPU, memory and queue were not sampled.", chart="timeline")
    rows = tuple((load_name(str(name)), *map(str, values)) for name, *values in usage.itertuples())
    table = Table(_columns("load", *usage.columns), rows, "The reranker during each load")
    return Section(title, f"{text} CPU, memory and queue of the reranker: see the table.", table, "timeline")
