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
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ragops.bench import statistics
from ragops.bench.report import release_of, service_time
from ragops.bench.statistics import load_name
from ragops.checks.latency import needed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from ragops.bench.records import Run
    from ragops.checks.latency import Percentile, ServiceTime

__all__ = [
    "both_forms",
    "latency_by_size",
    "percentile_curve",
    "size_map",
    "svg",
    "throughput",
    "timeline",
]

COLOURS = {
    "ink": "#1b1b1b", "quiet": "#5f5f5f", "grid": "#dddddd", "paper": "#ffffff", "blue": "#0072b2",
    "vermilion": "#d55e00", "green": "#009e73", "purple": "#cc79a7", "orange": "#e69f00", "sky": "#56b4e9",
    "black": "#000000",
}  # fmt: skip
"""The colours of the charts, by their names in the style of the report's page."""
INK, GREY = COLOURS["ink"], COLOURS["quiet"]
LATENCY = "latency (s)"
FORMS = ("wide", "narrow")


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
    """A white figure with its title above and its provenance below.

    Its panels are ``axes``: rows of these ``heights`` in inches, which share their x axis if there is one
    column. A narrow figure, for telephones, has one column and its legends below.
    """

    def __init__(
        self, title: str, caption: Sequence[str], heights: Sequence[float], columns: int = 1, *, narrow: bool
    ) -> None:
        self._narrow = narrow
        rows = [*heights] * (columns if narrow else 1)
        width, columns = (4.3, 1) if narrow else (9, columns)
        wrapped = [part for line in caption for part in textwrap.wrap(line, 58 if narrow else 125)]
        with mpl.rc_context(_RC):
            self.figure = Figure((width, sum(rows) + 0.9), facecolor=COLOURS["paper"], layout="constrained")
            place: Any = {"x": 0.012, "ha": "left"}
            self.figure.suptitle(
                textwrap.fill(title, 34) if narrow else title, fontsize=13, fontweight="bold", **place
            )
            self.figure.supxlabel("\n".join(wrapped), fontsize=8.5, color=GREY, **place)
            ratios = {"height_ratios": rows}
            shared: Any = "col" if len(heights) > 1 else False
            axes = self.figure.subplots(len(rows), columns, squeeze=False, sharex=shared, gridspec_kw=ratios)
        self.axes = list[Any](axes.flat)
        for ax in self.axes:
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(axis="y", color=COLOURS["grid"], linewidth=0.8)
            ax.set_axisbelow(True)

    def finish(self) -> Figure:
        """Add the legends, and fix the layout."""
        for ax in self.axes:
            if self._narrow:
                ax.set_xlabel(textwrap.fill(ax.get_xlabel(), 42))
            if ax.get_legend_handles_labels()[0]:
                place: Any = {"loc": "upper left", "bbox_to_anchor": (1, 1), "borderaxespad": 0}
                if self._narrow:
                    place = {"loc": "lower left", "bbox_to_anchor": (0, 1.01), "borderaxespad": 0}
                ax.legend(frameon=False, fontsize=_SMALL, labelcolor=INK, **place)
        engine: Any = self.figure.get_layout_engine()
        engine.execute(self.figure)
        self.figure.set_layout_engine("none")
        for ax in self.axes:  # the solver's last digits change from one process to the next
            ax.set_position([round(part, 5) for part in ax.get_position().bounds])
        return self.figure


def _chart(run: Run, title: str, heights: Sequence[float], columns: int = 1, *, narrow: bool) -> Chart:
    """A chart that names its run."""
    info, origin = run.info, run.info.provenance
    digest = origin.image_digest.removeprefix("sha256:")[:12]
    image = f"image {digest}" if digest else origin.image
    parts = (origin.machine_label, origin.model or info.model, image, f"run {run.path.name}")
    notes = (*statistics.substitutes(run), *([] if info.complete else [f"incomplete: {info.reason}"]))
    caption = (" · ".join(part for part in parts if part), "; ".join(notes))
    return Chart(title, caption, heights, columns, narrow=narrow)


def _plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())


def _seconds_axis(run: Run, ax: Axes) -> None:
    """A logarithmic axis of latency that contains RAGFlow's timeout, with the range above it tinted."""
    timeout = release_of(run).timeout
    ax.set_yscale("log")
    bottom, top = ax.get_ylim()
    top = max(top, timeout * 3)
    ax.set_ylim(min(bottom * 0.8, timeout / 10), top)
    _plain_ticks(ax.yaxis)
    ax.axhspan(timeout, top, color=VERMILION.colour, alpha=0.1, linewidth=0)
    ax.axhline(timeout, color=GREY, linewidth=1.2, linestyle=(0, (6, 3)))
    place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "color": GREY}
    ax.annotate(f"RAGFlow's timeout {timeout:g} s", (0, timeout), (4, 4), fontsize=_SMALL, **place)


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


def percentile_curve(run: Run, *, narrow: bool = False) -> Figure:
    """Latency at every percentile, level by level, with the tail drawn out.

    A line is dotted where there are too few requests for a 95 % interval; bars show the intervals of p50,
    p90, p95 and p99. Failed requests count as slowest, so a line ends before them.
    """
    chart = _chart(run, "Latency by percentile, measured requests", [3.9], narrow=narrow)
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
    ax.set(xlabel="percentile; dotted: too few requests for a 95 % interval", ylabel=LATENCY)
    _seconds_axis(run, ax)
    return chart.finish()


def throughput(run: Run, *, narrow: bool = False) -> Figure:
    """Documents a second, and p50 and p95, by load level.

    The dots are repeats. The bars of the latency are 95 % intervals; percentiles that have none are left out.

    Raises:
        BenchError: Nothing was measured.
    """
    rows = statistics.level_statistics(run)
    if not rows:
        raise statistics.too_small(run, "no measured request")
    chart = _chart(run, "Throughput and latency by load", [3.6], 2, narrow=narrow)
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
    left.set(xlabel=f"load (n={count} requests); bar: mean of repeats", ylabel="documents/s")
    left.margins(y=0.12)
    right.set(xlabel=f"load (n={count} requests)", ylabel=f"{LATENCY}, with 95 % interval")
    _seconds_axis(run, right)
    return chart.finish()


def latency_by_size(run: Run, *, narrow: bool = False) -> Figure:
    """Latency against the tokens of a request, with the linear fit, and where it reaches RAGFlow's timeout.

    Successful requests of the level with the fewest clients, on logarithmic axes. The band around the line
    is two standard errors; the line is dotted beyond the measured sizes. Without counted tokens or without a
    fit there are points only.

    Raises:
        BenchError: No request of that level succeeded.
    """
    level, records = statistics.lightest_level(run)
    records = [record for record in records if not record.error]
    if not records:
        raise statistics.too_small(run, "no successful request")
    chart = _chart(run, f"Latency by size of a request, {load_name(level.name)}", [4], narrow=narrow)
    (ax,) = chart.axes
    is_counted = all(record.tokens for record in records)
    places = np.array([r.tokens if is_counted else r.documents * r.words for r in records], float)
    counts = sorted({record.documents for record in records})
    groups = [(f"{count} documents", [count]) for count in counts]
    groups = groups if len(counts) <= len(STYLES) else [(f"{counts[0]} to {counts[-1]} documents", counts)]
    for (name, own), style in zip(groups, STYLES, strict=False):
        is_own = [record.documents in own for record in records]
        times = [record.latency for record in records if record.documents in own]
        points: Any = {
            "color": style.colour,
            "markersize": 5,
            "alpha": 0.7,
            "label": f"{name} (n={len(times)})",
        }
        ax.plot(places[is_own], times, style.marker, **points)
    ax.set_xscale("log")
    line = service_time(run)[0]
    if line and is_counted:
        _fitted_line(ax, line, (places.min(), places.max()), release_of(run).timeout)
    _plain_ticks(ax.xaxis)
    unit = "tokens" if is_counted else "words"
    ax.set(xlabel=f"{unit} in a request, all documents together (n={len(records)})", ylabel=LATENCY)
    _seconds_axis(run, ax)
    return chart.finish()


def _fitted_line(ax: Axes, line: ServiceTime, measured: tuple[float, float], timeout: float) -> None:
    """The fit of time against tokens with its band, up to where it reaches the timeout."""
    crossing = (timeout - line.fixed_s) / line.per_token_s
    first, last = measured
    x = np.geomspace(first, max(last, crossing, first * 1.1), 60)
    y = np.array([line.seconds(tokens) for tokens in x])
    low, high = (np.clip(y + side * line.residual_s, y.max() / 1e4, None) for side in (-2, 2))
    ax.fill_between(x, low, high, color=GREY, alpha=0.2, linewidth=0)
    for part, style in ((x <= last, "-"), (x >= last, ":")):
        ax.plot(x[part], y[part], style, color=INK, linewidth=1.3)
    if crossing > first:
        ax.plot([crossing], [timeout], "|", color=INK, markersize=14)
        place: Any = {"textcoords": "offset points", "ha": "right", "fontsize": _SMALL, "color": INK}
        ax.annotate(f"{crossing:,.0f} tokens", (crossing, timeout), (-6, 6), **place)


def size_map(run: Run, *, narrow: bool = False) -> Figure:
    """Median latency of each number and length of documents, of a run of the workload ``grid``.

    The colour is deeper for longer times on a logarithmic scale, and vermilion beyond RAGFlow's timeout.

    Raises:
        BenchError: No request of the level with the fewest clients succeeded.
    """
    level, records = statistics.lightest_level(run)
    table = statistics.frame(replace(run, requests=tuple(r for r in records if not r.error)))
    if table.empty:
        raise statistics.too_small(run, "no successful request")
    cells: Any = table.groupby(["words", "documents"]).latency.median().unstack()
    title = f"Median latency in s by size of a request, {load_name(level.name)}"
    chart = _chart(run, title, [0.7 + 0.55 * len(cells)], narrow=narrow)
    (ax,), timeout = chart.axes, release_of(run).timeout
    most = cells.max(axis=None)
    span = max(math.log(most / cells.min(axis=None)), 1e-9)
    for (y, x), seconds in np.ndenumerate(cells):
        depth = 0.08 + 0.5 * (1 - math.log(most / seconds) / span)
        colour = VERMILION.colour if seconds > timeout else BLUE.colour
        if not math.isnan(seconds):
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=colour, alpha=depth, linewidth=0))
            ax.text(x, y, f"{seconds:.3g}", ha="center", va="center", color=INK)
    ax.set_xticks(range(len(cells.columns)), [f"{count:g}" for count in cells.columns])
    ax.set_yticks(range(len(cells)), [f"{words:.0f}" for words in cells.index])
    ax.set(xlim=(-0.5, len(cells.columns) - 0.5), ylim=(-0.5, len(cells) - 0.5))
    ax.set(xlabel=f"documents in a request (n={len(table)})", ylabel="words in a document")
    return chart.finish()


def timeline(run: Run, *, narrow: bool = False) -> Figure:
    """Every request at the time when it was due, and the reranker's CPU, memory and queue below.

    Warm-up, failed and cancelled requests have marks of their own. Grey bands are every second trial.

    Raises:
        BenchError: Nothing was sent.
    """
    if not run.requests:
        raise statistics.too_small(run, "no request")
    panels = statistics.panels(run)
    chart = _chart(run, "Every request in time", [2.9, *([1.35] * len(panels))], narrow=narrow)
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
        ax.set_ylabel(unit.replace(" (", "\n("))
        ax.set_ylim(0)
    chart.axes[0].set_ylabel(LATENCY)
    _seconds_axis(run, chart.axes[0])
    trials, free, top = statistics.trials(run), -math.inf, chart.axes[0]
    for number, trial in enumerate(trials):
        start, end = (statistics.since_start(run, t) for t in (trial.start, trial.end))
        if number % 2 == 0:
            for ax in chart.axes:
                ax.axvspan(start, end, color=GREY, alpha=0.1, linewidth=0)
        if (start + end) / 2 > free and not narrow:  # the load's name above, where it fits
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


def both_forms(draw: Callable[..., Figure], *content: Any, name: str = "") -> str:
    """A chart as elements of a page: the wide and the narrow form, of which the page's style shows one.

    ``name`` makes the ids unique; the function's by default.
    """
    parts = []
    for form in FORMS:
        figure = draw(*content, narrow=form == "narrow")
        text = inline(svg(figure), f"{name or draw.__name__}-{form}-")
        parts.append(f'<div class="ragops-{form}-form">{text}</div>')
    return "".join(parts)


def inline(text: str, prefix: str) -> str:
    """An SVG document as an element of a page, in the page's colours; the prefix makes its ids unique."""
    text = re.sub(r"\A.*?(?=<svg )|<metadata>.*?</metadata>|<style .*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", text)
    for name, colour in COLOURS.items():
        text = text.replace(f": {colour}", f": var(--{name})")
    return text
