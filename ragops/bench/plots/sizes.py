"""Charts of latency against the size of a request."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from ragops.bench import series, shape
from ragops.bench.plots.frame import LATENCY, LOOKS, PAPER, End, frame, from_zero, label, limit, name_ends
from ragops.bench.quantiles import seconds
from ragops.bench.wire import RAGFLOW_TIMEOUT
from ragops.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ragops.bench.plots.frame import Frame
    from ragops.bench.records import Run
    from ragops.bench.series import Series
    from ragops.bench.shape import Grid

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
