"""The score check of a replica in ``ragops up``, and the reference that the gateway compares addresses with.

A replica is checked inside its own container, before it serves; one on another machine from inside the
gateway's. The reference holds some of the requests and
their scores; the gateway sends these to each new address, and compares. :func:`score_id` names what scores
depend on: as long as it stays the same, the reference stays valid.
"""

import hashlib
import json
from dataclasses import replace
from statistics import pstdev
from typing import Any

from ragops.checks import rules
from ragops.checks.probe import send_batch
from ragops.checks.questions import Expected, RerankResult, Results, parse_responses, plan_requests
from ragops.docker.engine import Engine
from ragops.errors import LaunchError
from ragops.progress import step
from ragops.reranker import options
from ragops.session import Deployment

ITEMS = 4
"""Golden items of a reference: of each language one at least."""
DOCUMENTS = 3
"""Documents of each, right ones first, where scores are independent: idle replicas rank some every minute."""
LOCAL = "127.0.0.1:8000"
"""vLLM's address inside its own container."""

_WITHOUT_ORDER = 2
"""Rules that apply to random weights, from the first on: well-formed and repeatable scores."""
_SHARE_OF_SPREAD = 0.25
"""Most that a score may move, as a share of the scores' standard deviation: a narrow scale would hide it."""
_MOVES = 3.0
"""Times the largest movement of this check that rounding may reach later."""
_LEAST = 1e-5


def score_id(deployment: Deployment, image: str = "") -> str:
    """Twelve hexadecimal digits of all that scores depend on; ``image`` is the id of the one with vLLM.

    It is empty where replicas on other machines may have several: their scores have to be the same.
    """
    model, sizing = deployment.model, deployment.sizing
    row = options.known(model)
    template = options.score_template(row, deployment.stack.reranker.instruction)
    parts = [model.fingerprint, template, row.hf_overrides, model.overrides, dict(row.pooler)]
    return hashlib.sha256(json.dumps([*parts, sizing.dtype, image]).encode()).hexdigest()[:12]


def approve(
    engine: Engine, container: str, image: str, expected: Expected, identity: str, address: str = ""
) -> str:
    """Check the scores of a replica inside its own container; returns the text of ``reference.json``.

    ``image`` is the id of one with Python, ``identity`` the :func:`score_id`. A replica with another
    ``address`` is reached from the container, the gateway's. Of a substitute with random weights only form
    and repeatability are checked.

    Raises:
        EngineError: Nothing can be run in the container.
        LaunchError: The scores are wrong.
    """
    url, replica = f"http://{address or LOCAL}/v1", address or container
    step(f"{replica}: score check")
    plan = plan_requests(expected)
    batch = rules.batch(expected, plan, url, full=False, spare=rules.HURRIED)
    batch = replace(batch, timeout=rules.FULL_TIMEOUT)  # a slow server is right, too
    results = parse_responses(plan, send_batch(engine, container, image, url, batch))
    checks = rules.check_scores(expected, results)
    judged = checks if expected.trained else checks[:_WITHOUT_ORDER]
    if failed := [check for check in judged if check.status == "fail"]:
        raise LaunchError(
            f"{replica} failed the score check",
            code="scores-wrong",
            evidence="\n".join(f"{check.name}: {check.detail}" for check in failed),
            hint=failed[0].remedy,
            container=replica,
        )
    return reference(expected, results, identity)


def reference(expected: Expected, results: Results, identity: str) -> str:
    """The text of ``reference.json``, from results that the rules found right."""
    requests = [_request(expected, result) for result in _choose(results.of("golden"))]
    requests.sort(key=lambda request: sum(map(len, request["documents"])))  # the gateway repeats the first
    spread = pstdev(score for request in requests for score in request["scores"])
    tolerance = max(_SHARE_OF_SPREAD * spread, _MOVES * _movement(expected, results), _LEAST)
    tolerance = round(min(tolerance, rules.ROUNDING), 6)
    fields = {"id": identity, "trained": expected.trained, "tolerance": tolerance, "requests": requests}
    return json.dumps(fields, ensure_ascii=False)


def _request(expected: Expected, result: RerankResult) -> dict[str, Any]:
    item, places = result.call.item, [*range(len(result.scores))]
    if item and expected.row.splits:
        places = sorted(places, key=lambda place: not item.documents[place].right)[:DOCUMENTS]
    documents = [result.call.documents[place] for place in places]
    return {"query": result.call.query, "documents": documents, "scores": [result.scores[p] for p in places]}


def _choose(golden: tuple[RerankResult, ...]) -> list[RerankResult]:
    """One result of each language, then others, up to :data:`ITEMS`."""
    first: dict[str, RerankResult] = {}
    for result in golden:
        first.setdefault(result.call.item.lang if result.call.item else "", result)
    chosen = list(first.values())
    return [*chosen, *(result for result in golden if result not in chosen)][:ITEMS]


def _movement(expected: Expected, results: Results) -> float:
    """The largest difference of a document's scores between two requests of the check."""
    scores = {result.call.item: result.scores for result in results.of("golden")}
    repeated = results.of("again")
    if expected.row.splits:
        repeated += (*results.of("moved"), *results.of("wide"))
    moves = (rules.max_difference(scores[result.call.item], result.item_scores) for result in repeated)
    return max(moves, default=0.0)
