"""Colours, layout, labels and files of all charts."""

from __future__ import annotations

import io
import textwrap
from itertools import accumulate, pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from ragops.bench.series import caption
from ragops.bench.verdict import release_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from ragops.bench.records import Run

INK, GREY, GRID, PAPER = "#1b1b1b", "#5f5f5f", "#dddddd", "#ffffff"
LATENCY = "latency (s)"


class Style(NamedTuple):
    """A colour of Okabe and Ito with its own marker and line."""

    colour: str
    marker: str
    line: str


BLUE = Style("#0072b2", "o", "-")
VERMILION = Style("#d55e00", "s", "--")
GREEN = Style("#009e73", "^", "-.")
PURPLE = Style("#cc79a7", "D", ":")
ORANGE = Style("#e69f00", "v", "-")
SKY = Style("#56b4e9", "P", "--")
BLACK = Style("#000000", "X", "-.")
STYLES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)

_RC: Any = {
    "svg.fonttype": "none",  # letters stay letters: sharp, searchable, a third of the size
    "svg.hashsalt": "ragops",
    "font.family": ["DejaVu Sans"],
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


class LineEnd(NamedTuple):
    """The end of a line, and the name that is written beside it."""

    x: float
    y: float
    name: str
    colour: str


class Chart:
    """A white figure with its title above and its caption below.

    Args:
        run: Source of the caption.
        title: The title.
        heights: Inches of each row of panels; rows of one column share their x axis.
        columns: Panels beside each other; below each other when narrow.
        narrow: Laid out for a phone.
        legend: Inches left free below the title.

    Attributes:
        figure: The figure.
        axes: Its panels.
        narrow: Laid out for a phone.
        timeout: Timeout of the run's release of RAGFlow in seconds.
        small: Points of the smaller letters.
    """

    def __init__(
        self, run: Run, title: str, heights: Sequence[float], *, columns: int = 1, narrow: bool = False,
        legend: float = 0,
    ) -> None:  # fmt: skip
        self.narrow, self.timeout = narrow, release_of(run).timeout
        self.small = 8.5 if narrow else 9.5
        shared: Any = "col" if columns == 1 else False
        if narrow:
            heights, columns = [height for height in heights for _ in range(columns)], 1
        below_text = caption(run, 54 if narrow else 125)
        title = textwrap.fill(title, 32 if narrow else 99)
        below, above = 0.28 + 0.17 * below_text.count("\n"), 0.4 + 0.2 * title.count("\n") + legend
        height = sum(heights) + below + above
        with mpl.rc_context(_RC):
            figure = Figure(figsize=(3.9 if narrow else 9, height), facecolor=PAPER, dpi=100)
            figure.set_layout_engine("constrained", rect=(0, below / height, 1, 1 - (below + above) / height))
            figure.text(
                0.012, 1 - 0.08 / height, title, fontsize=12 if narrow else 13, fontweight="bold", va="top"
            )
            figure.text(
                0.012, 0.07 / height, below_text, fontsize=8.5, color=GREY, va="bottom", linespacing=1.35
            )
            axes = figure.subplots(
                len(heights),
                columns,
                squeeze=False,
                sharex=shared,
                gridspec_kw={"height_ratios": list(heights)},
            )
            for ax in axes.flat:
                ax.spines[["top", "right"]].set_visible(False)
                ax.grid(axis="y", color=GRID, linewidth=0.8)
                ax.set_axisbelow(True)
                ax.tick_params(labelsize=9 if narrow else 10)
        self.figure, self.axes = figure, list[Any](axes.flat)

    def label(self, ax: Axes, x: str, y: str) -> None:
        """Names of the axes, with their units."""
        size = 9.5 if self.narrow else 10.5
        ax.set_xlabel(textwrap.fill(x, 40) if self.narrow else x, fontsize=size)
        ax.set_ylabel(y, fontsize=size)

    def mark_timeout(self, ax: Axes, *, distant: bool = True) -> list[LineEnd]:
        """Mark RAGFlow's timeout if it is near; else, with ``distant``, write how far it is."""
        top, timeout = ax.get_ylim()[1], self.timeout
        if top > timeout / 2:
            ax.axhline(timeout, color=GREY, linewidth=1.2, linestyle=(0, (6, 3)))
            ax.set_ylim(0, max(top, timeout * 1.08))
            name = f"RAGFlow's\ntimeout {timeout:g} s"
            return [LineEnd(ax.get_xlim()[1], timeout, name, GREY)]
        if distant:
            text = f"RAGFlow's timeout is {timeout:g} s, {timeout / top:.0f} times this axis"
            text = textwrap.fill(text, 40 if self.narrow else 99)
            ax.set_title(text, fontsize=self.small, color=GREY, loc="left")
        return []

    def finish(self, ends: Sequence[tuple[Axes, Sequence[LineEnd]]] = ()) -> Figure:
        """Write names beside the ends of the lines, without overlap, and fix the layout."""
        self._settle()
        for ax, lines in ends:
            line_height = self.small * 1.25 / 72 * self.figure.dpi / ax.get_window_extent().height
            to_axes = ax.transData + ax.transAxes.inverted()
            rows = sorted(
                ((to_axes.transform((end.x, end.y))[1], end) for end in lines), key=lambda row: row[0]
            )
            heights = [line_height * (1 + end.name.count("\n")) for _, end in rows]
            for (_, end), y in zip(rows, distribute([y for y, _ in rows], heights), strict=True):
                ax.annotate(
                    end.name, (end.x, end.y), (1.03, y), textcoords="axes fraction", va="center",
                    fontsize=self.small, color=INK, annotation_clip=False,
                    arrowprops={
                        "arrowstyle": "-", "color": end.colour, "linewidth": 0.9, "shrinkA": 1, "shrinkB": 2,
                        "relpos": (0, 0.5),
                    },
                )  # fmt: skip
        self._settle()
        self.figure.set_layout_engine("none")
        for ax in self.axes:  # the solver's last digits change from one process to the next
            left, bottom, width, height = (round(part, 5) for part in ax.get_position().bounds)
            ax.set_position((left, bottom, width, height))
        return self.figure

    def _settle(self) -> None:
        engine = self.figure.get_layout_engine()
        if engine is not None:
            engine.execute(self.figure)


def from_zero(ax: Axes) -> None:
    """Start the y axis at zero, with a margin above."""
    ax.set_ylim(0, ax.get_ylim()[1] * 1.05)


def distribute(wanted: Sequence[float], heights: Sequence[float], top: float = 1.04) -> list[float]:
    """Positions near the wanted ones, which rise, without overlap and below the top.

    Args:
        wanted: Middles.
        heights: Heights.
        top: Where the highest ends at most.
    """
    steps = list(accumulate(((a + b) / 2 for a, b in pairwise(heights)), initial=0.0))[: len(heights)]
    blocks: list[list[float]] = []  # neighbours that touch move as one, by the mean of what each would move
    for want, step in zip(wanted, steps, strict=True):
        blocks.append([want - step])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    base = [fmean(block) for block in blocks for _ in block]
    places = [start + step for start, step in zip(base, steps, strict=True)]
    over = max(0.0, places[-1] + heights[-1] / 2 - top) if places else 0.0
    return [place - over for place in places]


def svg(figure: Figure) -> str:
    """A figure as SVG; the same figure gives the same text."""
    with mpl.rc_context(_RC):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def png(figure: Figure, *, dpi: int = 144) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
