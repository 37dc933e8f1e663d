"""A recorded run as one self-contained HTML page: verdict, charts with their values, provenance.

Charts are inline SVG in two widths, for a desk and print and for a phone, in the page's colours in light and
dark. The same run gives the same bytes. ``data/report.html.jinja`` lays the page out.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from importlib import resources
from statistics import median
from typing import TYPE_CHECKING, Any

from ragops.bench import series
from ragops.bench.series import load_name
from ragops.bench.statistics import disturbances, extra, level_statistics, substitutes
from ragops.bench.verdict import judge, release_of
from ragops.checks.latency import percentile, seconds
from ragops.errors import BenchError, file_errors
from ragops.reranker.sizing import GIB
from ragops.table import Column, Table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ragops.bench.records import Run

NamedValue = tuple[str, str]

_COLOURS = {
    "#1b1b1b": "ink", "#5f5f5f": "quiet", "#dddddd": "grid", "#ffffff": "paper", "#0072b2": "blue",
    "#d55e00": "vermilion", "#009e73": "green", "#cc79a7": "purple", "#e69f00": "orange", "#56b4e9": "sky",
    "#000000": "black",
}  # fmt: skip
"""Colours of the charts, and their names in the page's style."""


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report."""

    run: str
    verdict: str
    page: Path
    charts: tuple[Path, ...]
    left_out: tuple[str, ...]
    """Why a chart is missing, a sentence each."""

    def __str__(self) -> str:
        """The verdict first, then the files."""
        return "\n".join((self.verdict, *self.left_out, *map(str, self.charts), str(self.page)))


@dataclass(frozen=True)
class Section:
    """A question, with the chart, words and tables that respond to it."""

    chart: str
    """Name of the function of ``ragops.bench.plots``; empty when the run has no data for it."""
    title: str
    text: str
    """What the chart shows, in words; or why there is none."""
    tables: tuple[Table, ...] = ()


def page(run: Run) -> str:
    """The report of a run.

    Args:
        run: From :func:`ragops.bench.load_run`.

    Returns:
        A self-contained HTML document.

    Raises:
        BenchError: matplotlib or Jinja2 is not installed.
    """
    return _page(run, [(section, _charts(run, section)) for section in sections(run)])


def write_report(run: Run, out: Path, *, charts: Path | None = None) -> ReportFiles:
    """Write the report atomically; an existing file is replaced.

    Args:
        run: From :func:`ragops.bench.load_run`.
        out: The page's file.
        charts: Folder for the charts as SVG files; none when left out.

    Raises:
        BenchError: A file can't be written, or matplotlib or Jinja2 is not installed.
    """
    parts = [(section, _charts(run, section)) for section in sections(run)]
    files = {out: _page(run, parts)}
    if charts is not None:
        files |= {charts / f"{section.chart}.svg": svgs["wide"] for section, svgs in parts if svgs}
    for file, text in files.items():
        draft = file.with_name(f".{file.name}.new")
        with file_errors(BenchError, f"can't write {file}", file, hint="name another place with --out"):
            if file.exists() and not file.is_file():
                raise OSError("it is not a regular file")  # /dev/null would be replaced
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                draft.write_text(text, encoding="utf-8")
                draft.replace(file)
            finally:
                draft.unlink(missing_ok=True)
    left_out = tuple(section.text for section, svgs in parts if not svgs)
    return ReportFiles(run.path.name, headline(run), out, tuple(files)[1:], left_out)


def _charts(run: Run, section: Section) -> dict[str, str]:
    """SVG of the section's chart by width: ``wide`` and ``narrow``."""
    if not section.chart:
        return {}
    plots = extra("ragops.bench.plots")
    draw = getattr(plots, section.chart)
    return {"wide": plots.svg(draw(run)), "narrow": plots.svg(draw(run, narrow=True))}


def _page(run: Run, parts: list[tuple[Section, dict[str, str]]]) -> str:
    jinja2, markup = extra("jinja2"), extra("markupsafe").Markup
    source = (resources.files("ragops.data") / "report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # matplotlib has escaped the texts of the charts
    inlined = [
        (section, {width: markup(inline(svg, f"{section.chart}-{width}-")) for width, svg in svgs.items()})
        for section, svgs in parts
    ]
    text: str = environment.from_string(source).render(
        name=run.path.name,
        headline=headline(run),
        verdict=verdict_rows(run),
        substitutes=[row for row in substitutes(run) if row[1] not in headline(run)],
        sections=inlined,
        limitations=limitations(run),
        provenance=provenance(run),
    )
    return text


def inline(svg: str, prefix: str) -> str:
    """An SVG document as an element of a page.

    Args:
        svg: As :func:`ragops.bench.plots.svg` gives it.
        prefix: Added to each id, so that ids stay unique.
    """
    svg = re.sub(r"\A.*?(?=<svg )|<metadata>.*?</metadata>|<style .*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    for colour, name in _COLOURS.items():
        svg = svg.replace(f": {colour}", f": var(--{name})")
    return svg


def headline(run: Run) -> str:
    """The sentence of the verdict, or what was measured instead."""
    try:
        return judge(run).sentence
    except BenchError:  # a run of another kind of load has no verdict
        work = run.info.workload.description
        return f"Measured: {work}. Loads of this kind give no verdict on RAGFlow's timeout."


def verdict_rows(run: Run) -> tuple[NamedValue, ...]:
    """The rows of the verdict; empty for workloads without one."""
    try:
        verdict = judge(run)
    except BenchError:
        return ()
    sentence = verdict.sentence.lower()
    return (*verdict.rows(), *(("note", note) for note in verdict.notes if note.lower() not in sentence))


def provenance(run: Run) -> tuple[NamedValue, ...]:
    """The run, the machine, the software and the method; only what is known."""
    info, origin = run.info, run.info.provenance
    digest = origin.image_digest.removeprefix("sha256:")
    fresh = "no request sent twice" if info.fresh else "the same texts in each trial, so a cache may be hit"
    repeats = "once" if info.repeats == 1 else f"{info.repeats} times"
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
        ("environment", " ".join(f"{name}={value}" for name, value in origin.environment)),
        ("machine", _joined(origin.machine, origin.cpu_model, _gib(origin.memory_bytes))),
        ("CPU features", " ".join(origin.cpu_features)),
        ("cores", _joined(origin.cores, _labelled("{} in all", origin.core_count))),
        (
            "container's limits",
            _joined(_labelled("{:g} cores", origin.cgroup_cpu_cores), _gib(origin.cgroup_memory_bytes)),
        ),
        ("matrix multiplication limit", _limit(run)),
        ("vLLM", origin.vllm),
        (
            "ragops",
            _joined(
                origin.ragops,
                _labelled("commit {}", origin.git_commit),
                "with changes" * bool(origin.git_dirty),
            ),
        ),
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
        ("client overhead", _client_overhead(run)),
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
    reached = max((row.limit_fraction or 0 for row in level_statistics(run)), default=0)
    at_most = _labelled("so at most {:.0f} tokens/s", limit.tokens_per_s)
    return _joined(*peaks, at_most, _labelled("of which {:.0%} were reached", reached))


def _client_overhead(run: Run) -> str:
    client = run.info.client
    if client is None:
        return ""
    cpu = f"{client.cpu_seconds_per_request * 1e3:.1f} ms of CPU a request"
    return _joined(
        cpu, f"{seconds(client.floor.p50_ns / 1e9)} against the echo server" if client.floor else ""
    )


def limitations(run: Run) -> tuple[str, ...]:
    """What the run does not show."""
    info = run.info
    few = sorted({p.name for row in level_statistics(run) for p in row.latency if p.value is None})
    clients = max((level.clients or math.inf for level in info.levels), default=0)
    gemm = info.limit and info.limit.tokens_per_s
    order = info.order.skipped or info.order.failed
    cut = f"Documents were cut to {info.workload.cut_to} words a pair, so the load is lighter than RAGFlow's."
    sentences = (
        *((True, f"{kind.capitalize()}: {reason}.") for kind, reason in substitutes(run)),
        *((True, f"{problem}.") for problem in run.problems),
        *((True, f"Disturbed: {line}.") for line in disturbances(run)),
        (True, "RAGFlow itself, its search and its chat model are in no number here."),
        (
            few,
            f"Too few requests on some load levels for: {', '.join(few)}.",
        ),
        (info.workload.cut_to, cut),
        (
            info.repeats == 1,
            "One repetition of each load level, so the drift between repetitions is unknown.",
        ),
        (clients == 1, "Several concurrent clients were not measured."),
        (order, f"Whether the scores are right: {info.order.verdict}."),
        (not run.samples, "CPU, memory and vLLM's queue: no samples were taken."),
        (not (info.client and info.client.floor), "The client's overhead was not measured."),
        (not gemm, "The matrix multiplication limit of the machine was not measured."),
        (True, "Other machines, other models, other days: this is one run."),
    )
    return tuple(sentence for applies, sentence in sentences if applies)


def sections(run: Run) -> tuple[Section, ...]:
    """All questions, in the order of the report."""
    return (_percentiles(run), _throughput(run), _grid(run), _sizes(run), _timeline(run))


def _percentiles(run: Run) -> Section:
    title, rows = "How slow are the slowest?", series.by_load(run)
    if not rows:
        return Section("", title, "No request was measured, so there is no percentile.")
    slowest = max((r.latency for r in run.measured if not r.error), default=0)
    texts = [
        f"{load_name(row.level.name)} (n={row.n}): "
        + ", ".join(f"{p.name} {p}" for p in row.latency if p.value is not None)
        for row in rows
    ]
    timeout = release_of(run).timeout
    texts.append(f"The slowest response took {seconds(slowest)}; RAGFlow's timeout is {timeout:g} s.")
    table = _table(
        "Latency from when a request was due, with 95 % intervals",
        ("load", "n", "failed", *(p.name for p in rows[0].latency), "p95 from sending"),
        (
            (load_name(row.level.name), row.n, row.errors, *row.latency, row.service[2])
            for row in rows
        ),
    )  # fmt: skip
    return Section("percentile_curve", title, ". ".join(texts), (table,))


def _throughput(run: Run) -> Section:
    title, rows = "How much at once, and what does it cost?", series.by_load(run)
    if len(rows) < 2:
        return Section("", title, "There is one load level, so there is no throughput to compare.")
    knee = series.knee(rows)
    texts = [f"{load_name(row.level.name)}: {row.documents_per_s:.3g} documents/s" for row in rows]
    knee_text = (
        f" The knee is at {load_name(knee.level.name)}: beyond it requests mostly wait." if knee else ""
    )
    table = _table(
        "Throughput of successful requests",
        ("load", "documents/s", "requests/s", "tokens/s", "computed", "of the limit", "p50", "p95"),
        (
            (
                load_name(row.level.name),
                f"{row.documents_per_s:.1f}",
                f"{row.requests_per_s:.2f}",
                _labelled("{:.0f}", row.tokens_per_s) or "not counted",
                _labelled("{:.0f}", row.computed_tokens_per_s) or "not counted",
                _labelled("{:.0%}", row.limit_fraction) or "not counted",
                row.latency[0],
                row.latency[2],
            )
            for row in rows
        ),
    )
    return Section("throughput", title, f"{', '.join(texts)}.{knee_text}", (table,))


def _grid(run: Run) -> Section:
    title = "How long for how many documents of which length?"
    grid = series.size_grid(run) if _has_success(run) else None
    if grid is None:
        reason = "Sizes of this run are not a grid of documents by lengths, so there is no map of them."
        return Section("", title, reason)
    ends = [
        f"{seconds(cell.seconds)} for {cell.documents} documents of {grid.length(cell.words)}"
        for cell in sorted(grid.cells, key=lambda cell: cell.seconds)
    ]
    cells = {(cell.documents, cell.words): f"{seconds(cell.seconds)} (n={cell.n})" for cell in grid.cells}
    table = _table(
        f"Median latency, {load_name(grid.level)}",
        ("documents", *(grid.length(words) for words in grid.words)),
        (
            (count, *(cells.get((count, words), "not sent") for words in grid.words))
            for count in grid.documents
        ),
    )
    return Section("latency_map", title, f"Medians go from {ends[0]} to {ends[-1]}.", (table,))


def _sizes(run: Run) -> Section:
    title = "How does it grow?"
    if not _has_success(run):
        return Section("", title, "No request was successful.")
    level, successful = series.lightest_level(run)
    rows = []
    for count in sorted({record.documents for record in successful}):
        records = [record for record in successful if record.documents == count]
        tokens = [record.tokens for record in records if record.tokens is not None]
        times = [record.latency for record in records]
        counted = f"{median(tokens):.0f}" if tokens else "not counted"
        rows.append(
            (str(count), str(len(records)), counted, str(percentile(times, 0.5)), seconds(max(times)))
        )
    text = f"All requests have {rows[0][0]} documents."
    if len(rows) > 1:
        text = f"p50 goes from {rows[0][3]} for {rows[0][0]} documents to {rows[-1][3]} for {rows[-1][0]}."
    columns = ("documents", "n", "tokens in a request, median", "p50", "slowest")
    table = _table(f"Latency by number of documents, {load_name(level.name)}", columns, rows)
    return Section("latency_by_size", title, text, (table,))


def _timeline(run: Run) -> Section:
    title = "What happened when?"
    if not run.requests:
        return Section("", title, "No request was sent.")
    stalls, cpu = series.stalls(run), series.cpu_use(run)
    texts = [
        f"{len(run.requests)} requests, {sum(r.phase == 'warmup' for r in run.requests)} of them warm-up",
        f"{sum(bool(r.error) and not r.is_cancelled for r in run.requests)} failed",
        "no stall",
        f"{cpu.cores:.2f} cores in use on average" if cpu else "CPU was not sampled",
    ]
    tables = [_spans("Trials, warm-up included", series.trial_spans(run))]
    if stalls:
        texts[2] = f"{len(stalls)} stalls, the longest {max(span.end - span.start for span in stalls):.3g} s"
        stall = "Stalls: no response for more than three times the p90 of the trial's gaps"
        tables.append(_spans(stall, stalls))
    if cpu and cpu.throttled is not None:
        texts.append(f"throttled for {cpu.throttled:.1%} of the time" if cpu.throttled else "not throttled")
    return Section("timeline", title, f"{', '.join(texts)}.", tuple(tables))


def _has_success(run: Run) -> bool:
    return any(not record.error for record in run.measured)


def _spans(title: str, spans: list[series.Span]) -> Table:
    rows = ((load_name(s.level), f"{s.start:.1f} s", f"{s.end - s.start:.1f} s") for s in spans)
    return _table(title, ("load", "starts at", "lasts"), rows)


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Table:
    return Table(tuple(map(Column, columns)), tuple(tuple(map(str, row)) for row in rows), title)
