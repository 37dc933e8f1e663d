"""Scores that the stub reranker gives: from a healthy model's to those of every impostor.

:func:`scored` is one query's scores, :func:`rows` what becomes of them on the way out. Both are pure
but for the number of the call, so that thousands of seeds can be tried without a server.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

from ragops import golden
from ragops.bench.text import stem

if TYPE_CHECKING:
    from collections.abc import Sequence

Impostor = Literal[
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
]
"""Who may answer; only ``healthy`` is one that should be believed.

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
"""

IMPOSTORS: tuple[Impostor, ...] = tuple(one for one in get_args(Impostor) if one != "healthy")

READ = 40
"""Words that the truncating impostors read."""

_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+")


@dataclass(frozen=True)
class Row:
    """One line of an answer: the index that it names, and the score."""

    index: int
    score: float


def score(query: str, document: str) -> float:
    """Share of the query's different words that the document has, 0 to 1."""
    wanted = {word.lower() for word in _WORD.findall(query)}
    found = {word.lower() for word in _WORD.findall(document)}
    return len(wanted & found) / len(wanted) if wanted else 0.0


def healthy(query: str, document: str) -> float:
    """As a trained reranker might score, 0 to 1: stemmed shared words, and the golden set by heart."""
    wanted, found = _stems(query), _stems(document)
    shared = len(wanted & found) / len(wanted) if wanted else 0.0
    return 0.1 + 0.3 * shared + (0.5 if (query, document) in _by_heart() else 0.0)


def chance(seed: str | int) -> random.Random:
    """A source of random numbers that gives the same ones each time."""
    return random.Random(seed)  # noqa: S311 - repeatable on purpose, no secret


def scored(
    who: Impostor, query: str, documents: Sequence[str], *, call: int = 0, seed: int = 0
) -> list[float]:
    """The scores of one request's documents, in their order.

    Args:
        who: The impostor.
        query: The question.
        documents: What is scored.
        call: Number of the request, for those that answer differently each time.
        seed: Makes one random impostor differ from another.
    """
    size = len(documents)
    if who in {"constant", "input-order"}:
        return [0.5 if who == "constant" else 1 - place / size for place in range(size)]
    if who == "noise":
        drawn = chance(f"{seed} {call}")
        return [drawn.random() for _ in documents]
    if who.startswith("truncated"):
        return [healthy(query, " ".join(document.split()[:READ])) for document in documents]
    found = [_alone(who, query, document, seed) for document in documents]
    if who == "shuffled":
        chance(f"{seed} {size}").shuffle(found)
    if who == "neighbours":
        return [one / math.sqrt(size) for one in found]
    if who == "nan":
        found[seed % size] = math.nan
    return found


def rows(who: Impostor, scores: Sequence[float], top_n: int) -> list[Row]:
    """The answer's rows, the best first.

    Args:
        who: The impostor.
        scores: In the order of the documents.
        top_n: How many were asked for.
    """
    best = sorted(range(len(scores)), key=lambda index: -scores[index])
    kept = best if who == "top-n" else best[:top_n]
    found = [Row(index + (who == "indices"), scores[index]) for index in kept]
    if who == "duplicates":
        return [*found[:-1], Row(found[0].index, found[-1].score)]
    return found


def _alone(who: Impostor, query: str, document: str, seed: int) -> float:
    """A score that depends on query and document alone."""
    if who == "lexical":
        return score(query, document)
    if who == "random":
        return _drawn(seed, query, document)
    if who == "generative":
        return 0.86 + 0.05 * _drawn(seed, document) + 0.005 * healthy(query, document)
    found = healthy(query, document)
    if who == "logits":
        return math.log(found / (1 - found)) * 2
    return 1 - found if who == "inverted" else found


def _drawn(seed: int, *texts: str) -> float:
    return chance("\0".join((str(seed), *texts))).random()


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
