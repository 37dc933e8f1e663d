"""The whole way on one machine: engine, image, model, demo client, notebooks, site.

What ``make run`` calls once the package is installed. Each step is told in one line with its
time, can be repeated, and asks nothing.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.bench import judge
from ragops.bench.records import load_run
from ragops.configuration import FILE, load
from ragops.docker.engine import connect
from ragops.errors import RagopsError
from ragops.progress import step
from ragops.ragflow import discovery
from ragops.reranker import image as images
from ragops.reranker import model as models
from ragops.stack import demo, verbs
from tools import private_engine, site

if TYPE_CHECKING:
    from pathlib import Path

    from ragops.checks import Report
    from ragops.configuration import Stack
    from ragops.docker.engine import Engine

_log = logging.getLogger(__name__)
_EXECUTED = "build/notebooks"


@dataclass(frozen=True)
class Outcome:
    """Where everything is at the end."""

    verdict: str
    site: Path
    run: Path
    internal_url: str
    host_url: str
    commands: str
    verified: bool
    undo: str = "make clean"

    @property
    def ok(self) -> bool:
        """Whether the connection was proven."""
        return self.verified

    def __str__(self) -> str:
        """The lines that end ``make run``."""
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


def run(file: Path | None, home: Path, checkout: Path) -> Outcome:
    """Go the whole way.

    Args:
        file: The declaration; the checkout's ``ragops.toml``, if there is one, when left out.
        home: Folder that ragops keeps its things in.
        checkout: The checkout, with ``notebooks`` and ``docs``; results and the site go below it.

    Raises:
        RagopsError: A step failed; the next call starts again there.
    """
    declared = file or checkout / FILE
    stack = load(declared if file or declared.exists() else None)
    step("2 engine")
    private_engine.ensure(home)
    engine = connect()
    step("3 image")
    image = images.ensure(engine, stack.reranker.image, home)
    step("4 model")
    model = models.resolve(stack, home)
    _log.info("%s %s", model.name, model.stand_in)
    step("5 RAGFlow")
    _client(stack, engine, image.id, home)
    before = _runs(checkout / "results")
    step("6 notebooks")
    sources = checkout / "notebooks"
    named = {"STACK": os.path.relpath(declared, sources)} if declared.exists() else {}
    site.execute_notebooks(sources, checkout / _EXECUTED, parameters=named)
    step("7 site")
    folder = newest_run(checkout / "results", besides=before)
    page = docs(checkout, folder)
    step("8 verification")
    report: Report = verbs.verify(stack, engine, budget=False)
    return Outcome(
        verdict=judge(load_run(folder)).sentence,
        site=page / "index.html",
        run=folder,
        internal_url=stack.internal_url,
        host_url=stack.host_url or "not published",
        commands=f"source .venv/bin/activate && export RAGOPS_HOME={home}",
        verified=report.ok,
    )


def docs(checkout: Path, run: Path | None = None) -> Path:
    """Build the site from what lies in a checkout; gives back its folder.

    Notebooks appear as last executed, or without outputs; figures come from ``run``, else from the
    latest one.

    Raises:
        RagopsError: A page has a fault, or there is no recorded run.
    """
    executed = checkout / _EXECUTED
    notebooks = executed if executed.exists() else None
    run = run or newest_run(checkout / "results")
    return site.build(checkout / "docs", checkout / "build" / "site", notebooks=notebooks, run=run)


def newest_run(results: Path, besides: frozenset[Path] = frozenset()) -> Path:
    """The folder of the latest recorded run of RAGFlow's profile; folders begin with the time.

    Args:
        results: Folder with run folders.
        besides: Run folders that are not looked at.

    Raises:
        RagopsError: There is none.
    """
    for folder in sorted(_runs(results) - besides, reverse=True):
        if load_run(folder).info.workload.profile == "ragflow":
            return folder
    raise RagopsError(
        f"no recorded run of RAGFlow's profile in {results}",
        code="run-missing",
        hint="make run records one",
        file=results,
    )


def _runs(results: Path) -> frozenset[Path]:
    return frozenset(file.parent for file in results.glob("*/run.json"))


def _client(stack: Stack, engine: Engine, image: str, home: Path) -> None:
    found = discovery.find(engine.containers(), stack.ragflow)
    if any(not one.demo for one in found):
        _log.info("%s", ", ".join(one.name for one in found))
        return
    demo.up(engine, image, home)
    _log.info("%s is the demo client, not RAGFlow", demo.NAME)
