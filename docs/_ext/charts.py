"""Charts of ``ragops.bench.plots`` as parts of pages: inline, in the page's colours, wide and narrow."""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from ragops.bench import plots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.figure import Figure


def figure(draw: Callable[..., Figure], *content: Any, caption: str, name: str = "") -> Iterator[str]:
    """A chart with its caption, which is its alternative text too; ``name`` where a page has two alike."""
    forms = plots.both_forms(draw, *content, name=name)
    picture = f'<div role="img" aria-label="{escape(caption)}">{forms}</div>'
    markup = f'<figure class="ragops-chart">{picture}<figcaption>{escape(caption)}</figcaption></figure>'
    yield from [".. raw:: html", "", *(f"   {line}" for line in markup.splitlines()), ""]
