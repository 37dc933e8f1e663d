"""The verbs that read and write compose files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.cli.parts import FAILED, OK, Verb, option, show, tell
from ragops.compose import check_file
from ragops.compose.render import reranker
from ragops.planning import network_spec
from ragops.ragflow.compose import write
from ragops.render import plain
from ragops.stack import load
from ragops.verbs import desired, override

if TYPE_CHECKING:
    from ragops.cli.parts import Options


def _check(options: Options) -> int:
    found = check_file(options.file)
    show(options, found.to_json(), found.fixed.rstrip("\n") if options.fix else str(found))
    if options.json or options.fix:
        for note in found.notes:
            tell(f"note: {note}")
    return OK if found.ok else FAILED


def _override(options: Options) -> int:
    made = override(load(options.stack))
    if not options.write:
        show(options, made)
    else:
        file, backup = write(made)
        show(options, {**plain(made), "backup": backup and str(backup)}, str(file))
        if backup:
            tell(f"note: what was there is kept as {backup}")
    for note in made.notes:
        tell(f"note: {note}")
    tell(f"apply it with: {shlex.join(made.command)}")
    return OK


def _reranker(options: Options) -> int:
    wanted = desired(load(options.stack))
    text = reranker(wanted.spec, network_spec(wanted.stack.network))
    show(options, {"text": text}, text.rstrip("\n"))
    return OK


VERBS = {
    "compose": Verb(
        {
            "override": Verb(
                _override,
                "print the override file that keeps RAGFlow in the network when compose makes it anew",
                (
                    option(
                        "--write",
                        action="store_true",
                        help="put it beside RAGFlow's own file; what is there is kept as a backup",
                    ),
                ),
            ),
            "reranker": Verb(
                _reranker, "print the compose file of the reranker that up starts, for this machine"
            ),
        },
        "print the files that make the same thing with Docker Compose",
    ),
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
