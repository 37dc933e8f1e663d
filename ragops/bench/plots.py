"""Figures of a recorded run; the only module that imports matplotlib.

Each takes what ``records.load_run`` gives and returns a Figure; what is drawn comes from
``series.py`` and ``stats.py``. Colours are Okabe and Ito's, and every series has a marker or
line of its own, so that a print in grey can be read too.
"""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ragops.bench import series
from ragops.bench.quantiles import needed, percentile
from ragops.bench.stats import SHARES, LevelFigures, figures, passes, rates, waits
from ragops.bench.wire import RAGFLOW_TIMEOUT
from ragops.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from ragops.bench.records import Run
    from ragops.bench.series import Dot, Series


class _Look(NamedTuple):
    colour: str
    marker: str
    line: str


_BLUE = _Look("#0072B2", "o", "-")
_VERMILION = _Look("#D55E00", "s", "--")
_GREEN = _Look("#009E73", "^", "-.")
_PURPLE = _Look("#CC79A7", "D", ":")
_ORANGE = _Look("#E69F00", "v", "-")
_SKY = _Look("#56B4E9", "P", "--")
_BLACK = _Look("#000000", "X", "-.")
_LOOKS = (_BLUE, _VERMILION, _GREEN, _PURPLE, _ORANGE, _SKY, _BLACK)
_FAILED = _Look("#D55E00", "X", "none")
_GREY = "#5f5f5f"

_SECONDS_SHOWN = 600
_GIB = 2**30


def latency_by_size(run: Run) -> Figure:
    """Latency against the number of documents, and against their length.

    Shows the answered requests of the level with the fewest clients; lines join medians where
    sizes repeat.
    """
    level, good = series.calmest(run)
    fig, axes = _figure(run, f"Latency by size of a request, {level}", columns=2)
    by_documents = series.by_size(good, lambda r: r.documents, lambda r: r.words)
    by_words = series.by_size(good, lambda r: r.words, lambda r: r.documents)
    _draw(axes[0], by_documents)
    _draw(axes[1], by_words)
    _label(axes[0], f"documents in a request (n={len(good)})", "latency (s)")
    _label(axes[1], f"words in a document, mean (n={len(good)})", "latency (s)")
    for ax, title in zip(axes, ("words in each document", "documents"), strict=True):
        _from_zero(ax)
        if ax.get_legend():
            ax.legend(
                title=title, alignment="left", loc="lower left", bbox_to_anchor=(0, 0.99), ncols=7,
                frameon=False, fontsize=9, title_fontsize=9, columnspacing=1.2, handletextpad=0.3,
            )  # fmt: skip
    return fig


def throughput(run: Run) -> Figure:
    """Documents a second against the number of clients, and the latency that it costs.

    Raises:
        BenchError: No level of the run has clients that wait for answers.
    """
    rows = sorted((row for row in figures(run) if row.level.clients), key=lambda row: row.level.value)
    if not rows:
        raise BenchError(
            f"{run.path} has no closed level", hint="record with Level.closed(1), Level.closed(4)"
        )
    count = sum(row.n for row in rows)
    fig, axes = _figure(run, "Throughput and latency by number of clients", columns=2)
    _speeds(axes[0], run, rows)
    for place, look in ((0, _BLUE), (1, _GREEN), (2, _VERMILION)):
        _with_intervals(axes[1], rows, place, look)
    _label(axes[0], f"clients (n={count} requests)", "documents/s")
    _label(axes[1], f"clients (n={count} requests)", "latency (s), bars: 95 % interval")
    for ax in axes:
        ax.xaxis.set_major_locator(FixedLocator([row.level.value for row in rows]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.margins(x=0.08)
        _from_zero(ax)
    return fig


def percentile_curve(run: Run) -> Figure:
    """Latency at every percentile, level by level, with the tail drawn out.

    A line is thin and dotted where there are too few requests for a 95 % interval; bars show the
    intervals of p50, p90, p95 and p99. Failed requests count as slowest, so a line ends before
    them.
    """
    fig, (ax,) = _figure(run, "Latency by percentile, measured requests", columns=1)
    rows = figures(run)
    for row, look in zip(rows, cycle(_LOOKS), strict=False):
        _curve(ax, run, row, look)
    most = max((row.n for row in rows), default=2)
    shares = [share for share in (*SHARES, 0.999) if 1 - share > 0.25 / most]
    ax.set_xscale("log")
    ax.set_xlim(1.05, min(0.5 / most, 0.04))
    ax.xaxis.set_major_locator(FixedLocator([1.0, *(1 - share for share in shares)]))
    ax.xaxis.set_major_formatter(FuncFormatter(_percent))
    ax.xaxis.set_minor_locator(NullLocator())
    _label(ax, "percentile; dotted: too few requests for a 95 % interval", "latency (s)")
    _from_zero(ax)
    return fig


def timeline(run: Run) -> Figure:
    """Every request at the moment when it was due, warm-up, failed and stopped ones too."""
    fig, (ax,) = _figure(run, "Every request in time", columns=1)
    scale, unit = _clock(run)
    measured = [r for r in run.requests if r.phase == "measure" and not r.error]
    warmup = [r for r in run.requests if r.phase == "warmup" and not r.error]
    failed = [r for r in run.requests if r.error and not r.is_cancelled]
    stopped = [r for r in run.requests if r.is_cancelled]
    kinds = (
        ("measured", _BLUE, measured), ("warm-up", _ORANGE, warmup),
        ("failed", _FAILED, failed), ("stopped", _BLACK, stopped),
    )  # fmt: skip
    for name, look, records in kinds:
        if records:
            face = "none" if name == "warm-up" else look.colour
            x = [series.since_start(run, r.t_sched) / scale for r in records]
            ax.plot(
                x, [r.latency for r in records], look.marker, color=look.colour, markerfacecolor=face,
                markersize=5, label=f"{name} (n={len(records)})",
            )  # fmt: skip
    _label(ax, f"time since the start ({unit}), n={len(run.requests)}", "latency (s)")
    _from_zero(ax)
    ax.legend().remove()
    fig.legend(loc="upper right", ncols=4, frameon=False, fontsize=9.5, columnspacing=1.2, handletextpad=0.2)
    _bands(ax, run, scale, named=True)
    return fig


def resources(run: Run) -> Figure:
    """CPU, memory and vLLM's queue while the run went on; grey where a level was played.

    Raises:
        BenchError: The run has too few samples to draw.
    """
    panels = _panels(run)
    if not panels:
        raise BenchError(f"{run.path} has too few samples", hint="record for longer, with a sampler")
    fig, axes = _figure(run, "The reranker while it was measured", rows=len(panels))
    scale, unit = _clock(run)
    for ax, (label, lines) in zip(axes, panels, strict=True):
        for one, look in zip(lines, _LOOKS, strict=False):
            x, y = zip(*one.dots, strict=True)
            ax.plot([t / scale for t in x], y, look.line, color=look.colour, label=one.name)
        _label(ax, "", label)
        _from_zero(ax)
        if len(lines) > 1:
            ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9.5)
        _bands(ax, run, scale, named=ax is axes[0])
    axes[-1].set_xlabel(f"time since the start ({unit}), n={len(run.samples)} samples", fontsize=10.5)
    return fig


def _panels(run: Run) -> list[tuple[str, list[Series]]]:
    """The panels that have something to show: a label of the y axis, and lines."""
    line = series.Series
    memory = tuple((t, y / _GIB) for t, y in series.levels_of(run, lambda s: s.memory_bytes))
    wanted = (
        ("CPU (cores)", line("in use", series.growth_of(run, lambda s: s.cpu_ns))),
        ("CPU (cores)", line("throttled", series.growth_of(run, lambda s: s.throttled_ns))),
        ("memory (GiB)", line("in use", memory)),
        ("documents", line("running", series.levels_of(run, lambda s: s.running))),
        ("documents", line("waiting", series.levels_of(run, lambda s: s.waiting))),
    )
    panels: dict[str, list[Series]] = {}
    for label, one in wanted:
        if len(one.dots) > 1:
            panels.setdefault(label, []).append(one)
    return list(panels.items())


def _figure(run: Run, title: str, *, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A white figure with its title above and where it comes from below."""
    fig = Figure(figsize=(9, 2.0 + 2.6 * rows if rows == 1 else 1.4 + 1.9 * rows), facecolor="white", dpi=100)
    caption = series.footer(run)
    height = fig.get_figheight()
    below, above = (0.24 + 0.17 * caption.count("\n")) / height, 0.38 / height
    fig.set_layout_engine("constrained", rect=(0, below, 1, 1 - below - above))
    fig.text(0.012, 1 - 0.08 / height, title, fontsize=13, fontweight="bold", va="top")
    fig.text(0.012, 0.07 / height, caption, fontsize=8.5, color=_GREY, va="bottom", linespacing=1.35)
    axes = fig.subplots(rows, columns, squeeze=False, sharex="col" if rows > 1 else False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#dddddd", linewidth=0.8)
        ax.set_axisbelow(True)
    return fig, list(axes.flat)


def _label(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=10.5)
    ax.set_ylabel(y, fontsize=10.5)


def _from_zero(ax: Axes) -> None:
    """Start at zero, mark RAGFlow's limit where it is near, and name what is drawn."""
    top = ax.get_ylim()[1]
    if "latency" in ax.get_ylabel() and top > RAGFLOW_TIMEOUT / 2:
        places = [step / 50 for step in range(51)]  # many, so that a legend finds the line and avoids it
        ax.plot(
            places, [RAGFLOW_TIMEOUT] * 51, transform=ax.get_yaxis_transform(), color=_GREY,
            linewidth=1.2, linestyle=(0, (6, 3)), scalex=False,
        )  # fmt: skip
        ax.text(
            1.01, RAGFLOW_TIMEOUT, "RAGFlow\nwaits 30 s", transform=ax.get_yaxis_transform(), va="center",
            fontsize=8.5, color=_GREY,
        )  # fmt: skip
        top = max(top, RAGFLOW_TIMEOUT)
    ax.set_ylim(0, top * 1.06)
    if len(ax.get_legend_handles_labels()[1]) > 1:
        ax.legend(framealpha=0.8, edgecolor="none", fontsize=9.5)


def _draw(ax: Axes, found: Sequence[Series]) -> None:
    for one, look in zip(found, cycle(_LOOKS), strict=False):
        x, y = zip(*one.dots, strict=True)
        ax.plot(x, y, look.marker, color=look.colour, markersize=5, alpha=0.7)
        if one.line:
            ax.plot(*zip(*one.line, strict=True), look.line, color=look.colour, linewidth=1.6)
        line = look.line if one.line else "none"
        ax.plot([], [], linestyle=line, marker=look.marker, color=look.colour, label=one.name)


def _speeds(ax: Axes, run: Run, rows: list[LevelFigures]) -> None:
    dots: list[Dot] = [
        (row.level.value, rates(turn, row.level.clients).documents)
        for row in rows
        for turn in passes(run, row.level.name)
    ]
    ax.plot(*zip(*dots, strict=True), "o", color=_SKY.colour, label="one repeat")
    means = [row.documents_per_s for row in rows]
    ax.plot([row.level.value for row in rows], means, "-", color=_BLUE.colour, label="mean of repeats")


def _with_intervals(ax: Axes, rows: list[LevelFigures], place: int, look: _Look) -> None:
    """One percentile by number of clients, where there are enough requests for its interval."""
    known = [(row.level.value, row.latency[place]) for row in rows]
    points = [
        (x, found.value, found.value - found.low, found.high - found.value)
        for x, found in known
        if found.value is not None and found.low is not None and found.high is not None
        if max(found.value, found.high) < float("inf")
    ]
    if not points:
        return
    x, y, below, above = zip(*points, strict=True)
    ax.errorbar(
        x, y, (below, above), color=look.colour, marker=look.marker, linestyle=look.line, capsize=4,
        label=known[0][1].name,
    )  # fmt: skip


def _curve(ax: Axes, run: Run, row: LevelFigures, look: _Look) -> None:
    times = sorted(waits([r for r in run.measured if r.level == row.level.name]))
    shares = [(rank - 0.5) / len(times) for rank in range(1, len(times) + 1)]
    dots = [(1 - p, t) for p, t in zip(shares, times, strict=True) if t < float("inf")]
    sure = [(x, t) for x, t in dots if needed(1 - x) <= row.n]
    errors = f", {row.errors} failed" if row.errors else ""
    name = f"{row.level.name} (n={row.n}{errors})"
    if dots:
        ax.plot(*zip(*dots, strict=True), ":", color=look.colour, linewidth=1.2)
    if sure:
        ax.plot(*zip(*sure, strict=True), look.line, color=look.colour, linewidth=1.9)
    ax.plot([], [], look.line, marker=look.marker, color=look.colour, label=name)
    for share in SHARES:
        found = percentile(times, share)
        if found.value is not None and found.low is not None and found.high not in (None, float("inf")):
            ax.plot([1 - share] * 2, [found.low, found.high], "-", color=look.colour, linewidth=3, alpha=0.35)
            ax.plot([1 - share], [found.value], look.marker, color=look.colour, markersize=6)


def _percent(slower: float, _: int | None = None) -> str:
    """Name of a place on the percentile axis, which counts the share of slower requests."""
    return "min" if slower >= 1 else f"p{(1 - slower) * 100:.3g}"


def _clock(run: Run) -> tuple[float, str]:
    longest = max((span.end for span in series.spans(run)), default=0.0)
    return (60.0, "min") if longest > _SECONDS_SHOWN else (1.0, "s")


def _bands(ax: Axes, run: Run, scale: float, *, named: bool) -> None:
    """Grey behind every second pass, with the level's name above when there is room for it."""
    found = series.spans(run)
    total = max((span.end for span in found), default=1.0)
    for number, span in enumerate(found):
        if number % 2 == 0:
            ax.axvspan(span.start / scale, span.end / scale, color="#000000", alpha=0.05, linewidth=0)
        if named:
            narrow = (span.end - span.start) / total < 0.012 * len(span.level) + 0.01
            ax.text(
                (span.start + span.end) / 2 / scale, 1.01, span.level, transform=ax.get_xaxis_transform(),
                ha="left" if narrow else "center", va="bottom", fontsize=9, color=_GREY,
                rotation=35 if narrow else 0, rotation_mode="anchor",
            )  # fmt: skip
