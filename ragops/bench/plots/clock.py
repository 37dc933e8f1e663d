"""Charts over time: every request, and the reranker's metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragops.bench import series, shape
from ragops.bench.gauges import timeseries
from ragops.bench.plots.frame import (
    BLACK,
    BLUE,
    GREY,
    INK,
    LATENCY,
    LOOKS,
    ORANGE,
    VERMILION,
    End,
    Look,
    frame,
    from_zero,
    label,
    limit,
    name_ends,
)  # fmt: skip
from ragops.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ragops.bench.gauges import TimeSeries
    from ragops.bench.plots.frame import Frame
    from ragops.bench.records import Run

_FAILED = Look(VERMILION.colour, "X", "none")
_SECONDS_SHOWN = 600
_POINTS_DRAWN = 4000
"""Beyond this many points a figure holds them as an image."""

Panel = tuple[str, list["TimeSeries"]]


def timeline(run: Run, *, narrow: bool = False) -> Figure:
    """Every request at the time when it was due, and the reranker's CPU, memory and queue below.

    Warm-up, failed and stopped requests are marked; a hatched band is a stall, see
    :func:`ragops.bench.shape.stalls`. Grey bands are trials.

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
    longest = max((span.end for span in series.spans(run)), default=0.0)
    return (60.0, "min") if longest > _SECONDS_SHOWN else (1.0, "s")


def _bands(made: Frame, ax: Axes, run: Run, scale: float, *, named: bool) -> None:
    """Grey behind every second trial, with the load's name above where it fits."""
    found = series.spans(run)
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
