"""The charts: percentiles, throughput and its cost, requests and metrics over time, latency by size.

``series.py`` computes their data, ``frame.py`` lays them out.
"""

from __future__ import annotations

import math
from itertools import cycle, groupby
from typing import TYPE_CHECKING, Any

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ragops.bench import series
from ragops.bench.plots.frame import (
    BLACK,
    BLUE,
    GREY,
    INK,
    LATENCY,
    ORANGE,
    PAPER,
    SKY,
    STYLES,
    VERMILION,
    Chart,
    LineEnd,
    Style,
    from_zero,
)
from ragops.bench.statistics import QUANTILES, latencies, too_small, trial_rates
from ragops.checks.latency import needed, seconds
from ragops.errors import BenchError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ragops.bench.records import Run
    from ragops.bench.statistics import LevelStatistics

_FAILED = Style(VERMILION.colour, "X", "none")
_MAX_SECONDS = 600
"""Longer runs have a time axis in minutes."""
_MAX_POINTS = 4000
"""Beyond this many points a figure holds them as an image."""
_CELL_INK = "#111111"
_SHADES = LinearSegmentedColormap.from_list("shades", ["#f4f8fb", "#7fb2d6"])
"""Light enough for dark text, in grey too."""


def percentile_curve(run: Run, *, narrow: bool = False) -> Figure:
    """Latency at every percentile, level by level, with the tail drawn out.

    A line is dotted where there are too few requests for a 95 % interval; bars show the intervals of p50,
    p90, p95 and p99. Failed requests count as slowest, so a line ends before them.

    Args:
        run: From :func:`ragops.bench.load_run`.
        narrow: Laid out for a phone.
    """
    chart = Chart(run, "Latency by percentile, measured requests", [3.9], narrow=narrow)
    (ax,) = chart.axes
    rows = series.by_load(run)
    ends: list[LineEnd] = []
    for row, style in zip(rows, cycle(STYLES), strict=False):
        ends += _curve(chart, run, row, style)
    largest = max((row.n for row in rows), default=2)
    ticks = [1 - quantile for quantile in (*QUANTILES, 0.999) if 1 - quantile > 0.25 / largest]
    ax.set_xscale("log")
    ax.set_xlim(1.05, min(0.5 / largest, 0.04))
    ax.xaxis.set_major_locator(FixedLocator([1.0] * (not narrow) + ticks))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "min" if x >= 1 else f"p{(1 - x) * 100:.3g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    chart.label(ax, "percentile; dotted: too few requests for a 95 % interval", LATENCY)
    from_zero(ax)
    return chart.finish([(ax, [*ends, *chart.mark_timeout(ax)])])


def _curve(chart: Chart, run: Run, row: LevelStatistics, style: Style) -> list[LineEnd]:
    (ax,) = chart.axes
    times = sorted(latencies([r for r in run.measured if r.level == row.level.name]))
    points = [(1 - (rank + 0.5) / row.n, t) for rank, t in enumerate(times) if t < math.inf]
    certain = [(x, t) for x, t in points if needed(1 - x) <= row.n]
    if not points:
        return []
    ax.plot(*zip(*points, strict=True), ":", color=style.colour, linewidth=1.2)
    if certain:
        ax.plot(*zip(*certain, strict=True), style.line, color=style.colour, linewidth=1.9)
    for quantile, p in zip(QUANTILES, row.latency, strict=True):
        if p.value is not None and p.low is not None and p.high not in (None, math.inf):
            ax.plot([1 - quantile] * 2, [p.low, p.high], "-", color=style.colour, linewidth=3, alpha=0.35)
            ax.plot([1 - quantile], [p.value], style.marker, color=style.colour, markersize=6)
    ax.plot(*points[-1], style.marker, color=style.colour, markersize=4, markerfacecolor="none")
    errors = f", {row.errors} failed" if row.errors else ""
    name = f"{series.load_name(row.level.name)}{chr(10) if chart.narrow else ' '}(n={row.n}{errors})"
    return [LineEnd(*points[-1], name, style.colour)]


def throughput(run: Run, *, narrow: bool = False) -> Figure:
    """Documents a second by load level, and against latency, with the knee.

    The dots are repeats. The bars are 95 % intervals, and percentiles that have none are left out.
    The knee is that of :func:`ragops.bench.series.knee`.

    Args:
        run: From :func:`ragops.bench.load_run`.
        narrow: Laid out for a phone.

    Raises:
        BenchError: Nothing was measured.
    """
    rows = series.by_load(run)
    if not rows:
        raise too_small(run, "no measured request")
    chart = Chart(run, "Throughput, and the latency that it costs", [3.6], columns=2, narrow=narrow)
    left, right = chart.axes
    for x, row in enumerate(rows):
        each = [rate.documents for rate in trial_rates(run, row.level)]
        left.plot([x] * len(each), each, "o", color=SKY.colour, markersize=5)
        left.plot([x - 0.3, x + 0.3], [row.documents_per_s] * 2, "-", color=BLUE.colour, linewidth=2)
        _annotate(chart, left, f"{row.documents_per_s:.3g}", (x, max(each)), (0, 5), ha="center")
    left.set_xticks(range(len(rows)), [series.load_name(row.level.name).replace(" ", "\n") for row in rows])
    left.set_xlim(-0.6, len(rows) - 0.4)
    count = sum(row.n for row in rows)
    chart.label(left, f"load (n={count} requests); line: mean of repeats, dot: one", "documents/s")
    from_zero(left)
    chart.label(right, f"documents/s (n={count} requests)", f"{LATENCY}, bars: 95 % interval")
    return chart.finish([(right, _cost(chart, right, rows))])


def _cost(chart: Chart, ax: Axes, rows: list[LevelStatistics]) -> list[LineEnd]:
    """Latency against throughput: p50, and the highest percentile that most levels have."""
    known = [sum(row.latency[place].value is not None for row in rows) for place in range(len(QUANTILES))]
    tail = max(range(1, len(QUANTILES)), key=lambda place: (known[place], place))
    ends: list[LineEnd] = []
    for place, style in ((0, BLUE), (tail, VERMILION)):
        points = []
        for _, kind in groupby(rows, key=lambda row: row.level.kind):
            pairs = [(row.documents_per_s, row.latency[place]) for row in kind]
            group = [
                (x, p.value, p.value - p.low, p.high - p.value)
                for x, p in pairs
                if p.value is not None and p.low is not None and p.high is not None and p.high < math.inf
            ]
            if group:
                x, y, below, above = zip(*group, strict=True)
                ax.errorbar(
                    x, y, (below, above), color=style.colour, marker=style.marker, linestyle=style.line,
                    capsize=4, linewidth=1.4, markersize=5,
                )  # fmt: skip
                points.append((x[-1], y[-1]))
        ends += [LineEnd(*point, rows[0].latency[place].name, style.colour) for point in points[:1]]
    ax.margins(x=0.2)
    from_zero(ax)
    ends += chart.mark_timeout(ax)
    knee = series.knee(rows)
    for row in rows:
        median = row.latency[0].value
        if median is not None and median < math.inf:
            name = series.load_name(row.level.name) + (": the knee" if row is knee else "")
            _annotate(chart, ax, name, (row.documents_per_s, median), (5, -5), ha="left", va="top")
    return ends


def _annotate(
    chart: Chart, ax: Axes, text: str, point: tuple[float, float], offset: tuple[int, int], **align: Any
) -> None:
    ax.annotate(text, point, offset, textcoords="offset points", fontsize=chart.small, color=INK, **align)


def timeline(run: Run, *, narrow: bool = False) -> Figure:
    """Every request at the time when it was due, and the reranker's CPU, memory and queue below.

    Warm-up, failed and cancelled requests are marked; a hatched band is a stall, see
    :func:`ragops.bench.series.stalls`. Grey bands are trials.

    Args:
        run: From :func:`ragops.bench.load_run`.
        narrow: Laid out for a phone.

    Raises:
        BenchError: Nothing was sent.
    """
    if not run.requests:
        raise too_small(run, "no request")
    heights = [2.9, *([1.35] * len(series.timeseries(run)))]
    chart = Chart(run, "Every request in time", heights, narrow=narrow, legend=0.45 if narrow else 0)
    ax = chart.axes[0]
    scale, unit = _time_axis(run)
    _requests(chart, ax, run, scale)
    chart.label(ax, "", LATENCY)
    from_zero(ax)
    ends = [(ax, chart.mark_timeout(ax, distant=False))]
    for stall in series.stalls(run):
        span = (stall.start / scale, stall.end / scale)
        ax.axvspan(*span, facecolor="none", edgecolor=GREY, hatch="///", linewidth=0)
    _trial_bands(chart, ax, run, scale, named=True)
    ends += _metrics(chart, chart.axes[1:], run, scale)
    last = chart.axes[-1]
    chart.label(last, f"time since the start ({unit}), n={len(run.requests)}", last.get_ylabel())
    return chart.finish(ends)


def resources(run: Run, *, narrow: bool = False) -> Figure:
    """CPU, memory and vLLM's queue during the run; grey bands are trials.

    Args:
        run: From :func:`ragops.bench.load_run`.
        narrow: Laid out for a phone.

    Raises:
        BenchError: The run has too few samples.
    """
    panels = len(series.timeseries(run))
    if not panels:
        raise too_small(run, "too few samples of CPU, memory and queue")
    chart = Chart(run, "The reranker during the run", [1.7] * panels, narrow=narrow)
    scale, unit = _time_axis(run)
    ends = _metrics(chart, chart.axes, run, scale, named=True)
    last = chart.axes[-1]
    chart.label(last, f"time since the start ({unit}), n={len(run.samples)} samples", last.get_ylabel())
    return chart.finish(ends)


def _requests(chart: Chart, ax: Axes, run: Run, scale: float) -> None:
    kinds = (
        ("measured", BLUE, [r for r in run.measured if not r.error]),
        ("warm-up", ORANGE, [r for r in run.requests if r.phase == "warmup" and not r.error]),
        ("failed", _FAILED, [r for r in run.requests if r.error and not r.is_cancelled]),
        ("cancelled", BLACK, [r for r in run.requests if r.is_cancelled]),
    )
    for name, style, records in kinds:
        if records:
            x = [series.since_start(run, r.t_sched) / scale for r in records]
            ax.plot(
                x, [r.latency for r in records], style.marker, color=style.colour, markersize=4.5,
                markerfacecolor="none" if name == "warm-up" else style.colour,
                label=f"{name} (n={len(records)})", rasterized=len(records) > _MAX_POINTS,
            )  # fmt: skip
    below = 1 - 0.3 / chart.figure.get_figheight()
    chart.figure.legend(
        loc="upper left" if chart.narrow else "upper right", ncols=2 if chart.narrow else 4, frameon=False,
        bbox_to_anchor=(0, below) if chart.narrow else (1, 1), fontsize=chart.small, columnspacing=1.2,
        handletextpad=0.2, labelcolor=INK,
    )  # fmt: skip


def _metrics(
    chart: Chart, axes: list[Axes], run: Run, scale: float, *, named: bool = False
) -> list[tuple[Axes, list[LineEnd]]]:
    """Draw the reranker's metrics; with ``named`` the loads are written above the first panel."""
    ends = []
    for ax, (panel, lines) in zip(axes, series.timeseries(run).items(), strict=True):
        ends.append((ax, list[LineEnd]()))
        for line, style in zip(lines, STYLES, strict=False):
            points = [(t / scale, y) for t, y in line.points]
            ax.plot(*zip(*points, strict=True), style.line, color=style.colour, linewidth=1.4)
            ends[-1][1].append(LineEnd(*points[-1], line.name, style.colour))
        chart.label(ax, "", panel.replace(" (", "\n("))
        from_zero(ax)
        _trial_bands(chart, ax, run, scale, named=named and ax is axes[0])
    return ends


def _time_axis(run: Run) -> tuple[float, str]:
    """Seconds of a unit of the time axis, and its name."""
    longest = max((span.end for span in series.trial_spans(run)), default=0.0)
    return (60.0, "min") if longest > _MAX_SECONDS else (1.0, "s")


def _trial_bands(chart: Chart, ax: Axes, run: Run, scale: float, *, named: bool) -> None:
    """Grey behind every second trial, with the load's name above where it fits."""
    spans = series.trial_spans(run)
    total = max((span.end for span in spans), default=1.0)
    letter = 0.024 if chart.narrow else 0.012
    free = -1.0
    for number, span in enumerate(spans):
        if number % 2 == 0:
            ax.axvspan(span.start / scale, span.end / scale, color=GREY, alpha=0.1, linewidth=0)
        name, middle = series.load_name(span.level), (span.start + span.end) / 2
        tight = (span.end - span.start) / total < letter * len(name) + 0.01
        if named and middle / total > free:
            ax.text(
                middle / scale, 1.02, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom",
                fontsize=chart.small, color=GREY, rotation=90 if tight else 0,
            )  # fmt: skip
            free = (middle / total + 2 * letter) if tight else span.end / total


def latency_by_size(run: Run, *, narrow: bool = False) -> Figure:
    """Latency against the number of documents, and against their length.

    Successful requests of the level with the fewest clients; lines join medians where sizes repeat.

    Args:
        run: From :func:`ragops.bench.load_run`.
        narrow: Laid out for a phone.

    Raises:
        BenchError: No request succeeded.
    """
    level, records = series.lightest_level(run)
    title = f"Latency by size of a request, {series.load_name(level.name)}"
    chart = Chart(run, title, [3.6], columns=2, narrow=narrow)
    by_documents, by_words = chart.axes
    ends = []
    for ax, lines in (
        (by_documents, series.latency_series(records, "documents")),
        (by_words, series.latency_series(records, "words")),
    ):
        ends.append((ax, list[LineEnd]()))
        for line, style in zip(lines, cycle(STYLES), strict=False):
            ax.plot(
                *zip(*line.points, strict=True), style.marker, color=style.colour, markersize=5, alpha=0.7
            )
            if line.line:
                ax.plot(*zip(*line.line, strict=True), style.line, color=style.colour, linewidth=1.6)
            if len(lines) > 1:
                ends[-1][1].append(LineEnd(*(line.line or sorted(line.points))[-1], line.name, style.colour))
        from_zero(ax)
        ends[-1][1].extend(chart.mark_timeout(ax))
    chart.label(by_documents, f"documents in a request (n={len(records)})", LATENCY)
    chart.label(by_words, f"words in a document, mean (n={len(records)})", LATENCY)
    return chart.finish(ends)


def latency_map(run: Run, *, narrow: bool = False) -> Figure:
    """Median latency of each pair of a number and a length of documents.

    Args:
        run: From :func:`ragops.bench.load_run`, of a workload such as :func:`ragops.bench.grid`.
        narrow: Laid out for a phone.

    Raises:
        BenchError: Its sizes are not a grid, or no request succeeded.
    """
    grid = series.size_grid(run)
    if grid is None:
        raise BenchError(
            f"{run.path} has no grid of sizes",
            hint="record one with ragops bench --profile grid",
            code="run-too-small",
            file=run.path,
        )
    title = f"Latency by documents and their length, {series.load_name(grid.level)}"
    chart = Chart(run, title, [1.2 + 0.62 * len(grid.documents)], narrow=narrow)
    (ax,) = chart.axes
    slowest = max(cell.seconds for cell in grid.cells)
    for cell in grid.cells:
        x, y = grid.words.index(cell.words), grid.documents.index(cell.documents)
        late = cell.seconds > chart.timeout
        shade, hatch = _SHADES(cell.seconds / slowest), "////" if late else None
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=shade, edgecolor=PAPER, linewidth=3, hatch=hatch))
        text = f"{seconds(cell.seconds)}\nn={cell.n}" + f"\nover {chart.timeout:g} s" * late
        ax.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=chart.small + 0.5, color=_CELL_INK)
    ax.set_xlim(0, len(grid.words))
    ax.set_ylim(0, len(grid.documents))
    ax.set_xticks([n + 0.5 for n in range(len(grid.words))], [grid.length(words) for words in grid.words])
    ax.set_yticks([n + 0.5 for n in range(len(grid.documents))], [str(count) for count in grid.documents])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    count = sum(cell.n for cell in grid.cells)
    chart.label(ax, f"length of a document, with its query (n={count}; median latency)", "documents")
    return chart.finish()
