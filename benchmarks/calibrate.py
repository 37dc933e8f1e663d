"""Measures the limits of the score check: a healthy reranker beside every faulty scorer.

::

    expected = Expected("all-minilm-l6-v2", "embedding", 256)
    seen = scores.ask(engine, "docker-ragflow-cpu-1", image, url, expected, full=True)
    write(measured(expected, seen, about), "benchmarks/data/golden.json", digits=6)

``benchmarks/data/golden.json`` is its result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from ragops.checks import golden, rules
from ragops.checks.golden import ScoredItem, accuracy, by_language, word_overlap
from ragops.checks.probe import ProbeResponse
from ragops.checks.questions import parse_responses, plan_requests, rerank_body
from tests.support import faulty_scorers, stub
from tests.support.stub import Behaviour

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ragops.checks import Check
    from ragops.checks.golden import Item
    from ragops.checks.questions import Expected, Purpose, RequestPlan, Results
    from tests.support.faulty_scorers import FaultyScorer
    from tests.support.stub import Prompt


@dataclass(frozen=True)
class About:
    """The measured model and the date."""

    date: str
    model: str
    sha256: str
    """Of the model folder, by :func:`ragops.reranker.model.fingerprint`."""
    image: str
    dtype: str


@dataclass(frozen=True)
class Distribution:
    """Distribution of a number over many draws."""

    draws: int
    mean: float
    deviation: float
    least: float
    most: float


@dataclass(frozen=True)
class Measures:
    """All measures over a set of queries."""

    queries: int
    accuracy: float
    """Fraction of (relevant, irrelevant) document pairs in which the relevant one scores higher."""
    lowest: float
    spread: float
    """Standard deviation of all scores, in units of the score."""


@dataclass(frozen=True)
class Group:
    """Measures of a language in a form."""

    form: str
    lang: str
    measures: Measures


@dataclass(frozen=True)
class Caught:
    """Result of the score check for one faulty scorer."""

    who: FaultyScorer
    draws: int
    """Number of seeds."""
    caught: int
    """Seeds with a failed check."""
    checks: tuple[str, ...]
    """The checks that failed."""
    at_least: int
    """Seeds with a failed check among the needed requests, the only ones that a slow server receives."""


@dataclass(frozen=True)
class Limits:
    """Limits of the score check at the time of the measurement."""

    accuracy: float
    few: float
    in_each: float
    rounding: float
    narrow: float


@dataclass(frozen=True)
class Few:
    """The accuracies on the needed queries alone."""

    queries: int
    accuracy: float
    resampled: Distribution
    floor: float
    random: Distribution
    shuffled: Distribution
    generative: Distribution


@dataclass(frozen=True)
class Measured:
    """The source of the limits; accuracies are pairwise, on the queries of the quick score check."""

    about: About
    limits: Limits
    healthy: tuple[Group, ...]
    """All of the golden set, by form and language."""
    accuracy: float
    """Of the healthy model."""
    resampled: Distribution
    """Bootstrap of it over the queries."""
    floor: float
    """Accuracy of word overlap."""
    again: Distribution
    """Difference of scores of a repeated request."""
    moved: Distribution
    """Difference of scores when the documents are in another order, among others."""
    tail: float
    """Difference of scores by the last sentence of a long document."""
    random: Distribution
    """Accuracy of a random head, over seeds."""
    shuffled: Distribution
    """Accuracy of a healthy model's scores in shuffled order."""
    generative: Distribution
    """Accuracy of simulated cosines of a generative model."""
    generative_spread: Distribution
    """Standard deviation of all its scores."""
    few: Few
    impostors: tuple[Caught, ...]


def measured(expected: Expected, seen: Results, about: About, *, draws: int = 2000) -> Measured:
    """Compare a healthy reranker with the faulty scorers.

    Args:
        expected: Launch of the reranker.
        seen: Its results of the full plan.
        about: Model and date.
        draws: Seeds of each faulty scorer.
    """
    quick = {one.item for one in plan_requests(expected).calls if one.purpose == "golden"}
    items = tuple(item for item in golden.load() if item in quick and item.lang in expected.languages)
    judged = [one for one in seen.scored("golden") if one.item in items]
    tail = seen.of("tail")[0].scores
    return Measured(
        about=about,
        limits=Limits(rules.NEEDED, rules.SURE, rules.NEEDED_IN_EACH, rules.ROUNDING, rules.NARROW),
        healthy=tuple(_groups(seen)),
        accuracy=accuracy(judged),
        resampled=_distribution(_resampled(judged, draws)),
        floor=accuracy(word_overlap(item) for item in items),
        again=_distribution(_moves(seen, "again")),
        moved=_distribution(_moves(seen, "moved")),
        tail=abs(tail[0] - tail[1]),
        random=_accuracies("random", items, draws),
        shuffled=_accuracies("shuffled", items, draws),
        generative=_accuracies("generative", items, draws),
        generative_spread=_distribution(
            _measure(_scored_items("generative", items, seed)).spread for seed in range(draws)
        ),
        few=_few(expected, seen, draws),
        impostors=tuple(check_seeds(who, expected, draws // 10) for who in faulty_scorers.FAULTY_SCORERS),
    )


def check_seeds(who: FaultyScorer, expected: Expected, draws: int) -> Caught:
    """Check one faulty scorer with many seeds."""
    prompt: Prompt = "card" if expected.template else "none"
    behaviours = [Behaviour(scorer=who, seed=seed, prompt=prompt) for seed in range(draws)]
    failed = [_failing(check_stub(one, expected)) for one in behaviours]
    few = [_failing(check_stub(one, expected, needed=True)) for one in behaviours]
    return Caught(who, draws, sum(map(bool, failed)), tuple(sorted(set(failed))), sum(map(bool, few)))


def results_of(
    behaviour: Behaviour, expected: Expected, *, full: bool = False, needed: bool = False
) -> Results:
    """The results of a stub with this behaviour; no server is started.

    Args:
        behaviour: Of the stub.
        expected: Expected launch.
        full: The whole golden set.
        needed: Only the needed requests, as for a slow server.
    """
    request_plan = plan_requests(expected, full=full)
    return parse_responses(request_plan, dict(enumerate(_responses(behaviour, request_plan, needed=needed))))


def check_stub(behaviour: Behaviour, expected: Expected, *, needed: bool = False) -> list[Check]:
    """The score check of a stub with this behaviour; arguments as in :func:`results_of`."""
    return rules.check_scores(expected, results_of(behaviour, expected, needed=needed))


def _failing(checks: list[Check]) -> str:
    return next((one.name for one in checks if one.status == "fail"), "")


def _few(expected: Expected, seen: Results, draws: int) -> Few:
    request_plan = plan_requests(expected)
    items = tuple(
        one.item for one in request_plan.calls[: request_plan.needed] if one.purpose == "golden" and one.item
    )
    judged = [one for one in seen.scored("golden") if one.item in items]
    return Few(
        queries=len(items),
        accuracy=accuracy(judged),
        resampled=_distribution(_resampled(judged, draws)),
        floor=accuracy(word_overlap(item) for item in items),
        random=_accuracies("random", items, draws),
        shuffled=_accuracies("shuffled", items, draws),
        generative=_accuracies("generative", items, draws),
    )


def _responses(
    behaviour: Behaviour, request_plan: RequestPlan, *, needed: bool = False
) -> Iterator[ProbeResponse]:
    rankings = request_plan.calls[: request_plan.needed] if needed else request_plan.calls
    yield from (_response(stub.count({"prompt": text})) for text in request_plan.counted)
    if request_plan.prompts:
        yield (
            _response(stub.classes(behaviour, {"input": request_plan.prompts}))
            if behaviour.prompt != "none"
            else ProbeResponse(404, "")
        )
    for number, one in enumerate(rankings, start=1):
        body = json.loads(rerank_body(behaviour.model, one))
        used = stub.count_tokens(behaviour, one.query, one.documents)
        yield _response(stub.ranking(behaviour, body, used, number))


def _response(body: object) -> ProbeResponse:
    return ProbeResponse(200, json.dumps(body))


def _groups(seen: Results) -> Iterator[Group]:
    forms: tuple[tuple[str, Purpose], ...] = (("natural", "golden"), ("ragflow", "ragflow"))
    for form, purpose in forms:
        groups = by_language(seen.scored(purpose)).items()
        yield from (Group(form, lang, _measure(items)) for lang, items in groups)


def _measure(items: list[ScoredItem]) -> Measures:
    scores = [score for scored in items for score in scored.scores]
    return Measures(len(items), accuracy(items), min(scores), pstdev(scores))


def _resampled(judged: list[ScoredItem], draws: int) -> Iterator[float]:
    for seed in range(draws):
        chance = faulty_scorers.chance(seed)
        yield accuracy(chance.choices(judged, k=len(judged)))


def _moves(seen: Results, purpose: Purpose) -> Iterator[float]:
    first = {one.call.item: one.scores for one in seen.of("golden")}
    for answer in seen.of(purpose):
        pairs = zip(first[answer.call.item], answer.item_scores, strict=True)
        yield from (abs(one - other) for one, other in pairs)


def _accuracies(who: FaultyScorer, items: tuple[Item, ...], draws: int) -> Distribution:
    return _distribution(accuracy(_scored_items(who, items, seed)) for seed in range(draws))


def _scored_items(who: FaultyScorer, items: tuple[Item, ...], seed: int) -> list[ScoredItem]:
    return [
        ScoredItem(item, tuple(faulty_scorers.scored(who, item.query, item.texts(), call=number, seed=seed)))
        for number, item in enumerate(items)
    ]


def _distribution(values: Iterable[float]) -> Distribution:
    ordered = sorted(values)
    return Distribution(len(ordered), fmean(ordered), pstdev(ordered), ordered[0], ordered[-1])
