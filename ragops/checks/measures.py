"""How well scores put right documents before wrong ones; pure.

Every measure is the mean over what it is made of, 0 to 1 unless it says otherwise, and ties count
as half right, so that a constant score gets what chance gets.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from ragops.checks import golden
from ragops.checks.traffic import stem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ragops.checks.golden import Item

DEPTH = 10
"""Ranks that nDCG looks at."""

_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+")


@dataclass(frozen=True)
class Judged:
    """A query and the scores of its documents, in the order of the documents."""

    item: Item
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Measures:
    """What came out for some queries."""

    queries: int
    accuracy: float
    """Share of the pairs of a right and a wrong document in which the right one scores higher."""
    ndcg: float
    """nDCG@10 with gain 1 for right documents."""
    mrr: float
    """Mean of one divided by the rank of the first right document."""
    separation: float
    """Mean score of right documents minus mean score of wrong ones, in units of the score."""
    deviations: float
    """The separation in standard deviations of the scores within the two groups; 0 when they have none."""
    lowest: float
    highest: float
    spread: float
    """Standard deviation of all scores, in units of the score."""


def measure(judged: Sequence[Judged]) -> Measures:
    """All measures of some queries.

    Raises:
        ValueError: There is no query.
    """
    if not judged:
        raise ValueError("no query to measure")
    right = [score for one in judged for score in _scores(one, right=True)]
    wrong = [score for one in judged for score in _scores(one, right=False)]
    separation = fmean(right) - fmean(wrong)
    within = math.sqrt(
        (len(right) * pstdev(right) ** 2 + len(wrong) * pstdev(wrong) ** 2) / len(right + wrong)
    )
    return Measures(
        queries=len(judged),
        accuracy=accuracy(judged),
        ndcg=fmean(ndcg(one) for one in judged),
        mrr=fmean(reciprocal_rank(one) for one in judged),
        separation=separation,
        deviations=separation / within if within else 0.0,
        lowest=min(right + wrong),
        highest=max(right + wrong),
        spread=pstdev(right + wrong),
    )


def by_language(judged: Iterable[Judged]) -> tuple[tuple[str, Measures], ...]:
    """The measures of each language that occurs."""
    there = tuple(judged)
    groups = ((lang, [one for one in there if one.item.lang == lang]) for lang in golden.LANGUAGES)
    return tuple((lang, measure(group)) for lang, group in groups if group)


def accuracy(judged: Iterable[Judged]) -> float:
    """Pairwise accuracy over all pairs of a right and a wrong document of the same query."""
    wins = [
        _won(right, wrong)
        for one in judged
        for right in _scores(one, right=True)
        for wrong in _scores(one, right=False)
    ]
    return fmean(wins)


def concordance(judged: Iterable[Judged], others: Iterable[Judged]) -> float:
    """Share of the pairs of documents of a query that two lists of scores order alike."""
    alike = [
        _won(*mine) if _won(*theirs) == 1 else 1 - _won(*mine) if _won(*theirs) == 0 else 0.5
        for one, other in zip(judged, others, strict=True)
        for mine, theirs in zip(combinations(one.scores, 2), combinations(other.scores, 2), strict=True)
    ]
    return fmean(alike)


def ndcg(one: Judged) -> float:
    """nDCG@10 of one query; documents of equal score share the gain of their ranks."""
    gains = _expected_gains(one)[:DEPTH]
    ideal = sorted((float(document.right) for document in one.item.documents), reverse=True)[:DEPTH]
    return _discounted(gains) / _discounted(ideal)


def reciprocal_rank(one: Judged) -> float:
    """One divided by the rank of the best right document; equal scores stand half before it."""
    best = max(_scores(one, right=True))
    before = sum(_won(wrong, best) for wrong in _scores(one, right=False))
    return 1 / (1 + before)


def word_overlap(item: Item) -> Judged:
    """The floor: each document scored by the query's words that it has, rare ones counting more.

    It knows no meaning. A reranker that is hardly better adds nothing to a keyword search.
    """
    query = _words(item.query)
    rarity, most = _rarity(), math.log(1 + _size())
    weights = {word: rarity.get(word, most) for word in query}
    found = (_words(document.written("natural")) for document in item.documents)
    total = sum(weights.values())
    return Judged(item, tuple(sum(weights[word] for word in query & words) / total for words in found))


def _scores(one: Judged, *, right: bool) -> list[float]:
    pairs = zip(one.item.documents, one.scores, strict=True)
    return [score for document, score in pairs if document.right is right]


def _won(one: float, other: float) -> float:
    return 0.5 if one == other else float(one > other)


def _expected_gains(one: Judged) -> list[float]:
    levels: dict[float, list[float]] = {}
    for document, score in zip(one.item.documents, one.scores, strict=True):
        levels.setdefault(score, []).append(float(document.right))
    return [fmean(levels[score]) for score in sorted(levels, reverse=True) for _ in levels[score]]


def _discounted(gains: Iterable[float]) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))


def _words(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in _WORD.findall(text.lower()))


@cache
def _documents() -> frozenset[str]:
    return frozenset(text for item in golden.load() for text in item.texts())


def _size() -> int:
    return len(_documents())


@cache
def _rarity() -> dict[str, float]:
    seen = Counter(word for text in _documents() for word in _words(text))
    return {word: math.log(1 + _size() / (1 + count)) for word, count in seen.items()}
