"""From inside RAGFlow's container: are the reranker's scores right?

:func:`judge` is pure: a transcript in, checks with the named cause and its remedy out. Whichever
check fails first is the cause; those after it are skipped, because they would only show its effects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ragops.checks import Check
from ragops.checks.faults import Finding, formed, heard, order, prompted, ragflow_form, ranged
from ragops.checks.probe import Round, ask_all
from ragops.checks.questions import plan, questions, read
from ragops.checks.reading import whole
from ragops.checks.steady import steady

if TYPE_CHECKING:
    from collections.abc import Callable

    from ragops.checks.questions import Expected, Plan, Transcript
    from ragops.engine import Engine
    from ragops.ragflow.discovery import RagflowContainer

LAYERS: tuple[tuple[str, Callable[[Expected, Transcript], Finding]], ...] = (
    ("scores are well formed", formed),
    ("scores stay the same", steady),
    ("prompt is the model's", prompted),
    ("scores are in range", ranged),
    ("documents are read whole", whole),
    ("right documents come first", order),
    ("the question counts", heard),
    ("as RAGFlow sends them", ragflow_form),
)
"""The checks and their rules, in the order in which one explains the next."""

AT_ONCE = 4
"""Questions under way at a time: a small model's server spends more on a call than on its documents."""

SECONDS = 60.0
"""Time for the questions that the rules need; where it is not enough, the order is not judged."""

SPARE, HURRIED = 10.0, 2.0
"""Time for the others, and for them where the calls of the budget are left out, which take longer than all of
them: a server that is fast answers all, a slow one is not kept busy."""

_WHOLE = 3600.0


def check(
    engine: Engine,
    found: RagflowContainer,
    image: str,
    url: str,
    expected: Expected,
    *,
    full: bool = False,
) -> list[Check]:
    """Ask from inside one RAGFlow container and judge the answers.

    Args:
        engine: Where the container runs.
        found: The container; it must be running and reach the reranker.
        image: An image with Python, for a container that has none.
        url: The reranker's address as RAGFlow has it, ending in ``/v1``.
        expected: How the reranker was launched.
        full: The whole golden set, however long it takes, instead of a fixed part of it.

    Raises:
        EngineError: Nothing can be run in the container.
    """
    return judge(expected, ask(engine, found.name, image, url, expected, full=full), found.name)


def ask(
    engine: Engine, container: str, image: str, url: str, expected: Expected, *, full: bool = False
) -> Transcript:
    """Ask all questions from inside a container; the arguments are those of :func:`check`."""
    asked = plan(expected, full=full)
    return read(asked, ask_all(engine, container, image, url, sent(expected, asked, url, full=full)))


def sent(
    expected: Expected, asked: Plan, url: str, *, full: bool = False, spare: float | None = None
) -> Round:
    """A plan as the questions that go to a reranker.

    Args:
        expected: As in :func:`check`.
        asked: What is asked.
        url: As in :func:`check`.
        full: As in :func:`check`.
        spare: Seconds for the questions that only make an order surer; :data:`SPARE` when left out.
    """
    every = questions(expected, asked, urlsplit(url).path)
    if full:
        return Round(every, _WHOLE, at_once=AT_ONCE)
    spared = len(asked.rankings) - asked.needed
    return Round(
        every, SECONDS, at_once=AT_ONCE, needed=len(every) - spared, spare=SPARE if spare is None else spare
    )


def judge(expected: Expected, seen: Transcript, where: str = "") -> list[Check]:
    """Checks from what was asked and answered.

    Args:
        expected: How the reranker was launched.
        seen: The answers.
        where: The container that asked.
    """
    checks: list[Check] = []
    for name, rule in LAYERS:
        if any(one.status == "fail" for one in checks):
            finding = Finding("skip", "a check above failed")
        else:
            finding = rule(expected, seen)
        checks.append(Check(name, finding.status, finding.detail, finding.remedy, where))
    return checks
