"""The commands of set-up: demo client, notebooks, configuration file, explanations of errors, completion."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import ragops
from ragops.cli.output import SETUP, Call, as_json, flag, option, verb
from ragops.errors import file_errors
from ragops.table import Column, Table

if TYPE_CHECKING:
    from ragops.docker.hints import Hint

app = typer.Typer()
demos = typer.Typer(help="The demo client, which replaces RAGFlow on machines without it.")
app.add_typer(demos, name="demo", rich_help_panel=SETUP)

NOTEBOOKS = ("notebooks", "ragops-notebooks")
"""Folders of notebooks below the working folder; the package's copies are written to the last one."""


@verb(demos)
def up(call: Call) -> None:
    """Start the demo client."""
    from ragops.configuration import SUBSTITUTE, home
    from ragops.reranker import image
    from ragops.reranker.model import named_folder
    from ragops.session import lock
    from ragops.stack import demo

    engine = call.engine()
    with lock(engine.state().id, demo.NAME):
        base = image.ensure(engine, call.stack().reranker.image, home())
        name = demo.up(engine, base.id, home())
    call.show({"container": name, "demo": True}, f"{name} runs: a demo client, not RAGFlow")
    if named_folder(call.stack()) is None:
        call.message(f"next, without a model of your own: RAGOPS_MODEL_DIR={SUBSTITUTE} ragops up")


@verb(demos)
def down(call: Call) -> None:
    """Remove every demo client and its network."""
    from ragops.docker.engine import observe
    from ragops.session import lock
    from ragops.stack import demo, plan

    engine = call.engine()
    with lock(engine.state().id, demo.NAME):
        changes = demo.plan_down(observe(engine))
        plan.apply(changes, engine)
    call.show(changes)


@verb(app, SETUP)
def lab(
    call: Call,
    port: Annotated[int, option("PORT", "TCP port; if it is in use, a free one near it.")] = 8888,
    no_browser: Annotated[bool, flag("--no-browser", "Print the address, open no browser.")] = False,
) -> None:
    """Open JupyterLab with the notebooks, on this machine only."""
    import importlib.util

    from ragops.configuration import configuration_file

    folder = _notebooks(Path.cwd())
    if importlib.util.find_spec("jupyterlab") is None:
        hint = "pip install 'ragops-rerank[notebooks]'"
        raise ragops.RagopsError("JupyterLab is not installed", code="extra-missing", hint=hint)
    argv = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={port}", "--LabApp.news_url=None"]
    argv += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    argv += ["--allow-root"] if os.geteuid() == 0 else []
    argv += ["--no-browser"] if no_browser else []
    call.message(f"opening {folder}; Ctrl-C ends it")
    file = configuration_file(call.stack_file).resolve()  # the notebooks' working folder is another one
    environment = {"RAGOPS_STACK": str(file)} if call.stack_file or file.exists() else {}
    os.execve(argv[0], [*argv, str(folder)], os.environ | environment)  # noqa: S606 - replaces this process


def _notebooks(parent: Path) -> Path:
    """The folder of notebooks below ``parent``; created from the package's copies if there is none."""
    import shutil
    from importlib import resources

    for name in NOTEBOOKS:
        if any((parent / name).glob("*.ipynb")):  # also one that was renamed: nothing is written over it
            return parent / name
    packaged = resources.files("ragops.data") / "notebooks"
    if not packaged.is_dir():  # an editable install has no copies
        raise ragops.RagopsError(
            f"no notebooks below {parent}",
            code="notebook-refused",
            evidence=f"no 01_setup.ipynb in {' or '.join(NOTEBOOKS)}",
            hint="go to the checkout of ragops, then: ragops lab",
            file=parent,
        )
    with resources.as_file(packaged) as folder:
        return Path(shutil.copytree(folder, parent / NOTEBOOKS[-1], dirs_exist_ok=True))


@verb(app, SETUP, "ragops init")
def init(call: Call) -> None:
    """Write ragops.toml with every key as a comment; an existing file stays."""
    from ragops.configuration import commented, configuration_file

    file = configuration_file(call.stack_file)
    hint = "ragops init --stack FILE writes another"
    with (
        file_errors(ragops.StackError, f"can't write {file}", file, code="stack-unreadable", hint=hint),
        file.open("x", encoding="utf-8") as stream,
    ):
        try:
            stream.write(commented())
            stream.flush()
        except OSError:  # the disk is full
            file.unlink()
            raise
    call.show({"file": file}, f"{file} has every key as a comment; set model under [reranker]")
    call.message("next: ragops plan")


@verb(app, SETUP, "ragops config --json")
def config(call: Call) -> None:
    """Show the configuration in effect: each key, its value, and the line or variable that sets it."""
    from ragops.configuration import sources

    rows = tuple(sources(call.stack_file))
    texts = tuple((key, "-" if value is None else as_json(value), source) for key, value, source in rows)
    record = {key: {"value": value, "source": source} for key, value, source in rows}
    call.show(record, Table(tuple(map(Column, ("key", "value", "set by"))), texts, header=True))


@verb(app, SETUP, "ragops explain port-taken")
def explain(
    call: Call, code: Annotated[str, typer.Argument(metavar="CODE", help="As an error or --json names it.")]
) -> None:
    """Explain an error code: its meaning, what to do, and known messages that have it."""
    from difflib import get_close_matches

    codes = error_codes()
    if code not in codes:
        nearest = get_close_matches(code, codes, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "an error shows its code in the line see:"
        raise ragops.RagopsError(f"there is no error code {code}", code="code-unknown", hint=hint)
    first, *others = codes[code]
    meaning, remedy = (text.replace("``", "") for text in (first.cause, first.remedy))
    known = (row for row in codes[code] if row.words)
    messages = [{"words": row.words, "cause": row.cause, "remedy": row.remedy} for row in known]
    texts = (f"{row.words}: {row.cause}\nFix: {row.remedy}." for row in others)
    record = {"code": code, "meaning": meaning, "remedy": remedy, "messages": messages}
    call.show(record, "\n\n".join((f"{code}: {meaning}\nFix: {remedy}.", *texts)))


def error_codes() -> dict[str, list[Hint]]:
    """Each error code with its meaning and remedy; those of known messages come last."""
    from ragops.data import read_table
    from ragops.docker import hints
    from ragops.ragflow.api import FAILURES

    own = [hints.Hint("", remedy, code, meaning) for code, meaning, remedy in read_table("errors.tsv")]
    codes: dict[str, list[Hint]] = {}
    for hint in (*own, *hints.ENGINE, *hints.STATES.values(), *hints.CONTAINER, *FAILURES):
        codes.setdefault(hint.code, []).append(hint)
    return codes


@verb(app, SETUP, "ragops completion bash > ~/.local/share/bash-completion/completions/ragops")
def completion(
    call: Call,
    shell: Annotated[Literal["bash", "zsh", "fish", "powershell"], typer.Argument(metavar="SHELL")],
) -> None:
    """Print a completion script: bash, zsh, fish or powershell."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    script = get_completion_script(prog_name="ragops", complete_var="_RAGOPS_COMPLETE", shell=shell)
    call.show({"script": script}, script)
