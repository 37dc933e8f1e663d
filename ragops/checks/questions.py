"""What the score gate asks, and what it makes of the replies; pure.

:func:`plan` writes the questions, :func:`read` turns the replies into a :class:`Transcript`, and
``scores.py`` judges it. The order is such that the rules that name a cause come first when time
is short.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from ragops import golden, vllm
from ragops.checks.measures import Judged
from ragops.checks.probe import Question

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ragops.checks.probe import Reply
    from ragops.golden import Form, Item
    from ragops.model import Kind

Purpose = Literal["pair", "tail", "top", "golden", "again", "moved", "ragflow"]

QUERY = (
    "Which word opens the reserve tank of the old water tower when nobody of the day shift can be reached?"
)
"""Long, so that a server that tokenizes it once for all documents can be told from one that doesn't."""
PAIR = (
    "The reserve tank is opened by the word that the night shift keeps in a sealed envelope.",
    "Swallows leave in September and come back in April, when the first insects are in the air.",
)
_FILLER = (
    "The tower was painted grey in spring.",
    "Visitors meet at the gate on Sunday mornings.",
    "A map of the pipes hangs beside the stairs.",
    "The lamps are changed before winter comes.",
    "Two benches stand below the lime tree.",
)
_DECISIVE = "The word that opens the reserve tank of the old water tower is marigold."
_IDLE = "The stairs to the roof garden of the new town hall are closed today."
_TOKENS_A_WORD = 1.2
"""Of the filler, rounded up; both tokenizers that were tried make 1.13 of a word."""
LONGEST = 1000
"""Tokens of a document that asks whether all of it is read; more would only take longer."""
REPEATED = 2
"""Golden queries that are asked again, and asked once more among other documents; with ``full`` all."""
STRANGERS = 3
"""Documents put around those of a query when they are moved."""


@dataclass(frozen=True)
class Expected:
    """The reranker as it was launched."""

    model: str
    """Name as served."""
    kind: Kind
    max_tokens: int
    """Longest query and document together, in tokens."""
    stand_in: str = ""
    """What the model stands in for; empty for the model that is wanted."""

    @property
    def trained(self) -> bool:
        """Whether its order can be judged; an embedding model's can, random weights' can't."""
        return not self.stand_in or self.kind == "embedding"

    @property
    def template(self) -> str:
        """The model card's prompt as a template; empty for models that need none."""
        name = next(row.template for row in vllm.KNOWN if row.kind == self.kind)
        return (vllm.TEMPLATES / name).read_text(encoding="utf-8") if name else ""

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that it is judged in; what it is known to have been trained on."""
        return golden.LANGUAGES if self.template else ("en",)


@dataclass(frozen=True)
class Ranking:
    """One rerank call of the gate."""

    purpose: Purpose
    query: str
    documents: tuple[str, ...]
    top_n: int
    item: Item | None = None
    """The golden item that it asks."""
    places: tuple[int, ...] = ()
    """For moved documents: where each document of the item now stands."""


@dataclass(frozen=True)
class Plan:
    """Everything that is asked, in this order."""

    counted: tuple[str, ...]
    """Texts whose tokens the server counts."""
    prompts: tuple[str, ...]
    """The model card's prompts of :data:`PAIR`, which the server also scores as they are."""
    rankings: tuple[Ranking, ...]


@dataclass(frozen=True)
class Answer:
    """What came back for one ranking."""

    ranking: Ranking
    status: int
    error: str
    """Why there are no rows; empty when there are."""
    rows: tuple[tuple[int, float], ...] = ()
    """(index, score) as answered; a score that is null is NaN."""
    tokens: int = -1
    """Prompt tokens that the server reports; -1 when it does not."""

    @property
    def told(self) -> tuple[float, ...]:
        """Scores in the order in which they came."""
        return tuple(score for _, score in self.rows)

    @property
    def scores(self) -> tuple[float, ...]:
        """In the order of the documents; needs one row for each."""
        return tuple(score for _, score in sorted(self.rows))

    @property
    def own(self) -> tuple[float, ...]:
        """Scores of the item's documents alone, wherever they stood."""
        there = self.scores
        return tuple(there[place] for place in self.ranking.places) if self.ranking.places else there


@dataclass(frozen=True)
class Transcript:
    """All that was asked and answered."""

    answers: tuple[Answer, ...]
    counts: tuple[int, ...] = ()
    """Tokens of each counted text; empty when the server does not count."""
    direct: tuple[float, ...] = ()
    """Scores of the plan's prompts as they are; empty when the server gives none."""
    unasked: int = 0
    """Rankings for which there was no time."""

    def of(self, purpose: Purpose) -> tuple[Answer, ...]:
        """The answers that were asked for one purpose."""
        return tuple(one for one in self.answers if one.ranking.purpose == purpose)

    def judged(self, purpose: Purpose, languages: Sequence[str] = golden.LANGUAGES) -> tuple[Judged, ...]:
        """Scores of golden items, ready to be measured."""
        pairs = ((one.ranking.item, one.scores) for one in self.of(purpose))
        return tuple(Judged(item, found) for item, found in pairs if item and item.lang in languages)


def plan(expected: Expected, *, full: bool = False) -> Plan:
    """The questions for a reranker.

    Args:
        expected: How it was launched.
        full: The whole golden set in both forms, instead of a fixed part of it.
    """
    tail = tail_documents(expected)
    prompts = tuple(prompt(expected.template, QUERY, one) for one in PAIR) if expected.template else ()
    items = golden.load() if full else golden.subset(_quick(expected))
    first = items if full else tuple(item for item in items if item.lang == "en")[:REPEATED]
    rest = tuple(item for item in items if item not in first)
    as_sent = items if full else tuple(item for item in items if item.lang in expected.languages)[::3]
    rankings = (
        Ranking("pair", QUERY, PAIR, len(PAIR)),
        Ranking("tail", QUERY, tail, len(tail)),
        *(_golden("golden", item) for item in first),
        *(_golden("again", item) for item in first),
        *(_moved(item, items) for item in first),
        Ranking("top", first[0].query, first[0].texts(), 2, first[0]),
        *(_golden("golden", item) for item in rest),
        *(_golden("ragflow", item, "ragflow") for item in as_sent),
    )
    return Plan((QUERY, *PAIR, *tail, *prompts), prompts, rankings)


def questions(expected: Expected, asked: Plan, path: str) -> tuple[Question, ...]:
    """The plan as requests.

    Args:
        expected: How the reranker was launched.
        asked: The plan.
        path: Of the reranker's address, such as ``/v1``.
    """
    counted = (
        Question("/tokenize", _json(model=expected.model, prompt=text, add_special_tokens=False))
        for text in asked.counted
    )
    rankings = (Question(f"{path}/rerank", rerank_body(expected.model, one)) for one in asked.rankings)
    return (*counted, *_direct(expected, asked), *rankings)


def rerank_body(model: str, ranking: Ranking) -> str:
    """The JSON that RAGFlow's client would send."""
    return _json(
        model=model,
        query=ranking.query,
        documents=ranking.documents,
        top_n=ranking.top_n,
        return_documents=False,
    )


def read(asked: Plan, replies: Iterable[Reply]) -> Transcript:
    """What the replies say; they are in the order of the questions, the last ones may be missing."""
    rest = iter(replies)
    counts = tuple(_count(reply) for _, reply in zip(asked.counted, rest, strict=False))
    direct = tuple(_probabilities(next(rest, None))) if asked.prompts else ()
    answers = tuple(_answer(one, reply) for one, reply in zip(asked.rankings, rest, strict=False))
    unasked = len(asked.rankings) - len(answers)
    return Transcript(answers, counts if all(counts) else (), direct, unasked)


def tail_documents(expected: Expected) -> tuple[str, str]:
    """Two long documents that differ in their last sentence only: it answers :data:`QUERY`, or not."""
    spare = 140 if expected.template else 60
    words = (min(expected.max_tokens, LONGEST) - spare) / _TOKENS_A_WORD
    sentences = [_FILLER[number % len(_FILLER)] for number in range(max(1, int(words / 7.6)))]
    body = " ".join(sentences)
    return f"{body} {_DECISIVE}", f"{body} {_IDLE}"


@cache
def prompt(template: str, query: str, document: str) -> str:
    """The text that vLLM makes of a score template and a pair.

    Knows what our own templates use of Jinja, and no more.
    """
    usual = re.search(r'set usual = "([^"]*)"', template)
    text = re.sub(r"\{#-.*?-#\}\s*|\{%-.*?-%\}\s*", "", template, flags=re.DOTALL).removesuffix("\n")
    values = {"query": query, "document": document, r'"\n\n"': "\n\n"}
    values["instruction | default(usual, true)"] = usual[1] if usual else ""
    return re.sub(r"\{\{ (.*?) \}\}", lambda found: values[found[1]], text)


def _quick(expected: Expected) -> tuple[tuple[str, int], ...]:
    return (("en", 12), ("de", 6), ("zh", 6)) if expected.template else (("en", 24), ("de", 3), ("zh", 3))


def _golden(purpose: Purpose, item: Item, form: Form = "natural") -> Ranking:
    return Ranking(purpose, item.query, item.texts(form), len(item.documents), item)


def _moved(item: Item, others: Sequence[Item]) -> Ranking:
    own = item.texts()
    beside = (other.texts()[0] for other in others if other.lang == item.lang and other is not item)
    strangers = list(dict.fromkeys(text for text in beside if text not in own))[:STRANGERS]
    size = len(own) + len(strangers)
    kept = [place for place in range(size) if place % 3 != 1 or place // 3 >= len(strangers)]
    places = tuple(reversed(kept))
    texts = dict(zip(places, own, strict=True))
    documents = (texts[place] if place in texts else strangers.pop() for place in range(size))
    return Ranking("moved", item.query, tuple(documents), size, item, places)


def _direct(expected: Expected, asked: Plan) -> Iterator[Question]:
    if asked.prompts:
        body = _json(model=expected.model, input=asked.prompts, add_special_tokens=False)
        yield Question("/classify", body)


def _json(**fields: Any) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _count(reply: Reply) -> int:
    try:
        return int(json.loads(reply.text)["count"]) if reply.status == 200 else 0
    except (ValueError, KeyError, TypeError):
        return 0


def _probabilities(reply: Reply | None) -> Iterator[float]:
    if reply is None or reply.status != 200:
        return
    try:
        rows = sorted(json.loads(reply.text)["data"], key=lambda row: int(row["index"]))
        yield from [float(row["probs"][0]) for row in rows]
    except (ValueError, KeyError, TypeError, IndexError):
        return


def _answer(ranking: Ranking, reply: Reply) -> Answer:
    if reply.status != 200:
        return Answer(ranking, reply.status, reply.text[:300] or "no answer")
    try:
        data = json.loads(reply.text)
        rows = tuple((int(one["index"]), _score(one["relevance_score"])) for one in data["results"])
        tokens = int((data.get("usage") or {}).get("prompt_tokens", -1))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Answer(ranking, reply.status, f"not the expected JSON: {reply.text[:200]}")
    return Answer(ranking, reply.status, "", rows, tokens)


def _score(raw: Any) -> float:
    return math.nan if raw is None else float(raw)
