"""``.. performance:: PART``: one part of the record of ``python -m benchmarks.launches``.

The parts are ``targets``, ``requests``, ``starts`` and ``provenance`` of ``docs/_data/launches.json``.
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


class Performance(SphinxDirective):
    """One part, as text or a table."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the named part."""
        self.env.note_dependency(str(FILE))
        return self.parse_text_to_nodes("\n".join(part(self.arguments[0])))


def part(name: str) -> Iterator[str]:
    """One part of the record, or a note if there is none."""
    if not FILE.exists():
        return iter(["No run is recorded yet: the program above records one.", ""])
    return PARTS[name](json.loads(FILE.read_text()))


def targets(record: dict[str, Any]) -> Iterator[str]:
    """Each target with its result, value and limit."""
    for target in record["targets"]:
        yield from [f"**{inline(target['name'])}**: {inline(target['asked'])}", ""]
        value, limit = _sentence(target["figure"]), inline(target["limit"])
        yield f"   *{target['answer']}.* {value} Limit of this machine: {limit}."
        yield from [f"   {_sentence(target['note'])}" if target["note"] else "", ""]


def requests(record: dict[str, Any]) -> Iterator[str]:
    """Each series of requests; every request is in the record."""
    yield from _head(
        "configuration", "requests", "documents", "latency, s", "tokens/s computed", "used by others, cores"
    )
    for series in record["series"]:
        requests = series["calls"]
        speed = median(request["computed"] / request["seconds"] for request in requests)
        others = median(request["others"] for request in requests)
        latencies = ", ".join(f"{request['seconds']:.1f}" for request in requests)
        documents = requests[0]["documents"]
        yield from row_of(
            (series["launch"], len(requests), documents, latencies, f"{speed:.0f}", f"{others:.2f}")
        )
    yield ""


def starts(record: dict[str, Any]) -> Iterator[str]:
    """The options of each server and the duration of its starts."""
    for server in record["launches"]:
        durations = ", then ".join(f"{seconds:.0f} s" for seconds in server["ready"])
        result = f"{durations} to the first response" if durations else f"failed: {inline(server['error'])}"
        yield from [f"**{server['name']}**: {result}. Options:", "", ".. code-block:: text", ""]
        yield from [*indented(folded(server["command"])), ""]


def provenance(record: dict[str, Any]) -> Iterator[str]:
    """The machine, the date and the model."""
    provenance, limit = record["origin"], record["limit"]
    substitute = provenance["model_is_stand_in"]
    features, software = (
        inline(", ".join(provenance["cpu_features"])),
        (provenance["docker"], provenance["vllm"]),
    )
    model = inline(provenance["model"])
    if substitute:
        model += f", a substitute model: {inline(substitute)}"
    yield (
        f"Recorded on {record['date']} on {inline(provenance['cpu_model'])}, CPUs {provenance['cores']} of "
        f"it ({features}), {provenance['memory_bytes'] / 2**30:.0f} GiB, "
        f"Docker {', '.join(filter(None, software))}, ragops at {provenance['git_commit']}, "
        f"in {record['seconds'] / 60:.0f} minutes. Model: {model}."
    )
    gemms = "; ".join(
        f"{gemm['dtype']} {gemm['tflops']:.3f} TFLOP/s"
        if gemm["tflops"]
        else f"{gemm['dtype']}: {gemm['error']}"
        for gemm in limit["gemms"]
    )
    yield from [
        "",
        f"Matrix multiplication of the model's shapes, {limit['threads']} threads: {inline(gemms)}.",
    ]
    yield from [
        "",
        f"Changes to the recipe, without which it does not start: {inline(record['recipe_is_mended'])}.",
        "",
    ]


PARTS = {"targets": targets, "requests": requests, "starts": starts, "provenance": provenance}


def _sentence(text: str) -> str:
    return inline(f"{text[:1].upper()}{text[1:]}.").replace("..", ".")


def _head(*titles: str) -> Iterator[str]:
    yield from [".. list-table::", "   :header-rows: 1", "   :class: ragops-fields", ""]
    yield from row_of(titles)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("performance", Performance)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
