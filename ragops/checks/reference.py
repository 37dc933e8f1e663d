"""The score check of a replica in ``ragops up``, and the reference that the gateway compares addresses with.

A replica is checked inside its own container, before it serves. The reference holds some of the requests and
their scores; the gateway sends these to each new address, and compares. :func:`score_id` names what scores
depend on: as long as it stays the same, the reference stays valid.
"""

from __future__ import annotations

import hashlib
import json
from statistics import pstdev
from typing import TYPE_CHECKING

from ragops.checks import rules
from ragops.errors import LaunchError
from ragops.progress import step
from ragops.reranker import options

if TYPE_CHECKING:
    from ragops.checks.questions import Expected, RerankResult, Results
    from ragops.docker.engine import Engine
    from ragops.session import Deployment

ITEMS = 4
"""Golden items of a reference: of each language one at least, and few, as idle replicas rank them again."""
URL = "http://127.0.0.1:8000/v1"
"""vLLM's address inside its own container."""

_WITHOUT_ORDER = 2
"""Rules that apply to random weights, from the first on: well-formed and repeatable scores."""
_SHARE_OF_SPREAD = 0.25
"""Most that a score may move, as a share of the scores' standard deviation: a narrow scale would hide it."""
_MOVES = 3.0
"""Times the largest movement of this check that rounding may reach later."""
_LEAST = 1e-5


def score_id(deployment: Deployment) -> str:
    """Twelve hexadecimal digits of all that scores depend on, but for the vLLM release."""
    model, sizing = deployment.model, deployment.sizing
    row = options.known(model)
    template = options.score_template(row, deployment.stack.reranker.instruction)
    parts = [model.fingerprint, template, row.hf_overrides, model.overrides, dict(row.pooler), sizing.dtype]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def approve(engine: Engine, container: str, image: str, expected: Expected, identity: str) -> str:
    """Check the scores of a replica inside its own container; returns the text of ``reference.json``.

    ``image`` is the id of one with Python, ``identity`` the :func:`score_id`. Of a substitute with random
    weights only form and repeatability are checked.

    Raises:
        EngineError: Nothing can be run in the container.
        LaunchError: The scores are wrong.
    """
    step(f"{container}: score check")
    results = rules.collect(engine, container, image, URL, expected, hurried=True)
    checks = rules.check_scores(expected, results)
    judged = checks if expected.trained else checks[:_WITHOUT_ORDER]
    if failed := [check for check in judged if check.status == "fail"]:
        raise LaunchError(
            f"{container} failed the score check",
            code="scores-wrong",
            evidence="\n".join(f"{check.name}: {check.detail}" for check in failed),
            hint=failed[0].remedy,
            container=container,
        )
    return reference(expected, results, identity)


def reference(expected: Expected, results: Results, identity: str) -> str:
    """The text of ``reference.json``, from results that the rules found right."""
    chosen = _choose(results.of("golden"))
    requests = [
        {"query": result.call.query, "documents": result.call.documents, "scores": result.scores}
        for result in chosen
    ]
    scores = [score for result in chosen for score in result.scores]
    tolerance = min(
        rules.ROUNDING, max(_SHARE_OF_SPREAD * pstdev(scores), _MOVES * _movement(expected, results))
    )
    fields = {
        "id": identity,
        "trained": expected.trained,
        "tolerance": round(max(tolerance, _LEAST), 6),
        "requests": requests,
    }
    return json.dumps(fields, ensure_ascii=False)


def _choose(golden: tuple[RerankResult, ...]) -> list[RerankResult]:
    """One result of each language, then others, up to :data:`ITEMS`; the one with the least text is first."""
    first: dict[str, RerankResult] = {}
    for result in golden:
        first.setdefault(result.call.item.lang if result.call.item else "", result)
    chosen = list(first.values())
    chosen = [*chosen, *(result for result in golden if result not in chosen)][:ITEMS]
    return sorted(chosen, key=lambda result: sum(map(len, result.call.documents)))


def _movement(expected: Expected, results: Results) -> float:
    """The largest difference of a document's scores between two requests of the check."""
    scores = {result.call.item: result.scores for result in results.of("golden")}
    repeated = results.of("again")
    if expected.row.splits:
        repeated += (*results.of("moved"), *results.of("wide"))
    return max(
        (rules.max_difference(scores[result.call.item], result.item_scores) for result in repeated),
        default=0.0,
    )
