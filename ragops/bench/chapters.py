"""The sections of a report: a question, a text alternative of its chart, and tables; pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from ragops.bench import series, shape
from ragops.bench.quantiles import percentile, seconds
from ragops.bench.wire import RAGFLOW_TIMEOUT

if TYPE_CHECKING:
    from ragops.bench.records import RequestRecord, Run


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
    spans = series.spans(run)
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
