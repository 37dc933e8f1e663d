"""``.. generated:: search``: the searches of ``ragops tune`` that are recorded in ``results/``."""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import charts
from comparisons import fields, table
from generated import PARTS, title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

RESULTS = Path(__file__).parents[2] / "results"


def search() -> Iterator[str]:
    """A section for each recorded search: the candidates, the model and the run folder."""
    files = sorted(RESULTS.glob("*-tune/tune.json"))
    if not files:
        yield from ["No search is recorded yet: ``ragops tune --no-write`` records one.", ""]
    for file in files:
        record = json.loads(file.read_text(encoding="utf-8"))
        yield from title(file.parent.name, "~")
        cells = [*map(current if "schema_version" in record else before_schema, record["rows"])]
        head = ("candidate", "documents per second, candidate / baseline", "decision", "reason")
        values, points = list(table(head, cells)), list[charts.Ratio]()
        for candidate, ratio, *_ in cells:
            if numbers := [float(number) for number in re.findall(r"\d+\.\d+", ratio)]:
                points.append((candidate, numbers[0], numbers[1], numbers[2]))
        if not points:
            yield from values
        else:
            faster = [name for name, _, low, _ in points if low is not None and low > 1]
            caption = f"Certainly faster than the baseline: {', '.join(faster) or 'no candidate'}."
            note = f"{record['model']} · run {file.parent.name}"
            yield from charts.dots(points, "candidate / baseline", note, caption, values)
        substitute = record.get("stand_in")
        yield from fields(("model", f"{record['model']}, {substitute}" if substitute else record["model"]))


def current(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """The cells of a row."""
    ratio = "-"
    if row["interval"]:
        ratio = f"{row['ratio']:.2f} ({row['interval'][0]:.2f} to {row['interval'][1]:.2f})"
    return row["candidate"], ratio, row["decision"], row["reason"] or "-"


def before_schema(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """The cells of a row of the form before the schema version, which had other names."""
    ratio = row["ratio"] and "{middle:.2f} ({low:.2f} to {high:.2f})".format(**row["ratio"])
    return row["name"], ratio or "-", row["verdict"], row["detail"] or row["why"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the part to those of ``generated``."""
    app.setup_extension("generated")
    PARTS.update(search=search)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
