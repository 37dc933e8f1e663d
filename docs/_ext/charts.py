"""Charts as parts of pages: inline, in the page's colours, wide and narrow."""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import re
import textwrap
from html import escape
from typing import TYPE_CHECKING, Any

from ragops.bench import plots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from matplotlib.figure import Figure


def figure(draw: Callable[..., Figure], *content: Any, caption: str, name: str = "") -> Iterator[str]:
    """A chart with its caption, which is its alternative text too; ``name`` where a page has two alike."""
    forms = plots.both_forms(draw, *content, name=name)
    picture = f'<div role="img" aria-label="{escape(caption)}">{forms}</div>'
    markup = f'<figure class="ragops-chart">{picture}<figcaption>{escape(caption)}</figcaption></figure>'
    yield from [".. raw:: html", "", *(f"   {line}" for line in markup.splitlines()), ""]


Ratio = tuple[str, float, float | None, float | None]
"""Name, ratio, and the ends of its interval or None."""


def ratios(rows: Sequence[Ratio], label: str, note: str, *, narrow: bool = False) -> Figure:
    """A dot with its interval for each ratio, around 1; ``label`` says what is divided by what."""
    chart = plots.Chart("", [note], [0.5 + 0.32 * len(rows)], narrow=narrow)
    (ax,) = chart.axes
    ax.axvspan(0.95, 1.05, color=plots.GREY, alpha=0.12, linewidth=0)
    ax.axvline(1, color=plots.GREY, linewidth=1.2)
    for y, (_, ratio, low, high) in enumerate(rows):
        if low is not None and high is not None:
            ax.plot([low, high], [y, y], "-", color=plots.BLUE.colour, linewidth=1.6)
        ax.plot([ratio], [y], plots.BLUE.marker, color=plots.BLUE.colour, markersize=7)
    ax.set_yticks(range(len(rows)), [textwrap.fill(name, 24) if narrow else name for name, *_ in rows])
    ax.set(xlabel=f"{label}; grey: within 5 %", ylim=(len(rows) - 0.5, -0.5))
    return chart.finish()


def dots(rows: Sequence[Ratio], label: str, note: str, caption: str, table: Sequence[str]) -> Iterator[str]:
    """Ratios as a chart, with their table below it in a fold."""
    name = re.sub(r"[^a-z0-9]+", "-", note.lower())
    yield from figure(ratios, rows, label, note, caption=caption, name=name)
    yield from [
        ".. dropdown:: Values of the chart",
        "",
        *(f"   {line}" if line else "" for line in table),
        "",
    ]
