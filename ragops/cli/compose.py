"""The verbs that read and write compose files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ragops.cli.parts import FAILED, OK, Verb, option, show, tell
from ragops.compose import check_file

if TYPE_CHECKING:
    from ragops.cli.parts import Options


def _check(options: Options) -> int:
    found = check_file(options.file)
    show(options, found.to_json(), found.fixed.rstrip("\n") if options.fix else str(found))
    if options.json or options.fix:
        for note in found.notes:
            tell(f"note: {note}")
    return OK if found.ok else FAILED


VERBS = {
    "check": Verb(
        _check,
        "find the faults of a compose file that starts a vLLM reranker",
        (
            option("file", type=Path, help="the compose file"),
            option("--fix", action="store_true", help="print the file without its faults instead"),
        ),
    ),
}
"""By name."""
