"""``.. first-result::``: durations of ``make run`` in a clean container, one column per trial.

``docs/_data/first_result/*.log`` has the lines of ``make run`` that end in a duration.
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

FOLDER = Path(__file__).parents[1] / "_data" / "first_result"
TRIALS = ("before", "after", "again")
_LINE = re.compile(r"\s*(?P<step>[\w ]+): done in (?P<seconds>\d+) s")
_VERIFIED = "02_verify"
_PARTS = "6 notebooks"
"""Its duration is the sum of those of the notebooks before it."""


class FirstResult(SphinxDirective):
    """A table of the recorded trials."""

    def run(self) -> list[nodes.Node]:
        """Parse the table."""
        files = {name: FOLDER / f"{name}.log" for name in TRIALS}
        existing = {name: file for name, file in files.items() if file.exists()}
        for file in existing.values():
            self.env.note_dependency(str(file))
        trials = {name: read(file.read_text()) for name, file in existing.items()}
        return self.parse_text_to_nodes("\n".join(table(trials)))


def read(log: str) -> dict[str, int]:
    """Seconds of each step and each notebook, in their order."""
    return {match["step"]: int(match["seconds"]) for match in map(_LINE.fullmatch, log.splitlines()) if match}


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
        yield from _row(step, *(str(seconds.get(step, 0)) for seconds in trials.values()))
    for label, last in (("first verified rerank request", _VERIFIED), ("total", steps[-1])):
        yield from _row(f"**{label}**", *(f"**{until(seconds, last)}**" for seconds in trials.values()))
    yield ""


def _row(*cells: str) -> Iterator[str]:
    for number, cell in enumerate(cells):
        yield f"   {' ' if number else '*'} - {cell}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("first-result", FirstResult)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
