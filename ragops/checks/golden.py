"""The golden set, queries with documents of which the right ones are known, and measures of an order; pure.

``data/golden/README.md`` says how the set was written and reviewed. A document has two forms: as written, and
as RAGFlow's tokenizer leaves it. Ties count as half right, so that a constant score gets what chance gets.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain, combinations, product, starmap, zip_longest
from statistics import fmean
from typing import Literal

from pydantic import TypeAdapter

from ragops.checks.traffic import Passage, stem, stemmed

Form = Literal["natural", "ragflow"]
Kind = Literal["right", "near-duplicate", "hard", "other"]

LANGUAGES = ("en", "de", "zh")

_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+")


@dataclass(frozen=True)
class Document:
    """One document of an item."""

    title: str
    text: str
    kind: Kind
    """``near-duplicate`` is the relevant sentence with another number, object or negation; ``hard``
    shares words with the query; ``other`` is from another field."""

    @property
    def right(self) -> bool:
        """Whether the document is relevant to the query."""
        return self.kind == "right"

    def written(self, form: Form) -> str:
        """The text to send: title, newline and text, or as :func:`~ragops.checks.traffic.stemmed`."""
        if form == "ragflow":
            return stemmed(Passage(self.title, self.text))
        return f"{self.title}\n{self.text}"


@dataclass(frozen=True)
class Item:
    """A query and its six to ten documents, in random order."""

    id: str
    lang: str
    domain: str
    query: str
    documents: tuple[Document, ...]

    def texts(self, form: Form = "natural") -> tuple[str, ...]:
        """All documents as they are sent."""
        return tuple(document.written(form) for document in self.documents)


@cache
def load() -> tuple[Item, ...]:
    """The whole set, in the order of the file."""
    text = files("ragops").joinpath("data/golden/golden.jsonl").read_text(encoding="utf-8")
    return tuple(map(TypeAdapter(Item).validate_json, text.splitlines()))


def subset(counts: Iterable[tuple[str, int]]) -> tuple[Item, ...]:
    """Select items of each language, evenly spaced over the file; the selection is deterministic.

    The languages alternate, so that the first few items include each language.
    """
    chosen = []
    for lang, count in counts:
        items = [item for item in load() if item.lang == lang]
        size = min(count, len(items))
        chosen.append([items[number * len(items) // size] for number in range(size)])
    return tuple(item for items in zip_longest(*chosen) for item in items if item)


@dataclass(frozen=True)
class ScoredItem:
    """A golden item and the scores of its documents, in the order of the documents."""

    item: Item
    scores: tuple[float, ...]

    def of(self, *, right: bool) -> list[float]:
        """Scores of the relevant documents, or of the irrelevant ones."""
        pairs = zip(self.item.documents, self.scores, strict=True)
        return [score for document, score in pairs if document.right is right]


def by_language(items: Sequence[ScoredItem]) -> dict[str, list[ScoredItem]]:
    """The items of each language that has any."""
    groups = {lang: [scored for scored in items if scored.item.lang == lang] for lang in LANGUAGES}
    return {lang: group for lang, group in groups.items() if group}


def accuracy(items: Iterable[ScoredItem]) -> float:
    """Pairwise accuracy over all (relevant, irrelevant) document pairs of the same query."""
    pairs = (product(scored.of(right=True), scored.of(right=False)) for scored in items)
    return fmean(starmap(_wins, chain.from_iterable(pairs)))


def concordance(items: Iterable[ScoredItem], others: Iterable[ScoredItem]) -> float:
    """Fraction of document pairs of a query that both lists of scores rank in the same order."""
    shares = []
    for scored, other in zip(items, others, strict=True):
        pairs = zip(combinations(scored.scores, 2), combinations(other.scores, 2), strict=True)
        for mine, theirs in pairs:
            wins, reference = _wins(*mine), _wins(*theirs)
            shares.append(0.5 if reference == 0.5 else wins if reference else 1 - wins)
    return fmean(shares)


def word_overlap(item: Item) -> ScoredItem:
    """Score each document by the query words that it contains, weighted by their rarity: the baseline.

    It ignores the meaning. A reranker that is hardly better adds nothing to a keyword search.
    """
    query = _words(item.query)
    rarity, size = _rarity()
    weights = {word: rarity.get(word, math.log(1 + size)) for word in query}
    total = sum(weights.values())
    documents = [_words(document.written("natural")) for document in item.documents]
    scores = tuple(sum(weights[word] for word in query & words) / total for words in documents)
    return ScoredItem(item, scores)


def _wins(score: float, other: float) -> float:
    return 0.5 if score == other else float(score > other)


def _words(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in _WORD.findall(text.lower()))


@cache
def _rarity() -> tuple[Mapping[str, float], int]:
    documents = {text for item in load() for text in item.texts()}
    counts = Counter(word for text in documents for word in _words(text))
    return {word: math.log(1 + len(documents) / (1 + n)) for word, n in counts.items()}, len(documents)
