"""``python -m tools.make_run``: engine, image, model, demo client, notebooks, site and verification.

``make run`` calls it once the package is installed. Each step is logged with its time, may be repeated and
needs no input.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from ragops.bench import judge
from ragops.bench.records import load_run
from ragops.cli.output import FAILED, OK, Call, run_verb
from ragops.configuration import FILE, SUBSTITUTE, Stack, load
from ragops.configuration import home as ragops_home
from ragops.docker.engine import Engine, connect
from ragops.progress import step
from ragops.ragflow import discovery
from ragops.reranker import gateway
from ragops.reranker import image as images
from ragops.reranker import model as models
from ragops.session import Session
from ragops.stack import demo, verbs
from tools import private_engine, site

_log = logging.getLogger("ragops.tools")


@dataclass(frozen=True)
class Outcome:
    """The result of ``make run``, and where to find its parts."""

    verdict: str
    site: Path
    run: Path
    internal_url: str
    host_url: str
    commands: str
    verified: bool
    undo: str = "make clean"

    def __str__(self) -> str:
        """The last lines of ``make run``."""
        return "\n".join(
            (
                f"verdict       {self.verdict}",
                f"site          {self.site}",
                f"recorded run  {self.run}",
                f"reranker      {self.internal_url} inside the network",
                f"              {self.host_url} on this host",
                f"commands      {self.commands}",
                f"undo          {self.undo}",
            )
        )


def run(home: Path, checkout: Path) -> Outcome:
    """Run every step.

    Args:
        home: Folder for the working files of ragops.
        checkout: The checkout, with ``notebooks``, ``docs`` and perhaps ``ragops.toml``.

    Raises:
        RagopsError: A step failed; the next call starts again there.
    """
    configuration, results = checkout / FILE, checkout / "results"
    stack = load(configuration if configuration.exists() else None)
    step("2 engine")
    private_engine.ensure(home)
    engine = connect()
    step("3 image")
    image = images.ensure(engine, stack.reranker.image, home)
    if stack.gateway_used:
        gateway.ensure(engine, image.id, home)
    step("4 model")
    session = Session(stack, engine)
    _choose_model(session)
    step("5 RAGFlow")
    _find_or_start_client(stack, engine, image.id, home)
    earlier_runs = site.recorded_runs(results)
    step("6 notebooks")
    sources = checkout / "notebooks"
    parameters: dict[str, object] = {}
    if configuration.exists():
        parameters["STACK"] = os.path.relpath(configuration, sources)
    if session.deployment.model.substitute and len(session.deployment.sizing.cores) > 1:
        parameters["REPLICAS"] = 2  # small enough for any machine
    site.execute_notebooks(sources, checkout / site.EXECUTED, parameters=parameters)
    step("7 site")
    folder = site.newest_run(results, excluded=earlier_runs)
    site.write_origin(folder, checkout / site.EXECUTED)
    pages = site.build_checkout(checkout, folder)
    step("8 verification")
    report = verbs.verify(stack, engine, budget=False)
    return Outcome(
        verdict=judge(load_run(folder)).sentence,
        site=pages / "index.html",
        run=folder,
        internal_url=stack.internal_url,
        host_url=verbs.status(stack, engine).host_url or "no address",
        commands=f"source .venv/bin/activate && export RAGOPS_HOME={home}",
        verified=report.ok,
    )


def _choose_model(session: Session) -> None:
    """Serve the substitute model, also to the notebooks, if none is configured and no reranker has one."""
    if not (models.named_folder(session.stack) or session.recorded_model):
        os.environ["RAGOPS_MODEL_DIR"] = SUBSTITUTE
    models.fetch(session.stack)
    model = session.deployment.model
    _log.info("%s %s", model.name, model.substitute)


def _find_or_start_client(stack: Stack, engine: Engine, image: str, home: Path) -> None:
    """Find RAGFlow's containers; start the demo client if there are none."""
    servers = [ragflow for ragflow in discovery.find(engine.containers(), stack.ragflow) if not ragflow.demo]
    if servers:
        _log.info("%s", ", ".join(ragflow.name for ragflow in servers))
        return
    demo.up(engine, image, home)
    _log.info("%s is the demo client, not RAGFlow", demo.NAME)


def main() -> int:
    """Run every step and print the outcome; returns the exit code."""
    call = Call()

    def run_all() -> int:
        outcome = run(ragops_home(), Path.cwd())
        call.show(outcome)
        return OK if outcome.verified else FAILED

    return run_verb(call, run_all)


if __name__ == "__main__":
    raise SystemExit(main())
