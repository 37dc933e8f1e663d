"""The verbs for machines that have no RAGFlow, or no Docker engine, and the one that opens notebooks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ragops import image as images
from ragops import lab, planning, private_engine
from ragops.cli.parts import FAILED, OK, Verb, option, show, tell
from ragops.engine import connect
from ragops.lock import held
from ragops.stack import FILE, home, load
from ragops.testing import demo

if TYPE_CHECKING:
    from ragops.cli.parts import Options


def _demo_up(options: Options) -> int:
    engine = connect()
    base = images.ensure(engine, load(options.stack).reranker.image, home(), tell)
    with held(home(), engine.state().address, demo.NAME):
        name = demo.up(engine, base.id, home(), tell)
    show(options, {"container": name, "demo": True}, f"{name} runs: a stand-in for RAGFlow")
    return OK


def _demo_down(options: Options) -> int:
    engine = connect()
    with held(home(), engine.state().address, demo.NAME):
        done = demo.plan_down(planning.observe(engine))
        planning.apply(done, engine)
    show(options, done)
    return OK


def _demo_run(options: Options) -> int:
    from ragops import tour  # noqa: PLC0415 - it needs the extra docs, the other verbs don't

    done = tour.run(options.stack, home(), Path.cwd(), tell)
    show(options, done)
    return OK if done.ok else FAILED


def _engine_start(options: Options) -> int:
    address = private_engine.ensure(home(), tell)
    show(options, {"address": address}, f"DOCKER_HOST={address}")
    return OK


def _engine_stop(options: Options) -> int:
    stopped = private_engine.stop(home())
    show(options, {"stopped": stopped}, "stopped and removed" if stopped else "there is no private engine")
    return OK


def _demo_docs(options: Options) -> int:
    from ragops import tour  # noqa: PLC0415 - as above

    page = tour.docs(Path.cwd())
    show(options, {"site": page}, str(page))
    return OK


def _lab(options: Options) -> int:
    argv = lab.command(lab.notebooks(Path.cwd()), port=options.port, browser=not options.no_browser)
    tell(f"opens {argv[-1]}; Ctrl-C ends it")
    declared = Path(options.stack or FILE).resolve()  # notebooks have a working folder of their own
    named = {"RAGOPS_STACK": str(declared)} if options.stack or declared.exists() else {}
    os.execve(argv[0], argv, os.environ | named)  # noqa: S606 - it takes this process's place, and its signals


VERBS = {
    "lab": Verb(
        _lab,
        "open JupyterLab with the notebooks, on this machine only",
        (
            option("--port", type=int, default=8888, help="TCP port (%(default)s)"),
            option("--no-browser", action="store_true", help="print the address, open no browser"),
        ),
    ),
    "demo": Verb(
        {
            "up": Verb(_demo_up, "start the demo client"),
            "down": Verb(_demo_down, "remove every demo client and its network"),
            "docs": Verb(_demo_docs, "build the site of a checkout, with its notebooks as last run"),
            "run": Verb(_demo_run, "go the whole way: engine, image, model, client, notebooks, site"),
        },
        "the stand-in for RAGFlow, for machines that have none",
    ),
    "engine": Verb(
        {
            "start": Verb(
                _engine_start, "use the engine that answers, else install docker.io and start a private one"
            ),
            "stop": Verb(
                _engine_stop, "stop the private engine and remove its data; other engines are not touched"
            ),
        },
        "a private Docker engine, for machines that have none",
    ),
}
"""By name."""
