"""``.. generated:: search``: what ``ragops tune`` found in the searches that lie in ``results/``."""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from comparisons import fields, table
from generated import PARTS, inline, title

from ragops.tuning import folder
from ragops.tuning.run import recorded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

RESULTS = Path(__file__).parents[2] / "results"


def search() -> Iterator[str]:
    """A section for each recorded search: the sentence, the rows, where it ran."""
    found = sorted(RESULTS.glob("*-tune"))
    if not found:
        yield from ["No search has been recorded here yet: ``ragops tune --no-write`` makes one.", ""]
    for path in found:
        yield from one(path)


def one(path: Path) -> Iterator[str]:
    """One search."""
    found, (info, trials) = recorded(path), folder.load(path)
    yield from title(f"{found.model}, {found.machine}", "~")
    yield from [f"**{inline(found.sentence)}**", ""]
    head = ("setting", "documents a second, with / without", "verdict", "seen")
    yield from table(head, (row.cells() for row in found.rows))
    untried = ", ".join(found.untried)
    yield from fields(
        ("recorded", f"{info.started}, {len(trials)} blocks; {path.name}"),
        ("model", f"{found.model}, a stand-in: {found.stand_in}" if found.stand_in else found.model),
        ("machine", f"{info.launch.cpu_model}, CPUs {info.launch.cores} of it"),
        ("sent", found.request),
        ("score gate", found.gate),
        *((("not tried", f"{untried}: the time was over"),) if untried else ()),
        *(("note", note) for note in found.notes),
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Add to what ``.. generated::`` knows."""
    app.setup_extension("generated")
    PARTS.update(search=search)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
