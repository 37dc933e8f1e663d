"""``.. durability::`` shows the kept record of the durability matrix, ``docs/durability.json``.

``tests/live/test_lasting.py`` and ``test_engine_killed.py`` write such a record to ``build/durability.json``;
copying it here publishes it.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generated import inline
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils import nodes
    from sphinx.application import Sphinx

FILE = Path(__file__).parents[1] / "durability.json"


class Durability(SphinxDirective):
    """The table, with what it was seen on."""

    def run(self) -> list[nodes.Node]:
        """Parse what the record says."""
        self.env.note_dependency(str(FILE))
        lines = table(json.loads(FILE.read_text()))
        return self.parse_text_to_nodes("\n".join(lines))


def table(record: dict[str, Any]) -> Iterator[str]:
    """The record as a list table."""
    yield (
        f"Recorded on {record['recorded']} with Docker {record['docker']} and Compose {record['compose']}, "
        "by the project's live tests. RAGFlow is a compose project of its shape there, and the reranker a "
        "small server: neither is what it stands in for. No repair changed the id or the start time of "
        "RAGFlow's container. Seconds are those from the end of what happened until watch had RAGFlow "
        "joined and the reranker healthy."
    )
    yield from ["", ".. list-table::", "   :header-rows: 1", "   :class: ragops-fields", ""]
    yield from row("what happens", "what ragops status says", "repaired by")
    for one in record["rows"]:
        seconds = one["watch_seconds"]
        took = f" ({seconds} s)" if seconds is not None else ""
        said = "; ".join(f"``{line}``" for line in one["status"]) or "nothing to change"
        yield from row(inline(one["event"]), said, inline(one["repair"] + took))
    yield ""


def row(*cells: str) -> Iterator[str]:
    """One row of a list table."""
    for number, cell in enumerate(cells):
        yield f"   {' ' if number else '*'} - {cell}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("durability", Durability)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
