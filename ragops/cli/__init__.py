"""The command ``ragops``: parses the command line, calls a verb and shows its result.

The only package that prints. Each module has the verbs of one field; ``output.py`` has what they share.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ragops.cli import bench, compose, setup, stack
from ragops.cli.output import GROUPS, SETUP, Call, run_verb

if TYPE_CHECKING:
    from collections.abc import Sequence


class _InOrder(TyperGroup):
    """Help lists the groups in the order in which a newcomer needs them."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the name is typer's
        panels = {name: getattr(self.commands[name], "rich_help_panel", SETUP) for name in self.commands}
        return sorted(self.commands, key=lambda name: GROUPS.index(panels[name]))


app = typer.Typer(
    cls=_InOrder,
    add_completion=False,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    epilog="Exit codes: 0 success, 1 a check or an action failed, 2 wrong usage, 3 changes pending.",
)
for verbs in (stack.app, compose.app, bench.app, setup.app):
    app.add_typer(verbs)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    if "_RAGOPS_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    for name in ("stdout", "stderr"):  # a closed one is None; names of files may be no UTF-8
        stream: Any = getattr(sys, name) or Path(os.devnull).open("w")  # noqa: SIM115 - stays open
        stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)
    try:
        COMMAND(None if argv is None else list(argv), prog_name="ragops")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(f"ragops {version('ragops-rerank')}")
        raise typer.Exit


@app.callback()
def start(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run a vLLM reranker for RAGFlow in Docker, and verify that it is reachable, correct and on time."""
    if context.invoked_subcommand is None:
        call = Call()
        raise typer.Exit(run_verb(call, lambda: _next_step(call)))


def _next_step(call: Call) -> None:
    from ragops.stack import verbs

    call.show(verbs.next_step(call.stack()))
    call.message("ragops --help lists all verbs")


COMMAND: Any = typer.main.get_command(app)
