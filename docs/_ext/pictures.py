"""``.. diagram:: NAME``: a diagram for light and dark pages; alternative texts for charts of notebooks.

The images are rendered from ``images/NAME.dot``.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sphinx.application import Sphinx


class Diagram(SphinxDirective):
    """``.. diagram:: NAME`` with ``:alt:`` and a caption."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Callable[[str], str]]] = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """An image for light pages and one for dark pages; the theme shows one of them."""
        lines = [line for mode in ("light", "dark") for line in self._figure(mode)]
        return self.parse_text_to_nodes("\n".join(lines))

    def _figure(self, mode: str) -> Iterator[str]:
        yield f".. figure:: ../images/{self.arguments[0]}-{mode}.svg"
        yield f"   :alt: {' '.join(self.options['alt'].split())}"
        yield from ["   :class: diagram dark-light", f"   :figclass: only-{mode}", "   :align: center", ""]
        yield from [*(f"   {line}" for line in self.content), ""]


def describe(app: Sphinx, tree: nodes.document) -> None:
    """Give each chart of a notebook an alternative text.

    Matplotlib draws letters as outlines, with the text in a comment before each.
    """
    if not app.env.docname.startswith("notebooks/"):
        return
    for image in tree.findall(nodes.image):
        file = Path(app.srcdir) / image["uri"]
        if "alt" not in image and file.suffix == ".svg":
            image["alt"] = words(file.read_text(encoding="utf-8"))


def words(svg: str) -> str:
    """The texts of a chart, without the numbers of its axes."""
    texts = [unescape(" ".join(text.split())) for text in re.findall(r"<!-- (.+?) -->", svg, re.DOTALL)]
    return "Chart: " + "; ".join(dict.fromkeys(text for text in texts if re.search(r"[A-Za-z]{2}", text)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive, and the texts of charts."""
    app.add_directive("diagram", Diagram)
    app.connect("doctree-read", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
