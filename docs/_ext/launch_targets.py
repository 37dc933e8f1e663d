"""``.. launch-targets:: PART`` shows the record of ``python -m ragops.testing.launches``: one part of it.

The parts are ``targets``, ``calls``, ``starts`` and ``origin``; the record is ``docs/_data/launches.json``.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from generated import folded, indented, inline, row_of
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils import nodes
    from sphinx.application import Sphinx

FILE = Path(__file__).parents[1] / "_data" / "launches.json"


class LaunchTargets(SphinxDirective):
    """One part, as text or a table."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse what the named part gives back."""
        self.env.note_dependency(str(FILE))
        return self.parse_text_to_nodes("\n".join(part(self.arguments[0])))


def part(name: str) -> Iterator[str]:
    """One part of the record, or that there is none."""
    if not FILE.exists():
        return iter(["No run has been recorded here yet: the program above makes the record.", ""])
    return PARTS[name](json.loads(FILE.read_text()))


def targets(record: dict[str, Any]) -> Iterator[str]:
    """Each target with its answer and what that rests on."""
    for one in record["targets"]:
        yield from [f"**{inline(one['name'])}**: {inline(one['asked'])}", ""]
        figure, limit = _sentence(one["figure"]), inline(one["limit"])
        yield f"   *{one['answer']}.* {figure} This machine's limit: {limit}."
        yield from [f"   {_sentence(one['note'])}" if one["note"] else "", ""]


def calls(record: dict[str, Any]) -> Iterator[str]:
    """Each series of calls; every call is in the record."""
    yield from _head("launch", "calls", "documents", "seconds", "tokens/s computed", "used by others, cores")
    for one in record["series"]:
        seen = one["calls"]
        speed = median(call["computed"] / call["seconds"] for call in seen)
        others = median(call["others"] for call in seen)
        took = ", ".join(f"{call['seconds']:.1f}" for call in seen)
        cells = (one["launch"], len(seen), seen[0]["documents"], took, f"{speed:.0f}", f"{others:.2f}")
        yield from row_of(cells)
    yield ""


def starts(record: dict[str, Any]) -> Iterator[str]:
    """How each server was started, and how long that took."""
    for one in record["launches"]:
        took = ", then ".join(f"{seconds:.0f} s" for seconds in one["ready"])
        said = (
            f"{took} to the first answer, with" if took else f"did not start: {inline(one['error'])}; it had"
        )
        yield from [f"**{one['name']}**: {said}", "", ".. code-block:: text", ""]
        yield from [*indented(folded(one["command"])), ""]


def origin(record: dict[str, Any]) -> Iterator[str]:
    """The machine, the day, and what stood in for what."""
    came, limit = record["origin"], record["limit"]
    stand_in = came["model_is_stand_in"]
    yield (
        f"Recorded on {record['date']} on {inline(came['cpu_model'])}, CPUs {came['cores']} of it "
        f"({inline(', '.join(came['cpu_features']))}), {came['memory_bytes'] / 2**30:.0f} GiB, Docker "
        f"{', '.join(filter(None, (came['docker'], came['vllm'])))}, ragops at {came['git_commit']}, "
        f"in {record['seconds'] / 60:.0f} minutes. "
        f"Model: {inline(came['model'])}" + (f", which is {inline(stand_in)}" if stand_in else "") + "."
    )
    gemms = "; ".join(
        f"{one['dtype']} {one['tflops']:.3f} TFLOP/s" if one["tflops"] else f"{one['dtype']}: {one['error']}"
        for one in limit["gemms"]
    )
    yield from ["", f"Multiplication of the model's shapes on {limit['threads']} threads: {inline(gemms)}."]
    yield from [
        "",
        f"The recipe is mended to start here: {inline(record['recipe_is_mended'])}.",
        "",
    ]


PARTS = {"targets": targets, "calls": calls, "starts": starts, "origin": origin}


def _sentence(text: str) -> str:
    return inline(f"{text[:1].upper()}{text[1:]}.").replace("..", ".")


def _head(*titles: str) -> Iterator[str]:
    yield from [".. list-table::", "   :header-rows: 1", "   :class: ragops-fields", ""]
    yield from row_of(titles)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("launch-targets", LaunchTargets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
