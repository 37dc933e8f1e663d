"""The verbs for machines without RAGFlow or a Docker engine, and the one that opens the notebooks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ragops.cli.output import FAILED, OK, SETUP, Call, option, verb

app = typer.Typer()
demos = typer.Typer(help="The demo client, which replaces RAGFlow on machines without it.")
engines = typer.Typer(help="A private Docker engine, for machines without one.")
app.add_typer(demos, name="demo", rich_help_panel=SETUP)
app.add_typer(engines, name="engine", rich_help_panel=SETUP)


@verb(demos, name="up")
def demo_up(call: Call) -> int:
    """Start the demo client."""
    from ragops.configuration import home
    from ragops.reranker import image
    from ragops.session import lock
    from ragops.stack import demo

    engine = call.engine()
    base = image.ensure(engine, call.stack().reranker.image, home())
    with lock(engine.state().address, demo.NAME):
        name = demo.up(engine, base.id, home())
    call.show({"container": name, "demo": True}, f"{name} runs: a demo client, not RAGFlow")
    return OK


@verb(demos, name="down")
def demo_down(call: Call) -> int:
    """Remove every demo client and its network."""
    from ragops.docker.engine import observe
    from ragops.session import lock
    from ragops.stack import demo
    from ragops.stack import plan as planning

    engine = call.engine()
    with lock(engine.state().address, demo.NAME):
        changes = demo.plan_down(observe(engine))
        planning.apply(changes, engine)
    call.show(changes)
    return OK


@verb(demos, name="docs")
def demo_docs(call: Call) -> int:
    """Build the documentation site of a checkout, with the notebooks as last executed."""
    from tools import make_run as tour

    page = tour.docs(Path.cwd())
    call.show({"site": page}, str(page))
    return OK


@verb(demos, name="run")
def demo_run(call: Call) -> int:
    """Set up everything: Docker engine, image, model, demo client, notebooks, documentation site."""
    from ragops.configuration import home
    from tools import make_run as tour

    outcome = tour.run(call.file, home(), Path.cwd())
    call.show(outcome)
    return OK if outcome.ok else FAILED


@verb(engines, name="start")
def engine_start(call: Call) -> int:
    """Use the reachable Docker engine; without one, install docker.io and start a private one."""
    from ragops.configuration import home
    from tools import private_engine

    address = private_engine.ensure(home())
    call.show({"address": address}, f"DOCKER_HOST={address}")
    return OK


@verb(engines, name="stop")
def engine_stop(call: Call) -> int:
    """Stop the private engine and remove its data; other engines are not affected."""
    from ragops.configuration import home
    from tools import private_engine

    stopped = private_engine.stop(home())
    call.show({"stopped": stopped}, "stopped and removed" if stopped else "there is no private engine")
    return OK


@verb(app, SETUP)
def lab(
    call: Call,
    *,
    port: Annotated[int, option("PORT", "TCP port.")] = 8888,
    no_browser: Annotated[bool, option("", "Print the address, open no browser.", "--no-browser")] = False,
) -> int:
    """Open JupyterLab with the notebooks, on this machine only."""
    from ragops import lab as jupyter
    from ragops.configuration import FILE

    argv = jupyter.command(jupyter.notebooks(Path.cwd()), port=port, browser=not no_browser)
    call.message(f"opening {argv[-1]}; Ctrl-C ends it")
    file = (call.file or Path(FILE)).resolve()  # the notebooks' working folder is another one
    extra = {"RAGOPS_STACK": str(file)} if call.file or file.exists() else {}
    os.execve(argv[0], argv, os.environ | extra)  # noqa: S606 - JupyterLab replaces this process
