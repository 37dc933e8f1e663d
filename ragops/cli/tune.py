"""The verb that compares vLLM options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ragops.bench.tune import TOLERANCE, tune
from ragops.cli.parts import OK, Verb, option, show, tell
from ragops.stack import declaration, load

if TYPE_CHECKING:
    from ragops.cli.parts import Options


def _tune(options: Options) -> int:
    result = tune(
        load(options.stack),
        only=options.only,
        tolerance=options.tolerance,
        results=options.results,
        write=declaration(options.stack) if options.write else None,
        log=tell,
    )
    show(options, result)
    if result.written:
        tell("ragops plan shows what the new configuration changes, ragops up applies it")
    return OK


VERBS = {
    "tune": Verb(
        _tune,
        "compare vLLM options on this machine, and write faster ones with equal scores into ragops.toml",
        (
            option(
                "--only",
                nargs="+",
                default=[],
                metavar="NAME",
                help="candidates to compare (default: all but int8, which copies the model folder)",
            ),
            option(
                "--tolerance",
                type=float,
                default=TOLERANCE,
                metavar="DIFFERENCE",
                help="largest difference of a score that counts as equal (%(default)s)",
            ),
            option("--no-write", dest="write", action="store_false", help="leave ragops.toml as it is"),
            option(
                "--results", type=Path, default=Path("results"), help="where run folders go (%(default)s)"
            ),
        ),
    ),
}
"""By name."""
