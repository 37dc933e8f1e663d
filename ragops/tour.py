"""The whole way on one machine: engine, image, model, demo client, notebooks, site.

What ``make run`` calls once the package is installed. Each step is told in one line with its
time, can be repeated, and asks nothing.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ragops import image as images
from ragops import model as models
from ragops import private_engine, site, verbs
from ragops.bench import load_run, verdict
from ragops.engine import connect
from ragops.errors import RagopsError
from ragops.ragflow import discovery
from ragops.stack import FILE, load
from ragops.testing import demo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ragops.checks import Report
    from ragops.engine import Engine
    from ragops.stack import Stack


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


def run(file: str | None, home: Path, checkout: Path, told: Callable[[str], None]) -> Outcome:
    """Go the whole way.

    Args:
        file: The declaration; the checkout's ``ragops.toml``, if there is one, when left out.
        home: Folder that ragops keeps its things in.
        checkout: The checkout, with ``notebooks`` and ``docs``; results and the site go below it.
        told: Called with each line.

    Raises:
        RagopsError: A step failed; the next call starts again there.
    """
    declared = Path(file) if file else checkout / FILE
    stack = load(declared if file or declared.exists() else None)
    with _step("2 engine", told):
        private_engine.ensure(home, told)
        engine = connect()
    with _step("3 image", told):
        image = images.ensure(engine, stack.reranker.image, home, told)
    with _step("4 model", told):
        model = models.resolve(stack, home)
        told(f"  {model.name}" + (f": {model.stand_in}" if model.stand_in else ""))
    with _step("5 RAGFlow", told):
        _client(stack, engine, image.id, home, told)
    before = _runs(checkout / "results")
    with _step("6 notebooks", told):
        sources = checkout / "notebooks"
        named = {"STACK": os.path.relpath(declared, sources)} if declared.exists() else {}
        site.execute_notebooks(
            sources, checkout / _EXECUTED, parameters=named, told=lambda name: told(f"  {name}")
        )
    with _step("7 site", told):
        folder = newest_run(checkout / "results", besides=before)
        page = docs(checkout, folder)
    report: Report = verbs.verify(stack, engine, budget=False)
    return Outcome(
        verdict=verdict(load_run(folder)).sentence,
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


def _client(stack: Stack, engine: Engine, image: str, home: Path, told: Callable[[str], None]) -> None:
    found = discovery.find(engine.containers(), stack.ragflow)
    if any(not one.demo for one in found):
        told(f"  {', '.join(one.name for one in found)}")
        return
    demo.up(engine, image, home, told)
    told(f"  {demo.NAME}: the demo client, a stand-in for RAGFlow")


@contextmanager
def _step(name: str, told: Callable[[str], None]) -> Iterator[None]:
    begin = time.monotonic()
    told(f"{name} ...")
    yield
    told(f"{name}: done in {time.monotonic() - begin:.0f} s")
