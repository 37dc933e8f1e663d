"""``.. cards::``: a card for each page of a section, and its entry in the table of contents.

The lines are ``page: sentence``; a line that goes on is indented. The title of a card is
that of its page. ``.. markdown:: FILE`` shows a text file of the repository without its title.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pypandoc
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

import ragops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docutils import nodes
    from sphinx.application import Sphinx

ROOT = Path(ragops.__file__).parents[1]


class Cards(SphinxDirective):
    """``.. cards::`` with ``:caption:``, the name of the group in the sidebar."""

    has_content = True
    option_spec: ClassVar[dict[str, Callable[[str], str]]] = {"caption": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """A hidden table of contents and a grid of cards."""
        matches = re.findall(r"^([\w/]+): (.+(?:\n +.+)*)", "\n".join(self.content), re.MULTILINE)
        rows = [(page, " ".join(sentence.split())) for page, sentence in matches]
        return self.parse_text_to_nodes("\n".join([*self._contents(rows), *self._grid(rows)]))

    def _contents(self, rows: list[tuple[str, str]]) -> Iterator[str]:
        caption = self.options.get("caption")
        yield from [".. toctree::", "   :hidden:", *([f"   :caption: {caption}"] if caption else []), ""]
        yield from [*(f"   {page}" for page, _ in rows), ""]

    def _grid(self, rows: list[tuple[str, str]]) -> Iterator[str]:
        yield from [".. grid:: 1 2 2 3", "   :gutter: 3", "   :class-container: ragops-cards", ""]
        for page, sentence in rows:
            yield f"   .. grid-item-card:: {title(Path(self.env.srcdir), page)}"
            yield from [f"      :link: {page}", "      :link-type: doc", "", f"      {sentence}", ""]


def title(folder: Path, page: str) -> str:
    """The title of a page or notebook."""
    notebook = folder / f"{page}.ipynb"
    if notebook.exists():
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return re.search(r"^# (.+)$", "".join(cells[0]["source"]), re.MULTILINE)[1]  # type: ignore[index]
    text = (folder / f"{page}.rst").read_text(encoding="utf-8")
    return re.search(r"^(.+)\n={3,}$", text, re.MULTILINE)[1].replace("``", "")  # type: ignore[index]


class Markdown(SphinxDirective):
    """``.. markdown:: FILE``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the file below its title."""
        file = ROOT / self.arguments[0]
        self.env.note_dependency(str(file))
        body = file.read_text(encoding="utf-8").partition("\n")[2]
        lines = pypandoc.convert_text(body, "rst", "markdown-smart", extra_args=["--wrap=preserve"])
        return self.parse_text_to_nodes(lines, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("cards", Cards)
    app.add_directive("markdown", Markdown)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
