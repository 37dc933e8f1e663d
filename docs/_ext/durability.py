"""``.. durability::``: the recorded durability matrix, ``docs/durability.json``.

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
    """The table and its provenance."""

    def run(self) -> list[nodes.Node]:
        """Parse the table."""
        self.env.note_dependency(str(FILE))
        lines = table(json.loads(FILE.read_text()))
        return self.parse_text_to_nodes("\n".join(lines))


def table(record: dict[str, Any]) -> Iterator[str]:
    """The record as a list table."""
    yield (
        f"Recorded on {record['recorded']} with Docker {record['docker']} and Compose {record['compose']}, "
        "by the project's live tests. They use a Compose project with RAGFlow's services and labels, and a "
        "small server in place of the reranker. No repair changed the id or the start time of RAGFlow's "
        "container. Durations are from the event until ``ragops watch`` had connected RAGFlow and the "
        "reranker was healthy."
    )
    yield from ["", ".. list-table::", "   :header-rows: 1", "   :class: ragops-fields", ""]
    yield from row("event", "ragops status", "repaired by")
    for case in record["rows"]:
        seconds = case["watch_seconds"]
        duration = f" ({seconds} s)" if seconds is not None else ""
        status = "; ".join(f"``{line}``" for line in case["status"]) or "nothing to change"
        yield from row(inline(case["event"]), status, inline(case["repair"] + duration))
    yield ""


def row(*cells: str) -> Iterator[str]:
    """One row of a list table."""
    for number, cell in enumerate(cells):
        yield f"   {' ' if number else '*'} - {cell}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("durability", Durability)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
