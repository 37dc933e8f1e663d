"""The verbs that read and write compose files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.cli.parts import FAILED, OK, Verb, option, show, tell
from ragops.compose import check_file
from ragops.compose.render import not_taken_over, reranker, take_over
from ragops.errors import ComposeError
from ragops.model import named_folder
from ragops.planning import network_spec
from ragops.ragflow.compose import write
from ragops.render import plain
from ragops.stack import load
from ragops.verbs import desired, override

if TYPE_CHECKING:
    from ragops.cli.parts import Options
    from ragops.compose import CheckedFile
    from ragops.stack import Stack


def _check(options: Options) -> int:
    checked = check_file(options.file)
    if not options.fix:
        show(options, checked.to_json(), str(checked))
        return OK if checked.ok else FAILED
    tell(str(checked))
    text, left_out = _corrected(checked, load(options.stack))
    for item in left_out:
        tell(f"not taken over: {item}")
    show(options, {**checked.to_json(), "text": text, "not_taken_over": left_out}, text.rstrip("\n"))
    return OK if checked.ok else FAILED


def _corrected(checked: CheckedFile, stack: Stack) -> tuple[str, list[str]]:
    """The first reranker of a compose file as ``ragops compose reranker`` renders it, and what it lacks."""
    if not checked.rerankers:
        raise ComposeError(
            f"no service in {checked.path} serves a reranker with vLLM",
            code="compose-no-reranker",
            hint="ragops compose reranker prints a compose file with one",
        )
    service, *others = checked.rerankers
    model = service.served.model
    if service.gpu:
        raise ComposeError(
            f"{service.name} uses a GPU; ragops renders rerankers on CPUs only",
            code="compose-gpu",
            hint="follow the findings of: ragops check FILE",
        )
    if not (model or named_folder(stack)):
        raise ComposeError(
            f"the model folder of {service.name} is not on this machine",
            code="compose-model-missing",
            evidence=f"model: {service.served.path or 'not in the file'}",
            hint="RAGOPS_MODEL_DIR=FOLDER ragops check --fix FILE",
        )
    wanted = desired(take_over(service, stack), model)
    left_out = [*not_taken_over(service, wanted.spec), *(f"service {other.name}" for other in others)]
    return reranker(wanted.spec, network_spec(wanted.stack.network)), left_out


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
            option(
                "--fix",
                action="store_true",
                help="also print its reranker as ragops would start it; the file is not changed",
            ),
        ),
    ),
}
"""By name."""
