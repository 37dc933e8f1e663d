"""Scores that the stub reranker gives: from a healthy model's to those of every scorer.

:func:`scored` is one query's scores, :func:`rows` what becomes of them on the way out. Both are pure
but for the number of the call, so that thousands of seeds can be tried without a server.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal, get_args

from ragops.checks import golden
from ragops.checks.traffic import stem

if TYPE_CHECKING:
    from collections.abc import Sequence

FaultyScorer = Literal[
    "healthy",
    "lexical",
    "constant",
    "shuffled",
    "random",
    "noise",
    "logits",
    "input-order",
    "truncated",
    "truncated-quietly",
    "top-n",
    "indices",
    "duplicates",
    "nan",
    "generative",
    "inverted",
    "neighbours",
    "rescaled",
    "softmax",
    "beheaded",
    "ascii",
    "ranks",
    "capped",
    "deduplicated",
    "batched",
    "partly",
    "rounded",
    "blind",
    "cached",
    "swapped",
    "foreign",
]
"""Who may answer; only ``healthy`` is one that should be accepted.

healthy
    Words that query and document share, and the right answers of the golden set by heart.
lexical
    The shared words alone.
constant
    0.5 for every document.
shuffled
    A healthy model's scores, given to other documents.
random
    A number that depends on the texts alone, as a head with random weights gives.
noise
    A new number at every call.
logits
    A healthy model's scores before its sigmoid.
input-order
    Falling from document to document, whatever they say.
truncated, truncated-quietly
    Only the first words of a document are read; the second counts all of them as read.
top-n
    Every document comes back, however few were asked for.
indices, duplicates
    Counted from one instead of zero; the last one named like the first.
nan
    Not a number for one document.
generative
    The cosine of a generative model: high, narrow, and nearly blind to the question.
inverted
    A healthy model's scores taken from one.
neighbours
    A healthy model's, but lower the more documents stand beside it.
rescaled, softmax
    A healthy model's, stretched in each call so that the best gets 1 and the worst 0; or made to sum to 1.
beheaded
    Only the last words of a document are read.
ascii
    What is no ASCII is lost on the way to the model: umlauts, and all of Chinese.
ranks
    The index says the place in the answer, not that of the document.
capped
    Ten documents come back at most.
deduplicated
    Of equal documents one comes back.
batched
    Documents are scored in batches; those behind the first batch get each other's scores.
partly
    Documents behind the first batch get 0.
rounded
    To one decimal.
blind
    A number that depends on the document alone, whatever is asked.
cached
    For documents that came before, what they got then, whatever is asked now.
swapped
    The document is taken for the question and the question for the document.
foreign
    Healthy in Chinese; random in any other language.
"""

FAULTY_SCORERS: tuple[FaultyScorer, ...] = tuple(
    entry for entry in get_args(FaultyScorer) if entry != "healthy"
)

READ = 40
"""Words that the truncating scorers read."""

BATCH = 32
"""Documents that those who work in batches take at once."""

CAP = 10
"""Documents that the capping scorer gives back."""

BESIDE: frozenset[FaultyScorer] = frozenset(
    {"ascii", "swapped", "truncated", "truncated-quietly", "beheaded"}
)
"""Whose fault lies before a healthy model, in what becomes of a pair on its way there."""

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+")


@dataclass(frozen=True)
class Scale:
    """Where the scores of a published model lie: those of the worst and of the best document."""

    lowest: float
    highest: float
    squashed: bool
    """Whether these are logits, whose sigmoid is the score."""

    def place(self, score: float) -> float:
        """A healthy score, 0.1 to 0.9, on the scale; before the sigmoid."""
        return self.lowest + (self.highest - self.lowest) * (score - 0.1) / 0.8


@dataclass(frozen=True)
class Row:
    """One line of an answer: the index that it names, and the score."""

    index: int
    score: float


def score(query: str, document: str) -> float:
    """Share of the query's different words that the document has, 0 to 1."""
    wanted = {word.lower() for word in _WORD.findall(query)}
    words = {word.lower() for word in _WORD.findall(document)}
    return len(wanted & words) / len(wanted) if wanted else 0.0


def healthy(query: str, document: str) -> float:
    """As a trained reranker might score, 0 to 1: stemmed shared words, and the golden set by heart."""
    wanted, present = _stems(query), _stems(document)
    shared = len(wanted & present) / len(wanted) if wanted else 0.0
    return 0.1 + 0.3 * shared + (0.5 if (query, document) in _by_heart() else 0.0)


def chance(seed: str | int) -> random.Random:
    """A source of random numbers that gives the same ones each time."""
    return random.Random(seed)  # noqa: S311 - repeatable on purpose, no secret


def received(who: FaultyScorer, text: str) -> str:
    """What the model gets of a text that was sent."""
    if who.startswith("truncated"):
        return " ".join(text.split()[:READ])
    if who == "beheaded":
        return " ".join(text.split()[-READ:])
    return text.encode("ascii", "ignore").decode() if who == "ascii" else text


def scored(
    who: FaultyScorer,
    query: str,
    documents: Sequence[str],
    *,
    call: int = 0,
    seed: int = 0,
    scale: Scale | None = None,
) -> list[float]:
    """The scores of one request's documents, in their order.

    Args:
        who: The scorer.
        query: The question.
        documents: What is scored.
        call: Number of the request, for those that answer differently each time.
        seed: Makes one random scorer differ from another.
        scale: Of a published model; the healthy scores are 0.1 to 0.9 without one.
    """
    size = len(documents)
    if who in {"constant", "input-order"}:
        return [0.5 if who == "constant" else 1 - place / size for place in range(size)]
    if who == "noise":
        drawn = chance(f"{seed} {call}")
        return [drawn.random() for _ in documents]
    if who == "cached":
        query = _first_asked().get(tuple(documents), query)
    results = [_alone(who, query, document, seed) for document in documents]
    if scale and who != "generative":
        results = [_on(scale, score, who) for score in results]
    elif who == "logits":
        results = [2 * math.log(score / (1 - score)) for score in results]
    return _together(who, results, seed)


def rows(who: FaultyScorer, scores: Sequence[float], documents: Sequence[str], top_n: int) -> list[Row]:
    """The answer's rows, the best first.

    Args:
        who: The scorer.
        scores: In the order of the documents.
        documents: What was scored.
        top_n: How many were asked for.
    """
    best = sorted(range(len(scores)), key=lambda index: -scores[index])
    if who == "deduplicated":
        best = [index for index in best if documents[index] not in documents[:index]]
    kept = best if who == "top-n" else best[: min(top_n, CAP) if who == "capped" else top_n]
    if who == "ranks":
        return [Row(place, scores[index]) for place, index in enumerate(kept)]
    rows = [Row(index + (who == "indices"), scores[index]) for index in kept]
    if who == "duplicates":
        return [*rows[:-1], Row(rows[0].index, rows[-1].score)]
    return rows


def _alone(who: FaultyScorer, query: str, document: str, seed: int) -> float:
    """A score that depends on query and document alone."""
    if who == "lexical":
        return score(query, document)
    if who == "blind":
        query = ""
    if who in {"blind", "random"} or (who == "foreign" and not _CHINESE.search(query)):
        return _drawn(seed, query, document)
    if who == "generative":
        return 0.86 + 0.05 * _drawn(seed, document) + 0.005 * healthy(query, document)
    if who == "swapped":
        return healthy(document, query) / 2  # a model that is asked the wrong way round is less sure
    right = healthy(received(who, query), received(who, document))
    return 1 - right if who == "inverted" else right


def _on(scale: Scale, score: float, who: FaultyScorer) -> float:
    """A score on a scale; ``logits`` leaves out the sigmoid, or the division of a cosine by both lengths."""
    placed = scale.place(score)
    if who == "logits":
        return placed if scale.squashed else 20 * placed
    return 1 / (1 + math.exp(-placed)) if scale.squashed else placed


def _together(who: FaultyScorer, results: list[float], seed: int) -> list[float]:
    """What the documents of one request do to each other's scores."""
    size = len(results)
    if who == "shuffled":
        chance(f"{seed} {size}").shuffle(results)
    if who == "neighbours":
        return [entry / math.sqrt(size) for entry in results]
    if who == "rescaled":
        return [(entry - min(results)) / ((max(results) - min(results)) or 1) for entry in results]
    if who == "softmax":
        total = sum(map(math.exp, results))
        return [math.exp(entry) / total for entry in results]
    if who == "batched":
        return [*results[:BATCH], *reversed(results[BATCH:])]
    if who == "partly":
        return [*results[:BATCH], *(0.0 for _ in results[BATCH:])]
    if who == "nan":
        results[seed % size] = math.nan
    return [round(entry, 1) for entry in results] if who == "rounded" else results


def _drawn(seed: int, *texts: str) -> float:
    return chance("\0".join((str(seed), *texts))).random()


@lru_cache(maxsize=4096)
def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in _WORD.findall(text.lower()))


@cache
def _by_heart() -> frozenset[tuple[str, str]]:
    forms: tuple[golden.Form, ...] = ("natural", "ragflow")
    return frozenset(
        (item.query, document.written(form))
        for item in golden.load()
        for document in item.documents
        if document.right
        for form in forms
    )


@cache
def _first_asked() -> dict[tuple[str, ...], str]:
    """The question with which the documents of each golden item come first."""
    return {item.texts(): item.query for item in golden.load()}
