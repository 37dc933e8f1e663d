"""Figures of a recorded run; the only module that imports matplotlib.

Each takes what ``records.load_run`` gives and returns a Figure; the numbers are those of
``stats.py``. Colours are Okabe and Ito's, and every series also has a marker or line of its own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import cycle, pairwise
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from ragops.bench.quantiles import needed, percentile
from ragops.bench.stats import SHARES, figures, passes, rates, waits
from ragops.bench.wire import RAGFLOW_TIMEOUT
from ragops.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from matplotlib.axes import Axes

    from ragops.bench.level import Level
    from ragops.bench.records import RequestRecord, Run, Sample

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
GREY = "#5f5f5f"

_FEW = 6
_SECONDS_SHOWN = 300


class _Look(NamedTuple):
    colour: str
    marker: str
    line: str


_LOOKS = (
    _Look(BLUE, "o", "-"),
    _Look(VERMILION, "s", "--"),
    _Look(GREEN, "^", "-."),
    _Look(PURPLE, "D", ":"),
    _Look(ORANGE, "v", "-"),
    _Look(SKY, "P", "--"),
    _Look(BLACK, "X", "-."),
)


@dataclass(frozen=True)
class _Point:
    x: float
    seconds: float


def latency_by_size(run: Run) -> Figure:
    """Latency against the number of documents, and against their length.

    Requests of the level with the fewest clients; lines join medians where sizes repeat.
    """
    level, records = _calmest(run)
    good = [record for record in records if not record.error]
    fig, (left, right) = _figure(run, f"Latency by size of the request, load {level.name}", columns=2)
    _series(left, good, lambda r: r.documents, lambda r: r.words, "{:g} words each")
    _series(right, good, lambda r: r.words, lambda r: r.documents, "{:g} documents")
    _label(left, "documents in a request", "latency (s)", n=len(good))
    _label(right, "mean words in a document", "latency (s)", n=len(good))
    for ax in (left, right):
        _limit(ax)
    return fig


def throughput(run: Run) -> Figure:
    """Documents a second against the number of clients, and the latency that it costs.

    Raises:
        BenchError: No level of the run has clients that wait for answers.
    """
    rows = [row for row in figures(run) if row.level.clients]
    if not rows:
        raise BenchError(f"{run.path} has no closed level", hint="record with Level.closed(1), Level.closed(4)")
    rows.sort(key=lambda row: row.level.value)
    fig, (left, right) = _figure(run, "Throughput and latency by number of clients", columns=2)
    x = [row.level.value for row in rows]
    each = [
        (row.level.value, rates(turn, row.level.clients).documents)
        for row in rows
        for turn in passes(run, row.level.name)
    ]
    left.plot(*zip(*each, strict=True), "o", color=BLUE, alpha=0.45, label="one repeat")
    left.plot(x, [row.documents_per_s for row in rows], "-", color=BLUE, label="mean")
    for share, look in zip((0.5, 0.95), _LOOKS, strict=False):
        _interval_line(right, run, [row.level for row in rows], share, look)
    n = sum(row.n for row in rows)
    _label(left, "clients", "documents/s", n=n)
    _label(right, "clients", "latency (s)", n=n)
    for ax in (left, right):
        ax.xaxis.set_major_locator(FixedLocator(x))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.legend(frameon=False)
    _limit(right)
    return fig


def percentile_curve(run: Run) -> Figure:
    """Latency at every percentile, level by level, the tail drawn out.

    A line is dotted where there are too few requests for a 95 % interval; bars show the
    intervals of p50, p90, p95 and p99. Failed requests count as slowest, so a line ends before them.
    """
    fig, (ax,) = _figure(run, "Latency by percentile", columns=1)
    rows = figures(run)
    for row, look in zip(rows, cycle(_LOOKS), strict=False):
        _curve(ax, [r for r in run.measured if r.level == row.level.name], row.level.name, look)
    ax.set_xscale("log")
    least = min((1 / max(row.n, 2) for row in rows), default=0.01)
    ax.set_xlim(1, min(least / 2, 0.03))
    shares = (*SHARES, 0.999)
    ax.xaxis.set_major_locator(FixedLocator([1 - share for share in shares]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"p{(1 - value) * 100:.3g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    _label(ax, "percentile (the axis is the share of slower requests, logarithmic)", "latency (s)")
    ax.legend(frameon=False)
    _limit(ax)
    return fig


def timeline(run: Run) -> Figure:
    """Every request at the moment when it was due, warm-up and failures too."""
    fig, (ax,) = _figure(run, "Every request in time", columns=1)
    scale, unit = _clock(run)
    kinds = (
        ("measured", "o", BLUE, [r for r in run.requests if r.phase == "measure" and not r.error]),
        ("warm-up", "^", ORANGE, [r for r in run.requests if r.phase == "warmup" and not r.error]),
        ("failed", "X", VERMILION, [r for r in run.requests if r.error and not r.is_cancelled]),
        ("stopped", "s", GREY, [r for r in run.requests if r.is_cancelled]),
    )
    for name, marker, colour, records in kinds:
        if records:
            x = [(r.t_sched - run.info.started_ns) / 1e9 / scale for r in records]
            face = "none" if name == "warm-up" else colour
            ax.plot(
                x, [r.latency for r in records], marker, color=colour, markerfacecolor=face,
                markersize=5, alpha=0.85, label=f"{name} (n={len(records)})",
            )  # fmt: skip
    _label(ax, f"time since the start ({unit})", "latency (s)")
    _limit(ax)
    _bands(ax, run, scale)
    fig.legend(loc="outside lower center", ncols=4, frameon=False)
    return fig


def resources(run: Run) -> Figure:
    """CPU, memory and vLLM's queue while the run went on.

    Raises:
        BenchError: The run has no samples to speak of.
    """
    panels = [panel for panel in (_cpu, _memory, _queue) if panel(None, run.samples, 0, 1)]
    if len(run.samples) < 2 or not panels:
        raise BenchError(f"{run.path} has no samples", hint="record with a sampler")
    fig, axes = _figure(run, "The reranker while it was measured", rows=len(panels))
    scale, unit = _clock(run)
    for ax, panel in zip(axes, panels, strict=True):
        panel(ax, run.samples, run.info.started_ns, scale)
        ax.set_ylim(bottom=0)
        _bands(ax, run, scale, named=ax is axes[0])
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes[-1].set_xlabel(f"time since the start ({unit}), n={len(run.samples)} samples")
    return fig


def footer(run: Run) -> str:
    """Where a figure comes from: machine, model, image, run; and what stands in for what."""
    origin = run.info.provenance
    digest = origin.image_digest.removeprefix("sha256:")[:12]
    parts = (
        origin.machine,
        origin.model or run.info.model,
        f"image {digest}" if digest else origin.image,
        f"run {run.path.name}",
    )
    notes = (
        f"stand-in model: {origin.model_is_stand_in}" if origin.model_is_stand_in else "",
        f"stand-in client: {origin.client_is_stand_in}" if origin.client_is_stand_in else "",
        "" if run.info.complete else f"incomplete: {run.info.reason}",
    )
    lines = (" · ".join(part for part in parts if part), "; ".join(note for note in notes if note))
    return "\n".join(line for line in lines if line)
