"""Charts of load levels: latency percentiles, and throughput against latency.

Charts over time: every request, and the reranker's metrics.

Charts of latency against the size of a request.
"""

from __future__ import annotations

import math
from itertools import cycle, groupby
from typing import TYPE_CHECKING

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ragops.bench import series
from ragops.bench import series as shape
from ragops.bench.plots.frame import (
    BLACK,
    BLUE,
    GREY,
    INK,
    LATENCY,
    LOOKS,
    ORANGE,
    PAPER,
    SKY,
    VERMILION,
    End,
    Look,
    frame,
    from_zero,
    label,
    limit,
    name_ends,
)
from ragops.bench.series import timeseries
from ragops.bench.statistics import SHARES, passes, rates, waits
from ragops.bench.wire import RAGFLOW_TIMEOUT
from ragops.checks.latency import needed, percentile, seconds
from ragops.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ragops.bench.plots.frame import Frame
    from ragops.bench.records import Run
    from ragops.bench.series import Grid, Series, TimeSeries
    from ragops.bench.statistics import LevelFigures


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
        raise BenchError(
            f"{run.path} has no measured request",
            code="run-too-small",
            hint="record again; see its run.json for why",
            file=run.path,
        )
    made = frame(run, "Throughput, and the latency that it costs", [3.6], columns=2, narrow=narrow)
    _speeds(made, made.axes[0], run, rows)
    return name_ends(made, [(made.axes[1], _costs(made, made.axes[1], rows))]).figure


def percentile_curve(run: Run, *, narrow: bool = False) -> Figure:
    """Latency at every percentile, level by level, with the tail drawn out.

    A line is dotted where there are too few requests for a 95 % interval; bars show the intervals of p50,
    p90, p95 and p99. Failed requests count as slowest, so a line ends before them.

    Args:
        run: From :func:`ragops.bench.load_run`.
        narrow: Laid out for a phone.
    """
    made = frame(run, "Latency by percentile, measured requests", [3.9], narrow=narrow)
    (ax,) = made.axes
    rows = series.by_load(run)
    ends = [
        end for row, look in zip(rows, cycle(LOOKS), strict=False) for end in _curve(made, run, row, look)
    ]
    most = max((row.n for row in rows), default=2)
    shares = [share for share in (*SHARES, 0.999) if 1 - share > 0.25 / most]
    ax.set_xscale("log")
    ax.set_xlim(1.05, min(0.5 / most, 0.04))
    ax.xaxis.set_major_locator(FixedLocator([1.0] * (not narrow) + [1 - share for share in shares]))
    ax.xaxis.set_major_formatter(FuncFormatter(_percent))
    ax.xaxis.set_minor_locator(NullLocator())
    label(made, ax, "percentile; dotted: too few requests for a 95 % interval", LATENCY)
    from_zero(ax)
    return name_ends(made, [(ax, [*ends, *limit(made, ax)])]).figure


def _speeds(made: Frame, ax: Axes, run: Run, rows: list[LevelFigures]) -> None:
    for place, row in enumerate(rows):
        each = [rates(turn, row.level.clients).documents for turn in passes(run, row.level.name)]
        ax.plot([place] * len(each), each, "o", color=SKY.colour, markersize=5)
        ax.plot([place - 0.3, place + 0.3], [row.documents_per_s] * 2, "-", color=BLUE.colour, linewidth=2)
        ax.annotate(
            f"{row.documents_per_s:.3g}", (place, max(each)), (0, 5), textcoords="offset points", ha="center",
            fontsize=made.small, color=INK,
        )  # fmt: skip
    names = [series.load_name(row.level).replace(" ", "\n") for row in rows]
    ax.set_xticks(range(len(rows)), names)
    ax.set_xlim(-0.6, len(rows) - 0.4)
    count = sum(row.n for row in rows)
    label(made, ax, f"load (n={count} requests); line: mean of repeats, dot: one", "documents/s")
    from_zero(ax)


def _costs(made: Frame, ax: Axes, rows: list[LevelFigures]) -> list[End]:
    ends: list[End] = []
    for place, look in ((0, BLUE), (_surest_tail(rows), VERMILION)):
        named = False
        for _, kind in groupby(rows, key=lambda row: row.level.kind):
            dots = _known(list(kind), place)
            if dots:
                x, y, below, above = zip(*dots, strict=True)
                ax.errorbar(
                    x, y, (below, above), color=look.colour, marker=look.marker, linestyle=look.line,
                    capsize=4, linewidth=1.4, markersize=5,
                )  # fmt: skip
                ends += [] if named else [End(x[-1], y[-1], rows[0].latency[place].name, look.colour)]
                named = True
    ax.margins(x=0.2)
    from_zero(ax)
    ends += limit(made, ax)
    best = series.knee(rows)
    for row in rows:
        _name_load(made, ax, row, ": the knee" if row is best else "")
    count = sum(row.n for row in rows)
    label(made, ax, f"documents/s (n={count} requests)", f"{LATENCY}, bars: 95 % interval")
    return ends


def _surest_tail(rows: list[LevelFigures]) -> int:
    """Index of the highest percentile that most levels have."""
    known = [sum(row.latency[place].value is not None for row in rows) for place in range(len(SHARES))]
    return max(range(1, len(SHARES)), key=lambda place: (known[place], place))


def _name_load(made: Frame, ax: Axes, row: LevelFigures, more: str) -> None:
    if row.latency[0].value is not None and row.latency[0].value < math.inf:
        ax.annotate(
            series.load_name(row.level) + more, (row.documents_per_s, row.latency[0].value), (5, -5),
            textcoords="offset points", ha="left", va="top", fontsize=made.small, color=INK,
        )  # fmt: skip


def _known(rows: list[LevelFigures], place: int) -> list[tuple[float, float, float, float]]:
    """One percentile of each level: documents a second, its value, and how far its interval reaches."""
    found = ((row.documents_per_s, row.latency[place]) for row in rows)
    return [
        (x, one.value, one.value - one.low, one.high - one.value)
        for x, one in found
        if one.value is not None and one.low is not None and one.high is not None and one.high < math.inf
    ]


def _curve(made: Frame, run: Run, row: LevelFigures, look: Look) -> list[End]:
    (ax,) = made.axes
    times = sorted(waits([r for r in run.measured if r.level == row.level.name]))
    shares = [(rank - 0.5) / len(times) for rank in range(1, len(times) + 1)]
    dots = [(1 - p, t) for p, t in zip(shares, times, strict=True) if t < math.inf]
    sure = [(x, t) for x, t in dots if needed(1 - x) <= row.n]
    if not dots:
        return []
    ax.plot(*zip(*dots, strict=True), ":", color=look.colour, linewidth=1.2)
    if sure:
        ax.plot(*zip(*sure, strict=True), look.line, color=look.colour, linewidth=1.9)
    for share in SHARES:
        found = percentile(times, share)
        if found.value is not None and found.low is not None and found.high not in (None, math.inf):
            ax.plot([1 - share] * 2, [found.low, found.high], "-", color=look.colour, linewidth=3, alpha=0.35)
            ax.plot([1 - share], [found.value], look.marker, color=look.colour, markersize=6)
    ax.plot(*dots[-1], look.marker, color=look.colour, markersize=4, markerfacecolor="none")
    errors = f", {row.errors} failed" if row.errors else ""
    name = f"{series.load_name(row.level)} (n={row.n}{errors})"
    return [End(*dots[-1], name.replace(" (", "\n(") if made.narrow else name, look.colour)]


def _percent(slower: float, _: int | None = None) -> str:
    """Label of the percentile axis, which counts the fraction of slower requests."""
    return "min" if slower >= 1 else f"p{(1 - slower) * 100:.3g}"


_FAILED = Look(VERMILION.colour, "X", "none")
_SECONDS_SHOWN = 600
_POINTS_DRAWN = 4000
"""Beyond this many points a figure holds them as an image."""

Panel = tuple[str, list["TimeSeries"]]


def timeline(run: Run, *, narrow: bool = False) -> Figure:
    """Every request at the time when it was due, and the reranker's CPU, memory and queue below.

    Warm-up, failed and stopped requests are marked; a hatched band is a stall, see
    :func:`ragops.bench.series.stalls`. Grey bands are trials.

    Args:
        run: From :func:`ragops.bench.load_run`.
        narrow: Laid out for a phone.

    Raises:
        BenchError: Nothing was sent.
    """
    if not run.requests:
        raise BenchError(
            f"{run.path} has no request",
            hint="record again; see its run.json for why",
            code="run-too-small",
            file=run.path,
        )
    panels = _panels(run)
    heights, room = [2.9, *([1.35] * len(panels))], 0.45 if narrow else 0
    made = frame(run, "Every request in time", heights, narrow=narrow, room=room)
    scale, unit = _clock(run)
    ax = made.axes[0]
    _requests(made, ax, run, scale)
    label(made, ax, "", LATENCY)
    from_zero(ax)
    ends = [(ax, limit(made, ax, far=False))]
    for span in shape.stalls(run):
        ax.axvspan(
            span.start / scale, span.end / scale, facecolor="none", edgecolor=GREY, hatch="///", linewidth=0
        )
    _bands(made, ax, run, scale, named=True)
    ends += _lines(made, made.axes[1:], panels, run, scale)
    label(
        made,
        made.axes[-1],
        f"time since the start ({unit}), n={len(run.requests)}",
        made.axes[-1].get_ylabel(),
    )
    return name_ends(made, ends).figure


def resources(run: Run, *, narrow: bool = False) -> Figure:
    """CPU, memory and vLLM's queue during the run; grey bands are trials.

    Args:
        run: From :func:`ragops.bench.load_run`.
        narrow: Laid out for a phone.

    Raises:
        BenchError: The run has too few samples to draw.
    """
    panels = _panels(run)
    if not panels:
        raise BenchError(
            f"{run.path} has too few samples",
            code="run-too-small",
            hint="record for longer, with a sampler",
            file=run.path,
        )
    made = frame(run, "The reranker while it was measured", [1.7] * len(panels), narrow=narrow)
    scale, unit = _clock(run)
    ends = _lines(made, made.axes, panels, run, scale)
    _bands(made, made.axes[0], run, scale, named=True)
    last = made.axes[-1]
    label(made, last, f"time since the start ({unit}), n={len(run.samples)} samples", last.get_ylabel())
    return name_ends(made, ends).figure


def _requests(made: Frame, ax: Axes, run: Run, scale: float) -> None:
    measured = [r for r in run.requests if r.phase == "measure" and not r.error]
    warmup = [r for r in run.requests if r.phase == "warmup" and not r.error]
    failed = [r for r in run.requests if r.error and not r.is_cancelled]
    stopped = [r for r in run.requests if r.is_cancelled]
    kinds = (
        ("measured", BLUE, measured), ("warm-up", ORANGE, warmup),
        ("failed", _FAILED, failed), ("stopped", BLACK, stopped),
    )  # fmt: skip
    for name, look, records in kinds:
        if records:
            x = [series.since_start(run, r.t_sched) / scale for r in records]
            ax.plot(
                x, [r.latency for r in records], look.marker, color=look.colour,
                markerfacecolor="none" if name == "warm-up" else look.colour, markersize=4.5,
                label=f"{name} (n={len(records)})", rasterized=len(records) > _POINTS_DRAWN,
            )  # fmt: skip
    below = 1 - 0.3 / made.figure.get_figheight()
    made.figure.legend(
        loc="upper left" if made.narrow else "upper right", ncols=2 if made.narrow else 4, frameon=False,
        bbox_to_anchor=(0, below) if made.narrow else (1, 1), fontsize=made.small, columnspacing=1.2,
        handletextpad=0.2, labelcolor=INK,
    )  # fmt: skip


def _lines(
    made: Frame, axes: Sequence[Axes], panels: list[Panel], run: Run, scale: float
) -> list[tuple[Axes, list[End]]]:
    named = []
    for ax, (name, lines) in zip(axes, panels, strict=True):
        ends = []
        for one, look in zip(lines, LOOKS, strict=False):
            dots = [(t / scale, y) for t, y in one.dots]
            ax.plot(*zip(*dots, strict=True), look.line, color=look.colour, linewidth=1.4)
            ends.append(End(*dots[-1], one.name, look.colour))
        label(made, ax, "", name)
        from_zero(ax)
        _bands(made, ax, run, scale, named=False)
        named.append((ax, ends))
    return named


def _panels(run: Run) -> list[Panel]:
    """The panels with data: label of the y axis, and series."""
    panels: dict[str, list[TimeSeries]] = {}
    for one in timeseries(run):
        panels.setdefault(one.panel.replace(" (", "\n("), []).append(one)
    return list(panels.items())


def _clock(run: Run) -> tuple[float, str]:
    longest = max((span.end for span in series.level_spans(run)), default=0.0)
    return (60.0, "min") if longest > _SECONDS_SHOWN else (1.0, "s")


def _bands(made: Frame, ax: Axes, run: Run, scale: float, *, named: bool) -> None:
    """Grey behind every second trial, with the load's name above where it fits."""
    found = series.level_spans(run)
    total = max((span.end for span in found), default=1.0)
    letter = 0.024 if made.narrow else 0.012
    free = -1.0
    for number, span in enumerate(found):
        if number % 2 == 0:
            ax.axvspan(span.start / scale, span.end / scale, color=GREY, alpha=0.1, linewidth=0)
        name, middle = shape.words_for(run, span.level), (span.start + span.end) / 2
        tight = (span.end - span.start) / total < letter * len(name) + 0.01
        if named and middle / total > free:
            ax.text(
                middle / scale, 1.02, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom",
                fontsize=made.small, color=GREY, rotation=90 if tight else 0,
            )  # fmt: skip
            free = (middle / total + 2 * letter) if tight else span.end / total


_CELL_INK = "#111111"
_SHADES = LinearSegmentedColormap.from_list("shades", ["#f4f8fb", "#7fb2d6"])
"""Light enough for dark text, in grey too."""


def latency_by_size(run: Run, *, narrow: bool = False) -> Figure:
    """Latency against the number of documents, and against their length.

    Successful requests of the level with the fewest clients; lines join medians where sizes repeat.

    Args:
        run: From :func:`ragops.bench.load_run`.
        narrow: Laid out for a phone.

    Raises:
        BenchError: No request was answered.
    """
    level, good = series.calmest(run)
    made = frame(
        run, f"Latency by size of a request, {shape.words_for(run, level)}", [3.6], columns=2, narrow=narrow
    )
    by_documents = series.by_size(good, lambda r: r.documents, lambda r: r.words)
    by_words = series.by_size(good, lambda r: r.words, lambda r: r.documents)
    label(made, made.axes[0], f"documents in a request (n={len(good)})", LATENCY)
    label(made, made.axes[1], f"words in a document, mean (n={len(good)})", LATENCY)
    drawn = ((by_documents, " words"), (by_words, " documents"))
    panels = zip(made.axes, drawn, strict=True)
    return name_ends(made, [(ax, _draw(made, ax, *one)) for ax, one in panels]).figure


def latency_map(run: Run, *, narrow: bool = False) -> Figure:
    """Median latency of each pair of a number and a length of documents.

    Args:
        run: From :func:`ragops.bench.load_run`, of a workload such as :func:`ragops.bench.grid`.
        narrow: Laid out for a phone.

    Raises:
        BenchError: Its sizes are not a grid, or no request was answered.
    """
    grid = shape.grid_of(run)
    if grid is None:
        raise BenchError(
            f"{run.path} has no grid of sizes",
            hint="record one with ragops bench --profile grid",
            code="run-too-small",
            file=run.path,
        )
    height = 1.2 + 0.62 * len(grid.documents)
    made = frame(
        run,
        f"Latency by documents and their length, {shape.words_for(run, grid.level)}",
        [height],
        narrow=narrow,
    )
    (ax,) = made.axes
    for cell in grid.cells:
        _cell(made, ax, grid, cell)
    ax.set_xlim(0, len(grid.words))
    ax.set_ylim(0, len(grid.documents))
    ax.set_xticks([n + 0.5 for n in range(len(grid.words))], [grid.length(words) for words in grid.words])
    ax.set_yticks([n + 0.5 for n in range(len(grid.documents))], [str(count) for count in grid.documents])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    count = sum(cell.n for cell in grid.cells)
    label(made, ax, f"length of a document, with its query (n={count}; median latency)", "documents")
    return name_ends(made, []).figure


def _cell(made: Frame, ax: Axes, grid: Grid, cell: shape.Cell) -> None:
    x, y = grid.words.index(cell.words), grid.documents.index(cell.documents)
    most = max(one.seconds for one in grid.cells)
    late = cell.seconds > RAGFLOW_TIMEOUT
    ax.add_patch(
        Rectangle(
            (x, y), 1, 1, facecolor=_SHADES(cell.seconds / most), edgecolor=PAPER, linewidth=3,
            hatch="////" if late else None,
        )
    )  # fmt: skip
    text = f"{seconds(cell.seconds)}\nn={cell.n}" + ("\nover 30 s" if late else "")
    ax.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=made.small + 0.5, color=_CELL_INK)


def _draw(made: Frame, ax: Axes, found: Sequence[Series], unit: str) -> list[End]:
    ends = []
    for one, look in zip(found, cycle(LOOKS), strict=False):
        x, y = zip(*one.dots, strict=True)
        ax.plot(x, y, look.marker, color=look.colour, markersize=5, alpha=0.7)
        if one.line:
            ax.plot(*zip(*one.line, strict=True), look.line, color=look.colour, linewidth=1.6)
        if len(found) > 1:
            ends.append(End(*(one.line or sorted(one.dots))[-1], one.name + unit, look.colour))
    from_zero(ax)
    return [*ends, *limit(made, ax)]
