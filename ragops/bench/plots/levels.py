"""Charts of load levels: latency percentiles, and throughput against latency."""

from __future__ import annotations

import math
from itertools import cycle, groupby
from typing import TYPE_CHECKING

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ragops.bench import shape
from ragops.bench.plots.frame import (
    BLUE,
    INK,
    LATENCY,
    LOOKS,
    SKY,
    VERMILION,
    End,
    frame,
    from_zero,
    label,
    limit,
    name_ends,
)  # fmt: skip
from ragops.bench.quantiles import needed, percentile
from ragops.bench.stats import SHARES, passes, rates, waits
from ragops.errors import BenchError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ragops.bench.plots.frame import Frame, Look
    from ragops.bench.records import Run
    from ragops.bench.stats import LevelFigures


def throughput(run: Run, *, narrow: bool = False) -> Figure:
    """Documents a second by load level, and against latency, with the knee.

    The dots are repeats. The bars are 95 % intervals, and percentiles that have none are left out.
    The knee is that of :func:`ragops.bench.shape.knee`.

    Args:
        run: From :func:`ragops.bench.load_run`.
        narrow: Laid out for a phone.

    Raises:
        BenchError: Nothing was measured.
    """
    rows = shape.by_load(run)
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
    rows = shape.by_load(run)
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
    names = [shape.load_name(row.level).replace(" ", "\n") for row in rows]
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
    best = shape.knee(rows)
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
            shape.load_name(row.level) + more, (row.documents_per_s, row.latency[0].value), (5, -5),
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
    name = f"{shape.load_name(row.level)} (n={row.n}{errors})"
    return [End(*dots[-1], name.replace(" (", "\n(") if made.narrow else name, look.colour)]


def _percent(slower: float, _: int | None = None) -> str:
    """Label of the percentile axis, which counts the fraction of slower requests."""
    return "min" if slower >= 1 else f"p{(1 - slower) * 100:.3g}"
