"""``.. diagram:: NAME``: a diagram for light and dark pages.

The images are rendered from ``images/NAME.dot``.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docutils import nodes
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


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("diagram", Diagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
