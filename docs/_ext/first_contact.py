"""``.. first-contact::`` shows how long ``make run`` took in a clean container, trial by trial.

``docs/_data/first_contact/*.log`` are the lines of ``make run`` that end in a time.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils import nodes
    from sphinx.application import Sphinx

FOLDER = Path(__file__).parents[1] / "_data" / "first_contact"
TRIALS = ("before", "after", "again")
_LINE = re.compile(r"\s*(?P<step>[\w ]+): done in (?P<seconds>\d+) s")
_VERIFIED = "02_verify"
_PARTS = "6 notebooks"
"""Its time is the sum of those of the notebooks, which stand above it."""


class FirstContact(SphinxDirective):
    """The table of the trials that were made."""

    def run(self) -> list[nodes.Node]:
        """Parse what the logs say."""
        files = {name: FOLDER / f"{name}.log" for name in TRIALS}
        there = {name: file for name, file in files.items() if file.exists()}
        for file in there.values():
            self.env.note_dependency(str(file))
        trials = {name: read(file.read_text()) for name, file in there.items()}
        return self.parse_text_to_nodes("\n".join(table(trials)))


def read(log: str) -> dict[str, int]:
    """Seconds of each step and each notebook, in their order."""
    return {found["step"]: int(found["seconds"]) for found in map(_LINE.fullmatch, log.splitlines()) if found}


def until(steps: dict[str, int], last: str) -> int:
    """Seconds from the start to the end of a step."""
    names = [name for name in steps if name != _PARTS]
    return sum(steps[name] for name in names[: names.index(last) + 1])


def table(trials: dict[str, dict[str, int]]) -> Iterator[str]:
    """The trials side by side, in seconds."""
    steps = [name for name in next(iter(trials.values())) if name != _PARTS]
    yield from [".. list-table::", "   :header-rows: 1", ""]
    yield from _row("step", *(f"{name} (s)" for name in trials))
    for step in steps:
        yield from _row(step, *(str(one.get(step, 0)) for one in trials.values()))
    for said, last in (("until the first verified rerank", _VERIFIED), ("all", steps[-1])):
        yield from _row(f"**{said}**", *(f"**{until(one, last)}**" for one in trials.values()))
    yield ""


def _row(*cells: str) -> Iterator[str]:
    for number, cell in enumerate(cells):
        yield f"   {' ' if number else '*'} - {cell}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("first-contact", FirstContact)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
