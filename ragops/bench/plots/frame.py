"""Colours, frame, labels and files of all charts."""

from __future__ import annotations

import io
import textwrap
from itertools import accumulate, pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from ragops.bench import series
from ragops.bench.wire import RAGFLOW_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from ragops.bench.records import Run

INK, GREY, GRID, PAPER = "#1b1b1b", "#5f5f5f", "#dddddd", "#ffffff"
LATENCY = "latency (s)"


class Look(NamedTuple):
    """A colour of Okabe and Ito with its own marker and line."""

    colour: str
    marker: str
    line: str


BLUE = Look("#0072b2", "o", "-")
VERMILION = Look("#d55e00", "s", "--")
GREEN = Look("#009e73", "^", "-.")
PURPLE = Look("#cc79a7", "D", ":")
ORANGE = Look("#e69f00", "v", "-")
SKY = Look("#56b4e9", "P", "--")
BLACK = Look("#000000", "X", "-.")
LOOKS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)

_INKS = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
_STYLE: Any = {
    "svg.fonttype": "none",  # letters stay letters: sharp, found by a search, a third of the size
    "font.family": ["DejaVu Sans"],
    **dict.fromkeys(_INKS, INK),
}


class Frame(NamedTuple):
    """A figure, its panels and its layout."""

    figure: Figure
    axes: list[Axes]
    narrow: bool

    @property
    def small(self) -> float:
        """Points of the smaller letters."""
        return 8.5 if self.narrow else 9.5


class End(NamedTuple):
    """The end of a line, and its name."""

    x: float
    y: float
    name: str
    colour: str


def frame(
    run: Run, title: str, heights: Sequence[float], *, columns: int = 1, narrow: bool = False, room: float = 0
) -> Frame:
    """A white figure with its title above and its caption below.

    Args:
        run: Source of the caption.
        title: The title.
        heights: Inches of each row of panels; rows of one column share their x axis.
        columns: Panels beside each other; below each other when narrow.
        narrow: Laid out for a phone.
        room: Inches left free below the title, as for a legend.
    """
    shared = columns == 1
    if narrow:
        heights, columns = [height for height in heights for _ in range(columns)], 1
    caption = series.footer(run, 54 if narrow else 125)
    title = textwrap.fill(title, 32 if narrow else 99)
    below, above = 0.28 + 0.17 * caption.count("\n"), 0.4 + 0.2 * title.count("\n") + room
    height = sum(heights) + below + above
    with mpl.rc_context(_STYLE):
        fig = Figure(figsize=(3.9 if narrow else 9, height), facecolor=PAPER, dpi=100)
        fig.set_layout_engine("constrained", rect=(0, below / height, 1, 1 - (below + above) / height))
        fig.text(0.012, 1 - 0.08 / height, title, fontsize=12 if narrow else 13, fontweight="bold", va="top")
        fig.text(0.012, 0.07 / height, caption, fontsize=8.5, color=GREY, va="bottom", linespacing=1.35)
        axes = fig.subplots(
            len(heights), columns, squeeze=False, sharex="col" if shared else False,
            gridspec_kw={"height_ratios": list(heights)},
        )  # fmt: skip
        for ax in axes.flat:
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(axis="y", color=GRID, linewidth=0.8)
            ax.set_axisbelow(True)
            ax.tick_params(labelsize=9 if narrow else 10)
    return Frame(fig, list(axes.flat), narrow)


def label(made: Frame, ax: Axes, x: str, y: str) -> None:
    """Names of the axes, with their units."""
    if made.narrow:
        x = textwrap.fill(x, 40)
    ax.set_xlabel(x, fontsize=9.5 if made.narrow else 10.5)
    ax.set_ylabel(y, fontsize=9.5 if made.narrow else 10.5)


def from_zero(ax: Axes) -> None:
    """Start the y axis at zero, with a margin above."""
    ax.set_ylim(0, ax.get_ylim()[1] * 1.05)


def limit(made: Frame, ax: Axes, *, far: bool = True) -> list[End]:
    """Mark RAGFlow's timeout if it is near; else, with ``far``, write how far it is."""
    top = ax.get_ylim()[1]
    if top > RAGFLOW_TIMEOUT / 2:
        ax.axhline(RAGFLOW_TIMEOUT, color=GREY, linewidth=1.2, linestyle=(0, (6, 3)))
        ax.set_ylim(0, max(top, RAGFLOW_TIMEOUT * 1.08))
        return [End(ax.get_xlim()[1], RAGFLOW_TIMEOUT, f"RAGFlow\nwaits {RAGFLOW_TIMEOUT:g} s", GREY)]
    if far:
        times = f"{RAGFLOW_TIMEOUT / top:.0f} times as long as this axis"
        text = textwrap.fill(f"RAGFlow waits {RAGFLOW_TIMEOUT:g} s, {times}", 40 if made.narrow else 99)
        ax.set_title(text, fontsize=made.small, color=GREY, loc="left")
    return []


def name_ends(made: Frame, ends: Sequence[tuple[Axes, Sequence[End]]]) -> Frame:
    """Write names beside the ends of the lines, without overlap; the last step."""
    _settle(made.figure)
    for ax, mine in ends:
        line = made.small * 1.25 / 72 * made.figure.dpi / ax.get_window_extent().height
        to_share = ax.transData + ax.transAxes.inverted()
        rows = sorted(((to_share.transform((end.x, end.y))[1], end) for end in mine), key=lambda row: row[0])
        tall = [line * (1 + end.name.count("\n")) for _, end in rows]
        for end, place in zip([end for _, end in rows], distribute([y for y, _ in rows], tall), strict=True):
            ax.annotate(
                end.name, (end.x, end.y), (1.03, place), textcoords="axes fraction", va="center",
                fontsize=made.small, color=INK, annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-", "color": end.colour, "linewidth": 0.9, "shrinkA": 1, "shrinkB": 2,
                    "relpos": (0, 0.5),
                },
            )  # fmt: skip
    _settle(made.figure)
    made.figure.set_layout_engine("none")
    for ax in made.axes:  # the solver's last digits change from one process to the next
        left, bottom, width, height = (round(part, 5) for part in ax.get_position().bounds)
        ax.set_position((left, bottom, width, height))
    return made


def _settle(figure: Figure) -> None:
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def distribute(wanted: Sequence[float], tall: Sequence[float], top: float = 1.04) -> list[float]:
    """Positions near the wanted ones, which rise, without overlap and below the top.

    Args:
        wanted: Middles.
        tall: Heights.
        top: Where the highest ends at most.
    """
    steps = list(accumulate(((a + b) / 2 for a, b in pairwise(tall)), initial=0.0))[: len(tall)]
    blocks: list[list[float]] = []  # neighbours that touch move as one, by the mean of what each would move
    for want, step in zip(wanted, steps, strict=True):
        blocks.append([want - step])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    base = [fmean(block) for block in blocks for _ in block]
    places = [start + step for start, step in zip(base, steps, strict=True)]
    over = max(0.0, places[-1] + tall[-1] / 2 - top) if places else 0.0
    return [place - over for place in places]


def svg(figure: Figure) -> str:
    """A figure as SVG; the same figure gives the same text."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "ragops"}):
        held = io.StringIO()
        figure.savefig(held, format="svg", metadata={"Date": None, "Creator": None})
    return held.getvalue()


def png(figure: Figure, *, dpi: int = 144) -> bytes:
    """A figure as PNG."""
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=dpi, metadata={"Software": None})
    return held.getvalue()
