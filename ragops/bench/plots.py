"""Charts of a recorded run; the only module that imports matplotlib.

Colours are Okabe and Ito's, and every series has its own marker or line, readable in grey too.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ragops.bench import statistics
from ragops.bench.report import release_of
from ragops.bench.statistics import load_name
from ragops.checks.latency import needed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes

    from ragops.bench.records import Run
    from ragops.checks.latency import Percentile

__all__ = ["latency_by_size", "percentile_curve", "svg", "throughput", "timeline"]

COLOURS = {
    "ink": "#1b1b1b", "quiet": "#5f5f5f", "grid": "#dddddd", "paper": "#ffffff", "blue": "#0072b2",
    "vermilion": "#d55e00", "green": "#009e73", "purple": "#cc79a7", "orange": "#e69f00", "sky": "#56b4e9",
    "black": "#000000",
}  # fmt: skip
"""The colours of the charts, by their names in the style of the report's page."""
INK, GREY = COLOURS["ink"], COLOURS["quiet"]
LATENCY = "latency (s)"


class Style(NamedTuple):
    """A colour with its own marker and line."""

    colour: str
    marker: str
    line: str


STYLES = tuple(
    Style(COLOURS[name], marker, line)
    for name, marker, line in (
        *(("blue", "o", "-"), ("vermilion", "s", "--"), ("green", "^", "-."), ("purple", "D", ":")),
        *(("orange", "v", "-"), ("sky", "P", "--"), ("black", "X", "-.")),
    )
)
BLUE, VERMILION, _, _, ORANGE, SKY, BLACK = STYLES

_SMALL = 9.5
_MAX_POINTS = 4000
"""Beyond this many points a figure holds them as an image."""
_RC: Any = {
    "svg.fonttype": "none",  # letters stay letters: sharp, searchable, a third of the size
    "svg.hashsalt": "ragops",
    "font.family": ["DejaVu Sans"],
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


class Chart:
    """A white figure with its title above and the provenance of its run below.

    Its panels are ``axes``: rows of these ``heights`` in inches, which share their x axis if there is one
    column.
    """

    def __init__(self, run: Run, title: str, heights: Sequence[float], *, columns: int = 1) -> None:
        self._timeout, info, origin = release_of(run).timeout, run.info, run.info.provenance
        digest = origin.image_digest.removeprefix("sha256:")[:12]
        image = f"image {digest}" if digest else origin.image
        parts = (origin.machine, origin.model or info.model, image, f"run {run.path.name}")
        notes = (*statistics.substitutes(run), *([] if info.complete else [f"incomplete: {info.reason}"]))
        lines = (" · ".join(part for part in parts if part), "; ".join(notes))
        caption = "\n".join(part for line in lines for part in textwrap.wrap(line, 125))
        with mpl.rc_context(_RC):
            self._figure = Figure((9, sum(heights) + 0.9), facecolor=COLOURS["paper"], layout="constrained")
            self._figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
            self._figure.supxlabel(caption, x=0.012, ha="left", fontsize=8.5, color=GREY)
            axes = self._figure.subplots(
                len(heights),
                columns,
                squeeze=False,
                sharex="col" if columns == 1 else False,
                gridspec_kw={"height_ratios": list(heights)},
            )
        self.axes = list[Any](axes.flat)
        for ax in self.axes:
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(axis="y", color=COLOURS["grid"], linewidth=0.8)
            ax.set_axisbelow(True)

    def mark_timeout(self, ax: Axes) -> None:
        """Mark RAGFlow's timeout if it is near, else write how far it is."""
        top, name = ax.get_ylim()[1], f"RAGFlow's timeout {self._timeout:g} s"
        if top > self._timeout / 2:
            ax.axhline(self._timeout, color=GREY, linewidth=1.2, linestyle=(0, (6, 3)), label=name)
            ax.set_ylim(0, max(top, self._timeout * 1.08))
        else:
            text = f"{name}, {self._timeout / top:.0f} times this axis"
            ax.set_title(text, fontsize=_SMALL, color=GREY, loc="left")

    def finish(self) -> Figure:
        """Add the legends, and fix the layout."""
        for ax in self.axes:
            if ax.get_legend_handles_labels()[0]:
                place: Any = {"loc": "upper left", "bbox_to_anchor": (1, 1), "borderaxespad": 0}
                ax.legend(frameon=False, fontsize=_SMALL, labelcolor=INK, **place)
        engine: Any = self._figure.get_layout_engine()
        engine.execute(self._figure)
        self._figure.set_layout_engine("none")
        for ax in self.axes:  # the solver's last digits change from one process to the next
            ax.set_position([round(part, 5) for part in ax.get_position().bounds])
        return self._figure


def _label(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_ylim(0, ax.get_ylim()[1] * 1.05)


def _intervals(ax: Axes, x: Iterable[float], rows: Iterable[Percentile], style: Style, **line: Any) -> None:
    """Percentiles with their intervals; those without a finite one are left out."""
    known = [
        (place, p.value, p.value - p.low, p.high - p.value)
        for place, p in zip(x, rows, strict=True)
        if p.value is not None and p.low is not None and p.high is not None and p.high < math.inf
    ]
    if known:
        places, values, *sides = zip(*known, strict=True)
        marks: Any = {"fmt": style.marker, "color": style.colour, "markersize": 6, "capsize": 4}
        ax.errorbar(places, values, sides, **marks, **line)


def percentile_curve(run: Run) -> Figure:
    """Latency at every percentile, level by level, with the tail drawn out.

    A line is dotted where there are too few requests for a 95 % interval; bars show the intervals of p50,
    p90, p95 and p99. Failed requests count as slowest, so a line ends before them.
    """
    chart = Chart(run, "Latency by percentile, measured requests", [3.9])
    (ax,) = chart.axes
    rows = statistics.level_statistics(run)
    for row, style in zip(rows, cycle(STYLES), strict=False):
        times = np.array(sorted(statistics.latencies([r for r in run.measured if r.level == row.level.name])))
        times = times[: row.n - row.errors]
        slower = 1 - (np.arange(len(times)) + 0.5) / row.n
        certain = np.array([needed(1 - x) <= row.n for x in slower], bool)
        failed = f", {row.errors} failed" if row.errors else ""
        line: Any = {"color": style.colour, "marker": style.marker, "markevery": []}  # marks in the legend
        line["label"] = f"{load_name(row.level.name)} (n={row.n}{failed})"
        ax.plot(slower, times, ":", color=style.colour, linewidth=1.2)
        ax.plot(slower[certain], times[certain], style.line, linewidth=1.9, **line)
        _intervals(ax, [1 - quantile for quantile in statistics.QUANTILES], row.latency, style)
    largest = max((row.n for row in rows), default=2)
    ticks = [1 - quantile for quantile in (*statistics.QUANTILES, 0.999) if 1 - quantile > 0.25 / largest]
    ax.set_xscale("log")
    ax.set_xlim(1.05, min(0.5 / largest, 0.04))
    ax.xaxis.set_major_locator(FixedLocator([1.0, *ticks]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "min" if x >= 1 else f"p{(1 - x) * 100:.3g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    _label(ax, "percentile; dotted: too few requests for a 95 % interval", LATENCY)
    chart.mark_timeout(ax)
    return chart.finish()


def throughput(run: Run) -> Figure:
    """Documents a second, and p50 and p95, by load level.

    The dots are repeats. The bars of the latency are 95 % intervals; percentiles that have none are left out.

    Raises:
        BenchError: Nothing was measured.
    """
    rows = statistics.level_statistics(run)
    if not rows:
        raise statistics.too_small(run, "no measured request")
    chart = Chart(run, "Throughput and latency by load", [3.6], columns=2)
    left, right = chart.axes
    places = range(len(rows))
    for x, row in zip(places, rows, strict=True):
        each = [rate.documents for rate in statistics.trial_rates(run, row.level)]
        left.plot([x] * len(each), each, "o", color=BLUE.colour, markersize=5)
    bars = left.bar(places, [row.documents_per_s for row in rows], 0.6, color=SKY.colour)
    left.bar_label(bars, fmt="{:.3g}", padding=7, fontsize=_SMALL)
    for place, style in ((0, BLUE), (2, VERMILION)):
        percentiles = [row.latency[place] for row in rows]
        _intervals(right, places, percentiles, style, label=percentiles[0].name)
    for ax in chart.axes:
        ax.set_xticks(places, [load_name(row.level.name).replace(" ", "\n") for row in rows])
        ax.set_xlim(-0.6, len(rows) - 0.4)
    count = sum(row.n for row in rows)
    _label(left, f"load (n={count} requests); bar: mean of repeats", "documents/s")
    _label(right, f"load (n={count} requests)", f"{LATENCY}, with 95 % interval")
    chart.mark_timeout(right)
    return chart.finish()


def latency_by_size(run: Run) -> Figure:
    """Latency against the number of documents, and against their length.

    Successful requests of the level with the fewest clients; lines join medians where sizes repeat.

    Raises:
        BenchError: No request of that level succeeded.
    """
    level, records = statistics.lightest_level(run)
    chart = Chart(run, f"Latency by size of a request, {load_name(level.name)}", [3.6], columns=2)
    table = statistics.frame(replace(run, requests=tuple(r for r in records if not r.error)))
    if table.empty:
        raise statistics.too_small(run, "no successful request")
    names = {"documents": "documents in a request", "words": "words in a document, mean"}
    for ax, size, other in zip(chart.axes, names, reversed(names), strict=True):
        groups: Any = [("all requests", table)]
        if table[other].nunique() <= len(STYLES):
            groups = [(f"{value} {other}", group) for value, group in table.groupby(other)]
        for (name, group), style in zip(groups, STYLES, strict=False):
            points: Any = {"markersize": 5, "alpha": 0.7, "label": name}
            ax.plot(group[size], group.latency, style.marker, color=style.colour, **points)
            medians = group.groupby(size).latency.median()
            if 1 < len(medians) <= len(group) / 2:
                ax.plot(medians.index, medians, style.line, color=style.colour)
        _label(ax, f"{names[size]} (n={len(table)})", LATENCY)
        chart.mark_timeout(ax)
    return chart.finish()


def timeline(run: Run) -> Figure:
    """Every request at the time when it was due, and the reranker's CPU, memory and queue below.

    Warm-up, failed and cancelled requests have marks of their own. Grey bands are every second trial.

    Raises:
        BenchError: Nothing was sent.
    """
    if not run.requests:
        raise statistics.too_small(run, "no request")
    panels = statistics.panels(run)
    chart = Chart(run, "Every request in time", [2.9, *([1.35] * len(panels))])
    kinds = (
        ("measured", BLUE, [r for r in run.measured if not r.error]),
        ("warm-up", ORANGE, [r for r in run.requests if r.phase == "warmup" and not r.error]),
        ("failed", VERMILION, [r for r in run.requests if r.error and not r.is_cancelled]),
        ("cancelled", BLACK, [r for r in run.requests if r.is_cancelled]),
    )
    for name, style, records in kinds:
        if records:
            due = [statistics.since_start(run, r.t_sched) for r in records]
            took = [r.latency for r in records]
            marks: Any = {"color": style.colour, "markersize": 4.5, "rasterized": len(records) > _MAX_POINTS}
            chart.axes[0].plot(due, took, style.marker, label=f"{name} (n={len(records)})", **marks)
    for ax, (unit, lines) in zip(chart.axes[1:], panels.items(), strict=True):
        for (name, line), style in zip(lines.items(), STYLES, strict=False):
            ax.plot(line.index, line, style.line, color=style.colour, linewidth=1.4, label=name)
        _label(ax, "", unit.replace(" (", "\n("))
    _label(chart.axes[0], "", LATENCY)
    trials, free, top = statistics.trials(run), -math.inf, chart.axes[0]
    for number, trial in enumerate(trials):
        start, end = (statistics.since_start(run, t) for t in (trial.start, trial.end))
        if number % 2 == 0:
            for ax in chart.axes:
                ax.axvspan(start, end, color=GREY, alpha=0.1, linewidth=0)
        if (start + end) / 2 > free:  # the load's name above, where it fits
            place: Any = {"transform": top.get_xaxis_transform(), "rotation": 30, "fontsize": _SMALL}
            top.text((start + end) / 2, 1.02, load_name(trial.level), color=GREY, **place)
            free = (start + end) / 2 + 0.03 * statistics.since_start(run, trials[-1].end)
    chart.axes[-1].set_xlabel(f"time since the start (s), n={len(run.requests)}")
    return chart.finish()


def svg(figure: Figure) -> str:
    """A figure as SVG; the same figure gives the same text."""
    with mpl.rc_context(_RC):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def inline(text: str, prefix: str) -> str:
    """An SVG document as an element of a page, in the page's colours; the prefix makes its ids unique."""
    text = re.sub(r"\A.*?(?=<svg )|<metadata>.*?</metadata>|<style .*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", text)
    for name, colour in COLOURS.items():
        text = text.replace(f": {colour}", f": var(--{name})")
    return text
