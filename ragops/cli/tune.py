"""The verb that searches launch settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ragops.cli.parts import OK, Verb, option, show, tell
from ragops.stack import declaration, load
from ragops.tuning.compare import TOLERANCE
from ragops.tuning.run import tune

if TYPE_CHECKING:
    from ragops.cli.parts import Options


def _tune(options: Options) -> int:
    kept: list[Path] = []
    try:
        found = tune(
            load(options.stack),
            only=tuple(options.only),
            int8=options.int8,
            tolerance=options.tolerance,
            minutes=options.minutes,
            results=options.results,
            resume=options.resume,
            write=declaration(options.stack) if options.write else None,
            started=kept.append,
            told=tell,
        )
    except KeyboardInterrupt:
        for folder in kept:
            tell(f"to go on: ragops tune --resume {folder}")
        raise
    show(options, found)
    if found.untried:
        tell(f"to try the rest: ragops tune --resume {found.folder}")
    if found.settings and options.write:
        tell("ragops plan shows what the new declaration changes, ragops up changes it")
    return OK


VERBS = {
    "tune": Verb(
        _tune,
        "search launch settings that are faster here at equal scores, and write them into ragops.toml",
        (
            option("--only", nargs="+", default=[], metavar="NAME", help="settings to try (default: all)"),
            option("--int8", action="store_true", help="also an int8 checkpoint, made beside the model"),
            option(
                "--tolerance",
                type=float,
                default=TOLERANCE,
                metavar="DIFFERENCE",
                help="largest difference of a score that is none (%(default)s)",
            ),
            option("--minutes", type=float, metavar="N", help="begin no further setting after so many"),
            option("--resume", type=Path, metavar="RUN", help="go on with a search that was cut short"),
            option("--no-write", dest="write", action="store_false", help="leave ragops.toml as it is"),
            option(
                "--results", type=Path, default=Path("results"), help="where run folders go (%(default)s)"
            ),
        ),
    ),
}
"""By name."""
