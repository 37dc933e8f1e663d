"""Texts of the score gate that are no golden questions: each shows one way to lose a part of a text; pure.

What the score gate asks, and what it makes of the replies; pure.

:func:`plan` writes the questions, :func:`read` turns the replies into a :class:`Transcript`, and
``scores.py`` judges it. What every rule needs is asked first; a server that is slow is asked no more
than that.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from ragops.checks import golden
from ragops.checks.measures import Judged
from ragops.checks.probe import Question
from ragops.reranker import options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ragops.checks.golden import Form, Item
    from ragops.checks.probe import Reply
    from ragops.reranker.model import Kind

QUERY = (
    "Which word opens the reserve tank of the old water tower when nobody of the day shift can be reached?"
)
"""Long, so that a server that tokenizes it once for all documents can be told from one that doesn't."""
PAIR = (
    "The reserve tank is opened by the word that the night shift keeps in a sealed envelope.",
    "Swallows leave in September and come back in April, when the first insects are in the air.",
)
LETTERS_QUERY = "水箱满了以后亮什么颜色的灯?"
LETTERS = ("Tank 7: 水箱满了以后亮绿色的灯。", "Tank 7: 食堂中午十二点开始供饭。")
"""Equal but for their Chinese, which is equally long."""
LETTERS_BARE = "Tank 7: "
"""What is left of both where only ASCII gets through."""

LONGEST = 720
"""Tokens of a pair that asks whether all of it is read: its document is longer than the 512 at which most
servers that cut off do so; more would only take longer."""

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


def long_documents(max_tokens: int, spare: int) -> tuple[str, str, str]:
    """Long documents that answer :data:`QUERY` in their last sentence, nowhere, and in their first.

    Args:
        max_tokens: Longest query and document together that the model takes.
        spare: Tokens to leave for the query, the prompt and the two sentences.
    """
    words = (min(max_tokens, LONGEST) - spare) / _TOKENS_A_WORD
    body = " ".join(_FILLER[number % len(_FILLER)] for number in range(max(1, int(words / 7.6))))
    return f"{_IDLE} {body} {_DECISIVE}", f"{_IDLE} {body} {_IDLE}", f"{_DECISIVE} {body} {_IDLE}"


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


Purpose = Literal["pair", "tail", "letters", "top", "golden", "again", "moved", "wide", "other", "ragflow"]

REPEATED = 1
"""Golden queries that are asked again, and as many others whose documents are moved; with ``full`` all."""
STRANGERS = 3
"""Documents put around those of a query when they are moved."""
FEWEST, MANY = 12, 24
"""Golden queries below which an order is not judged, and those that are asked when there is time."""
WIDE = 70
"""Documents in the call that is as long as RAGFlow's usual one; all but a query's own are short."""


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
        name = next(row.template for row in options.KNOWN if row.kind == self.kind)
        return (options.TEMPLATES / name).read_text(encoding="utf-8") if name else ""

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
    needed: int
    """How many of the rankings the rules need; the others make a good order surer."""


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
    counts: Mapping[str, int] = field(default_factory=dict)
    """Tokens of each counted text; empty when the server does not count."""
    direct: tuple[float, ...] = ()
    """Scores of the plan's prompts as they are; empty when the server gives none."""
    unasked: int = 0
    """Rankings for which there was no time."""

    def tokens(self, *texts: str) -> int:
        """Tokens of some of the counted texts together; 0 when the server does not count."""
        return sum(self.counts.get(text, 0) for text in texts)

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
    prompts = pair_prompts(expected)
    items = golden.load() if full else golden.subset(_quick(expected))
    first = items if full else tuple(item for item in items if item.lang == "en")[: 2 * REPEATED]
    repeated, moved = (first, first) if full else (first[:REPEATED], first[REPEATED:])
    rest = tuple(item for item in items if item not in first)
    soon = rest[: FEWEST - len(first)] if len(first) < FEWEST else ()
    as_sent = items if full else (*first, *soon)[::2]
    needed = (
        Ranking("pair", QUERY, PAIR, len(PAIR)),
        Ranking("tail", QUERY, tail, len(tail)),
        Ranking("letters", LETTERS_QUERY, LETTERS, len(LETTERS)),
        *(_golden("golden", item) for item in first),
        *(_golden("again", item) for item in repeated),
        *(_moved(item, items) for item in moved),
        Ranking("top", first[0].query, first[0].texts(), 2, first[0]),
        Ranking("other", _unlike(first[0], items), first[0].texts(), len(first[0].documents), first[0]),
        _wide(first[0]),
        *(_golden("golden", item) for item in soon),
    )
    others = (
        *(_golden("ragflow", item, "ragflow") for item in as_sent),
        *(_golden("golden", item) for item in rest if item not in soon),
    )
    counted = (QUERY, *PAIR, *tail, LETTERS_QUERY, *LETTERS, LETTERS_BARE, *prompts)
    return Plan(counted, prompts, (*needed, *others), len(needed))


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
    told = dict(zip(asked.counted, counts, strict=False)) if all(counts) else {}
    return Transcript(answers, told, direct, unasked)


def tail_documents(expected: Expected) -> tuple[str, str, str]:
    """Long documents that answer :data:`~ragops.checks.questions.QUERY` at their end, nowhere, or first."""
    return long_documents(expected.max_tokens, 160 if expected.template else 80)


def pair_prompts(expected: Expected) -> tuple[str, ...]:
    """The model card's prompts of :data:`~ragops.checks.questions.PAIR`; none for a model without one."""
    return tuple(prompt(expected.template, QUERY, one) for one in PAIR) if expected.template else ()


def _quick(expected: Expected) -> tuple[tuple[str, int], ...]:
    """Queries of each language that it is judged in; others would only take their time."""
    return (("en", 12), ("de", 6), ("zh", 6)) if expected.template else (("en", MANY),)


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


def _unlike(item: Item, others: Sequence[Item]) -> str:
    """A question of the same language that none of the documents answers."""
    return next(one.query for one in others if one.lang == item.lang and one.domain != item.domain)


def _wide(item: Item) -> Ranking:
    """A query's documents spread over a long call of two titles each; the last document is there twice.

    With Qwen3's prompt two titles end soon after a block of the prefix cache, one title ends before it: asked
    again, a pair is computed from there on.
    """
    own = item.texts()
    every_title = dict.fromkeys(one.title for other in golden.load() for one in other.documents)
    titles = (title for title in every_title if all(title not in text for text in own))
    strangers = map(", ".join, zip(titles, titles, strict=False))
    every = (WIDE - 2) // len(own)
    places = tuple(2 + number * every for number in range(len(own)))
    there = {**dict(zip(places, own, strict=True)), WIDE - 1: own[-1]}
    documents = tuple(there[place] if place in there else next(strangers) for place in range(WIDE))
    return Ranking("wide", item.query, documents, WIDE, item, places)


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
