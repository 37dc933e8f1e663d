"""Verdict, provenance and limits of a recorded run as text, for report and site; pure.

The sections of a report: a question, a text alternative of its chart, and tables; pure.

A recorded run as one self-contained HTML page.

Charts are inline SVG in two widths: for a desk and print, and for a phone. They use the page's colours in
light and dark. The same run gives the same bytes.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from importlib import resources
from statistics import median
from typing import TYPE_CHECKING

from ragops.bench import series
from ragops.bench import series as shape
from ragops.bench.statistics import disturbances, figures
from ragops.bench.verdict import judge
from ragops.bench.wire import RAGFLOW_TIMEOUT
from ragops.checks.latency import percentile, seconds
from ragops.errors import BenchError, file_errors

if TYPE_CHECKING:
    from pathlib import Path

    from ragops.bench.records import RequestRecord, Run

Fact = tuple[str, str]
"""A name and a value."""

_GIB = 2**30


def headline_facts(run: Run) -> str:
    """The sentence of the verdict, or what was measured instead."""
    try:
        return judge(run).sentence
    except BenchError:  # a run of another kind of load has no verdict
        work = run.info.workload
        return f"Measured: {work.description}. Loads of this kind give no verdict on RAGFlow's limit."


def judged(run: Run) -> tuple[Fact, ...]:
    """The rows of the verdict; empty for workloads without one."""
    try:
        result = judge(run)
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


@dataclass(frozen=True)
class Table:
    """Values of a chart."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A question, its chart, text and tables."""

    figure: str
    """Name of the function of ``ragops.bench.plots``; empty when the run has no data for it."""
    title: str
    text: str
    """What the chart shows, in words; or why there is none."""
    tables: tuple[Table, ...] = ()


def sections(run: Run) -> tuple[Section, ...]:
    """All questions, in the order of the report."""
    return tuple(make(run) for make in (tail, cost, sizes, lengths, clock))


def tail(run: Run) -> Section:
    """How slow the slowest are."""
    rows = shape.by_load(run)
    title = "How slow are the slowest?"
    if not rows:
        return Section("", title, "No request was measured, so there is no percentile.")
    parts = [
        f"{shape.load_name(row.level)} (n={row.n}): "
        + ", ".join(f"{one.name} {one}" for one in row.latency if one.value is not None)
        for row in rows
    ]
    slowest = max((r.latency for r in run.measured if not r.error), default=0)
    end = f"The slowest response took {seconds(slowest)}; RAGFlow's timeout is {RAGFLOW_TIMEOUT:g} s."
    table = Table(
        "Latency from when a request was due, with 95 % intervals",
        ("load", "n", "failed", *(one.name for one in rows[0].latency), "p95 from sending"),
        tuple(
            (
                shape.load_name(row.level), str(row.n), str(row.errors), *map(str, row.latency),
                str(row.service[2]),
            )
            for row in rows
        ),
    )  # fmt: skip
    return Section("percentile_curve", title, f"{'. '.join(parts)}. {end}", (table,))


def cost(run: Run) -> Section:
    """What throughput costs."""
    rows = shape.by_load(run)
    title = "How much at once, and what does it cost?"
    if len(rows) < 2:
        return Section("", title, "There is one load level, so there is no throughput to compare.")
    best = shape.knee(rows)
    knee = f"The knee is at {shape.load_name(best.level)}: beyond it requests mostly wait." if best else ""
    parts = [f"{shape.load_name(row.level)}: {row.documents_per_s:.3g} documents/s" for row in rows]
    table = Table(
        "Throughput of successful requests",
        (
            "load",
            "documents/s",
            "requests/s",
            "tokens/s",
            "computed",
            "of the limit",
            "p50",
            "p95",
            "is the knee",
        ),
        tuple(
            (
                shape.load_name(row.level),
                f"{row.documents_per_s:.1f}",
                f"{row.requests_per_s:.2f}",
                _known(row.tokens_per_s, "{:.0f}"),
                _known(row.computed_tokens_per_s, "{:.0f}"),
                _known(row.limit_share, "{:.0%}"),
                str(row.latency[0]),
                str(row.latency[2]),
                "yes" if row is best else "no",
            )
            for row in rows
        ),
    )
    return Section("throughput", title, f"{', '.join(parts)}. {knee}".strip(), (table,))


def sizes(run: Run) -> Section:
    """How long each size takes, where sizes are a grid."""
    title = "How long for how many documents of which length?"
    grid = shape.grid_of(run) if _answered(run) else None
    if grid is None:
        why = "Sizes of this run are not a grid of documents by lengths, so there is no map of them."
        return Section("", title, why)
    fast, slow = (choose(grid.cells, key=lambda cell: cell.seconds) for choose in (min, max))
    ends = [
        f"{seconds(cell.seconds)} for {cell.documents} documents of {grid.length(cell.words)}"
        for cell in (fast, slow)
    ]
    table = Table(
        f"Median latency, {shape.words_for(run, grid.level)}",
        ("documents", *(grid.length(words) for words in grid.words)),
        tuple((str(count), *(_cell(grid, count, words) for words in grid.words)) for count in grid.documents),
    )
    return Section("latency_map", title, f"Medians go from {ends[0]} to {ends[1]}.", (table,))


def lengths(run: Run) -> Section:
    """How latency grows with documents and with words."""
    title = "How does it grow?"
    if not _answered(run):
        return Section("", title, "No request was successful.")
    level, good = series.calmest(run)
    table = Table(
        f"Latency by number of documents, {shape.words_for(run, level)}",
        ("documents", "n", "tokens in a request, median", "p50", "slowest"),
        tuple(_by_documents(good, count) for count in sorted({r.documents for r in good})),
    )
    first, last = table.rows[0], table.rows[-1]
    one = f"All requests have {first[0]} documents"
    many = f"p50 goes from {first[3]} for {first[0]} documents to {last[3]} for {last[0]}"
    return Section("latency_by_size", title, f"{many if first != last else one}.", (table,))


def clock(run: Run) -> Section:
    """What happened when."""
    title = "What happened when?"
    if not run.requests:
        return Section("", title, "No request was sent.")
    stalls, use = shape.stalls(run), shape.cpu_use(run)
    held = f"{max((span.end - span.start for span in stalls), default=0):.3g} s"
    parts = [
        f"{len(run.requests)} requests, {sum(r.phase == 'warmup' for r in run.requests)} of them warm-up",
        f"{sum(bool(r.error) and not r.is_cancelled for r in run.requests)} failed",
        f"{len(stalls)} stalls, the longest {held}" if stalls else "no stall",
        f"{use.cores:.2f} cores in use on average" if use else "CPU was not sampled",
    ]
    if use and use.throttled is not None:
        parts.append(f"throttled for {use.throttled:.1%} of the time" if use.throttled else "not throttled")
    spans = series.level_spans(run)
    passes = Table(
        "Trials, warm-up included",
        ("load", "starts at", "lasts"),
        tuple(
            (shape.words_for(run, one.level), f"{one.start:.1f} s", f"{one.end - one.start:.1f} s")
            for one in spans
        ),
    )
    found = Table(
        "Stalls: no response for more than three times the p90 of the trial's gaps",
        ("load", "starts at", "lasts"),
        tuple(
            (shape.words_for(run, one.level), f"{one.start:.1f} s", f"{one.end - one.start:.1f} s")
            for one in stalls
        ),
    )
    return Section("timeline", title, f"{', '.join(parts)}.", (passes, found) if stalls else (passes,))


def _known(value: float | None, form: str) -> str:
    return "not counted" if value is None else form.format(value)


def _answered(run: Run) -> bool:
    return any(not record.error for record in run.measured)


def _cell(grid: shape.Grid, documents: int, words: int) -> str:
    here = [cell for cell in grid.cells if (cell.documents, cell.words) == (documents, words)]
    return f"{seconds(here[0].seconds)} (n={here[0].n})" if here else "not sent"


def _by_documents(good: list[RequestRecord], count: int) -> tuple[str, ...]:
    mine = [record for record in good if record.documents == count]
    tokens = [record.tokens for record in mine if record.tokens is not None]
    times = [record.latency for record in mine]
    middle = f"{median(tokens):.0f}" if tokens else "not counted"
    return (str(count), str(len(mine)), middle, str(percentile(times, 0.5)), seconds(max(times)))


_COLOURS = {
    "#1b1b1b": "ink", "#5f5f5f": "quiet", "#dddddd": "grid", "#ffffff": "paper", "#0072b2": "blue",
    "#d55e00": "vermilion", "#009e73": "green", "#cc79a7": "purple", "#e69f00": "orange", "#56b4e9": "sky",
    "#000000": "black",
}  # fmt: skip
"""Colours of the charts, and their names in the page's style."""

_PROLOGUE = re.compile(r"\A.*?(?=<svg )|<metadata>.*?</metadata>|<style .*?</style>", re.DOTALL)
_SIZE = re.compile(r'(<svg [^>]*?) width="[^"]*" height="[^"]*"')
_FONT = re.compile(r"font-family: [^;\"]*;? ?")
_ID = re.compile(r'(\bid="|href="#|url\(#)')
_NEEDS = "reports need matplotlib and Jinja2"


@dataclass(frozen=True)
class Drawn:
    """A section with its chart in two widths; empty where there is none."""

    section: Section
    wide: str = ""
    narrow: str = ""


@dataclass(frozen=True)
class Written:
    """The files of a report."""

    run: str
    verdict: str
    page: Path
    figures: tuple[Path, ...]
    left_out: tuple[str, ...]
    """Why a chart is missing, a sentence each."""

    def __str__(self) -> str:
        """The verdict first, then where the page is."""
        return "\n".join((self.verdict, *self.left_out, *map(str, self.figures), str(self.page)))


def page(run: Run) -> str:
    """The report of a run.

    Args:
        run: From :func:`ragops.bench.load_run`.

    Returns:
        A self-contained HTML document.

    Raises:
        BenchError: matplotlib or Jinja2 is not installed.
    """
    return _lay_out(run, [_drawn(run, section) for section in sections(run)])


def write_report(run: Run, out: Path, *, figures: Path | None = None) -> Written:
    """Write the report atomically; an existing file is replaced.

    Args:
        run: From :func:`ragops.bench.load_run`.
        out: The page's file.
        figures: Folder for the charts as SVG files; none when left out.

    Raises:
        BenchError: A file can't be written, or matplotlib or Jinja2 is not installed.
    """
    drawn = [_drawn(run, section) for section in sections(run)]
    files = {out: _lay_out(run, drawn)}
    if figures is not None:
        files |= {figures / f"{one.section.figure}.svg": one.wide for one in drawn if one.wide}
    for file, text in files.items():
        _put(file, text)
    left_out = tuple(one.section.text for one in drawn if not one.wide)
    return Written(run.path.name, headline_facts(run), out, tuple(files)[1:], left_out)


def _put(file: Path, text: str) -> None:
    draft = file.with_name(f".{file.name}.new")
    with file_errors(BenchError, f"can't write {file}", file, hint="name another place with --out"):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text, encoding="utf-8")
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)


def _drawn(run: Run, section: Section) -> Drawn:
    if not section.figure:
        return Drawn(section)
    try:
        from ragops.bench import plots  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BenchError(_NEEDS, hint="pip install 'ragops-rerank[bench]'", code="extra-missing") from error
    draw = getattr(plots, section.figure)
    return Drawn(section, plots.svg(draw(run)), plots.svg(draw(run, narrow=True)))


def _lay_out(run: Run, drawn: list[Drawn]) -> str:
    try:
        from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - an extra
        from markupsafe import Markup  # noqa: PLC0415 - comes with Jinja2
    except ImportError as error:
        raise BenchError(_NEEDS, hint="pip install 'ragops-rerank[bench]'", code="extra-missing") from error
    source = (resources.files("ragops.data") / "report.html.jinja").read_text(encoding="utf-8")
    layout = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    parts = [
        (one.section, [(width, Markup(inline(svg, f"{one.section.figure}-{width}-"))) for width, svg in svgs])  # noqa: S704 - drawn here, its texts escaped by matplotlib
        for one in drawn
        for svgs in [(("wide", one.wide), ("narrow", one.narrow)) if one.wide else ()]
    ]
    headline = headline_facts(run)
    return layout.from_string(source).render(
        name=run.path.name,
        headline=headline,
        judged=judged(run),
        stand_ins=[one for one in stand_ins(run) if one[1] not in headline],
        origin=origin(run),
        not_shown=not_shown(run),
        sections=parts,
    )


def inline(svg: str, prefix: str) -> str:
    """An SVG document as an element of a page.

    Args:
        svg: As :func:`ragops.bench.plots.svg` gives it.
        prefix: Put before each id, so that ids stay single.
    """
    bare = _FONT.sub("", _SIZE.sub(r"\1", _PROLOGUE.sub("", svg), count=1))
    named = _ID.sub(rf"\g<1>{prefix}", bare)
    return re.sub(
        r"(?<=: )#[0-9a-f]{6}",
        lambda found: f"var(--{_COLOURS[found[0]]})" if found[0] in _COLOURS else found[0],
        named,
    )
