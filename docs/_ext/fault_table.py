"""``.. fault-table:: PART``: recorded faults of ``verify``, of the gateway and of several machines.

``tests/live/test_faults.py`` writes the table again at each run and fails if it differs;
``test_gateway_faults.py`` and ``test_swarm_faults.py`` there write theirs to ``build``; a copy publishes it.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generated import inline, row_of
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils import nodes
    from sphinx.application import Sphinx

RECORDED = Path(__file__).parents[1] / "faults.json"
DATA = Path(__file__).parents[1] / "_data"


class FaultTable(SphinxDirective):
    """``.. fault-table::`` with a name of :data:`PARTS`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the named part."""
        subject = self.arguments[0].partition("-")[0]
        file = RECORDED if subject in PLAIN else DATA / f"{subject}_faults.json"
        self.env.note_dependency(str(file))
        if not file.exists():
            return self.parse_text_to_nodes("No run is recorded yet.")
        recorded = json.loads(file.read_text(encoding="utf-8"))
        return self.parse_text_to_nodes("\n".join(PARTS[self.arguments[0]](recorded)))


def faults(recorded: dict[str, Any]) -> Iterator[str]:
    """A row for each fault: the layer that detected it, its cause and the fix."""
    yield from [".. list-table::", "   :header-rows: 1", "   :widths: 22 18 34 26"]
    yield from ["   :class: ragops-fields", ""]
    yield from row_of(("fault", "detected by", "reported cause", "reported fix (applied fix)"))
    for row in recorded["rows"]:
        if row["layer"]:
            yield from row_of((row["fault"], row["layer"], row["cause"]))
            yield f"     - {inline(row['remedy'])} *({inline(row['applied'])})*"
    yield ""


def healthy(recorded: dict[str, Any]) -> Iterator[str]:
    """Configurations without a fault."""
    yield from (f"* {inline(row['fault'])}" for row in recorded["rows"] if not row["layer"])
    yield ""


def provenance(recorded: dict[str, Any]) -> Iterator[str]:
    """When and where it was recorded."""
    yield from (f":{name}: {inline(str(value))}" for name, value in recorded["about"].items())
    yield ""


def gateway(recorded: dict[str, Any]) -> Iterator[str]:
    """A row for each fault under load: requests, how many failed, and when full speed was back."""
    timed = all("admitted" in row for row in recorded["rows"])
    widths = "20 13 14 12 11 13 17" if timed else "22 16 13 16 12 21"
    yield from [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}"]
    yield from ["   :class: ragops-wide", ""]
    head = ("fault", "requests", "failed", "slowest", "full speed after")
    yield from row_of((*head, *(["all admitted after"] if timed else []), "reported state"))
    for row in recorded["rows"]:
        failed = f"{row['failed']} ({row['exception']})" if row["failed"] else "0"
        seconds = [row["slowest"], row["full_speed"], *([row["admitted"]] if timed else [])]
        cells = (row["fault"], str(row["requests"]), failed, *(f"{value} s" for value in seconds))
        yield from row_of((*cells, row["state"] or "all admitted"))
    yield ""


PARTS = {
    "faults": faults,
    "healthy": healthy,
    "provenance": provenance,
    "gateway": gateway,
    "gateway-provenance": provenance,
    "swarm": gateway,
    "swarm-provenance": provenance,
}
PLAIN = ("faults", "healthy", "provenance")
"""Parts of the faults that ``verify`` reports."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("fault-table", FaultTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
