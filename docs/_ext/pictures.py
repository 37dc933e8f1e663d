"""Pictures: ``.. diagram:: NAME`` shows one drawn for each mode; figures of notebooks get words.

A diagram's words are said once on the page, its two drawings come from ``images/NAME.dot``.
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
        """A figure for light pages and one for dark pages; the theme shows one of them."""
        lines = [line for mode in ("light", "dark") for line in self._figure(mode)]
        return self.parse_text_to_nodes("\n".join(lines))

    def _figure(self, mode: str) -> Iterator[str]:
        yield f".. figure:: ../images/{self.arguments[0]}-{mode}.svg"
        yield f"   :alt: {' '.join(self.options['alt'].split())}"
        yield from ["   :class: diagram dark-light", f"   :figclass: only-{mode}", "   :align: center", ""]
        yield from [*(f"   {line}" for line in self.content), ""]


def describe(app: Sphinx, tree: nodes.document) -> None:
    """Give each figure of a notebook its own words as alternative text.

    Matplotlib draws letters as outlines, and leaves what they say in a comment before each.
    """
    if not app.env.docname.startswith("notebooks/"):
        return
    for image in tree.findall(nodes.image):
        file = Path(app.srcdir) / image["uri"]
        if "alt" not in image and file.suffix == ".svg":
            image["alt"] = words(file.read_text(encoding="utf-8"))


def words(svg: str) -> str:
    """What a figure says, numbers of its axes left out."""
    said = [unescape(" ".join(one.split())) for one in re.findall(r"<!-- (.+?) -->", svg, re.DOTALL)]
    return "Figure: " + "; ".join(dict.fromkeys(one for one in said if re.search(r"[A-Za-z]{2}", one)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive, and the words of figures."""
    app.add_directive("diagram", Diagram)
    app.connect("doctree-read", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
