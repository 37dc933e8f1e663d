"""Where the limits of the score gate come from: a healthy reranker beside every impostor.

::

    expected = Expected("all-minilm-l6-v2", "embedding", 256)
    seen = scores.ask(engine, "docker-ragflow-cpu-1", image, url, expected, full=True)
    write(measured(expected, seen, about), Path("measured.json"))

``data/golden/measured.json`` is what came out.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from ragops.checks import golden, rules
from ragops.checks.measures import Measures, ScoredItem, accuracy, by_language, measure, word_overlap
from ragops.checks.probe import ProbeResponse
from ragops.checks.questions import parse_responses, plan_requests, rerank_body
from tests.support import faulty_scorers, stub
from tests.support.stub import Behaviour

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ragops.checks import Check
    from ragops.checks.golden import Item
    from ragops.checks.questions import Expected, Purpose, RequestPlan, Results
    from tests.support.faulty_scorers import Impostor
    from tests.support.stub import Prompt


@dataclass(frozen=True)
class About:
    """What was measured, and when."""

    date: str
    model: str
    sha256: str
    """Of the model folder, as :func:`ragops.reranker.model.fingerprint` gives it."""
    image: str
    dtype: str


@dataclass(frozen=True)
class Distribution:
    """Of one number over many draws."""

    draws: int
    mean: float
    deviation: float
    least: float
    most: float


@dataclass(frozen=True)
class Group:
    """The measures of one language in one form."""

    form: str
    lang: str
    measures: Measures


@dataclass(frozen=True)
class Caught:
    """What the gate said to one impostor."""

    who: Impostor
    draws: int
    """Seeds that it was played with."""
    caught: int
    """How many of them failed."""
    checks: tuple[str, ...]
    """The checks that failed."""
    at_least: int
    """How many failed by the needed questions alone, which is all that a slow server is asked."""


@dataclass(frozen=True)
class Limits:
    """The limits of the gate when this was measured."""

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
    """What the limits stand on; accuracies are pairwise, on the queries that a quick gate asks."""

    about: About
    limits: Limits
    healthy: tuple[Group, ...]
    """All of the golden set, by form and language."""
    accuracy: float
    """The healthy model's."""
    resampled: Distribution
    """The same over as many queries drawn with repetition: how far another choice might move it."""
    floor: float
    """Of shared words."""
    again: Distribution
    """How far a score moves when the same question is asked again."""
    moved: Distribution
    """And when its documents stand elsewhere, among others."""
    tail: float
    """How far the last sentence of a long document moves its score."""
    random: Distribution
    """Accuracy of a random head, over seeds."""
    shuffled: Distribution
    """Of a healthy model's scores given to other documents."""
    generative: Distribution
    """Of simulated cosines of a generative model."""
    generative_spread: Distribution
    """Standard deviation of all its scores."""
    few: Few
    impostors: tuple[Caught, ...]


def measured(expected: Expected, seen: Results, about: About, *, draws: int = 2000) -> Measured:
    """Put a healthy reranker's answers beside the impostors'.

    Args:
        expected: How the reranker was launched.
        seen: Its answers to the full plan.
        about: What it is.
        draws: Seeds of each impostor.
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
            measure(_played("generative", items, seed)).spread for seed in range(draws)
        ),
        few=_few(expected, seen, draws),
        impostors=tuple(catch(who, expected, draws // 10) for who in faulty_scorers.IMPOSTORS),
    )


def catch(who: Impostor, expected: Expected, draws: int) -> Caught:
    """Play one impostor with many seeds."""
    prompt: Prompt = "card" if expected.template else "none"
    played = [Behaviour(impostor=who, seed=seed, prompt=prompt) for seed in range(draws)]
    failed = [_failing(gate(one, expected)) for one in played]
    few = [_failing(gate(one, expected, needed=True)) for one in played]
    return Caught(who, draws, sum(map(bool, failed)), tuple(sorted(set(failed))), sum(map(bool, few)))


def write(found: Measured, file: Path) -> None:
    """Write it as JSON, numbers cut to six places."""
    told = json.loads(json.dumps(asdict(found)), parse_float=lambda text: round(float(text), 6))
    file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def play(behaviour: Behaviour, expected: Expected, *, full: bool = False, needed: bool = False) -> Results:
    """What the gate would hear from a stub that behaves so; no server is started.

    Args:
        behaviour: The stub's.
        expected: How the gate believes it was launched.
        full: The whole golden set.
        needed: The needed questions alone, as from a server that is slow.
    """
    asked = plan_requests(expected, full=full)
    return parse_responses(asked, _replies(behaviour, asked, needed=needed))


def gate(behaviour: Behaviour, expected: Expected, *, needed: bool = False) -> list[Check]:
    """What the gate says to a stub that behaves so; the arguments are those of :func:`play`."""
    return rules.check_scores(expected, play(behaviour, expected, needed=needed))


def _failing(checks: list[Check]) -> str:
    return next((one.name for one in checks if one.status == "fail"), "")


def _few(expected: Expected, seen: Results, draws: int) -> Few:
    asked = plan_requests(expected)
    items = tuple(one.item for one in asked.calls[: asked.needed] if one.purpose == "golden" and one.item)
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


def _replies(behaviour: Behaviour, asked: RequestPlan, *, needed: bool = False) -> Iterator[ProbeResponse]:
    rankings = asked.calls[: asked.needed] if needed else asked.calls
    yield from (_reply(stub.count({"prompt": text})) for text in asked.counted)
    if asked.prompts:
        yield (
            _reply(stub.classes(behaviour, {"input": asked.prompts}))
            if behaviour.prompt != "none"
            else ProbeResponse(404, "")
        )
    for number, one in enumerate(rankings, start=1):
        body = json.loads(rerank_body(behaviour.model, one))
        used = stub.count_tokens(behaviour, one.query, one.documents)
        yield _reply(stub.ranking(behaviour, body, used, number))


def _reply(said: object) -> ProbeResponse:
    return ProbeResponse(200, json.dumps(said))


def _groups(seen: Results) -> Iterator[Group]:
    forms: tuple[tuple[str, Purpose], ...] = (("natural", "golden"), ("ragflow", "ragflow"))
    for form, purpose in forms:
        yield from (Group(form, lang, found) for lang, found in by_language(seen.scored(purpose)))


def _resampled(judged: list[ScoredItem], draws: int) -> Iterator[float]:
    for seed in range(draws):
        chance = faulty_scorers.chance(seed)
        yield accuracy(chance.choices(judged, k=len(judged)))


def _moves(seen: Results, purpose: Purpose) -> Iterator[float]:
    first = {one.call.item: one.scores for one in seen.of("golden")}
    for answer in seen.of(purpose):
        pairs = zip(first[answer.call.item], answer.item_scores, strict=True)
        yield from (abs(one - other) for one, other in pairs)


def _accuracies(who: Impostor, items: tuple[Item, ...], draws: int) -> Distribution:
    return _distribution(accuracy(_played(who, items, seed)) for seed in range(draws))


def _played(who: Impostor, items: tuple[Item, ...], seed: int) -> list[ScoredItem]:
    return [
        ScoredItem(item, tuple(faulty_scorers.scored(who, item.query, item.texts(), call=number, seed=seed)))
        for number, item in enumerate(items)
    ]


def _distribution(values: Iterable[float]) -> Distribution:
    drawn = sorted(values)
    return Distribution(len(drawn), fmean(drawn), pstdev(drawn), drawn[0], drawn[-1])
