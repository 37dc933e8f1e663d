"""Requests of the score check and the results of their responses; pure.

:func:`plan_requests` decides what is sent, :func:`parse_responses` turns the responses into :class:`Results`,
and ``rules.py`` judges them. What every rule needs is sent first; a slow server gets no more than that.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from ragops.checks import golden
from ragops.checks.golden import Form, Item, ScoredItem
from ragops.checks.probe import ProbeRequest, ProbeResponse
from ragops.configuration import Kind
from ragops.reranker import architectures, options
from ragops.reranker.architectures import Architecture
from ragops.session import Deployment

QUERY = (
    "Which word opens the reserve tank of the old water tower when nobody of the day shift can be reached?"
)
"""Long, so that the token counts show whether a server tokenizes it once for all documents."""
PAIR = (
    "The reserve tank is opened by the word that the night shift keeps in a sealed envelope.",
    "Swallows leave in September and come back in April, when the first insects are in the air.",
)
CHINESE_QUERY = "水箱满了以后亮什么颜色的灯?"
CHINESE_DOCUMENTS = ("Tank 7: 水箱满了以后亮绿色的灯。", "Tank 7: 食堂中午十二点开始供饭。")
"""Equal but for their Chinese, which is equally long."""
ASCII_PART = "Tank 7: "
"""What is left of both where only ASCII gets through."""

LONGEST = 720
"""Tokens of the pair that shows truncation: its document is longer than the 512 at which most servers that
truncate do so."""
_FILLER = (
    "The tower was painted grey in spring.",
    "Visitors meet at the gate on Sunday mornings.",
    "A map of the pipes hangs beside the stairs.",
    "The lamps are changed before winter comes.",
    "Two benches stand below the lime tree.",
)
_DECISIVE = "The word that opens the reserve tank of the old water tower is marigold."
_IDLE = "The stairs to the roof garden of the new town hall are closed today."
_TOKENS_PER_WORD = 1.2
"""Of the filler, rounded up; both tokenizers that were tried make 1.13 of a word."""

_BLOCK = r'\{%-(?:"(?:[^"\\]|\\.)*"|[^"])*?-%\}\s*'
"""A block of Jinja, whose strings may have its end in them."""

Purpose = Literal["pair", "tail", "letters", "top", "golden", "again", "moved", "wide", "other", "ragflow"]

REPEATED = 1
"""Golden queries that are repeated, and as many others whose documents are moved; with ``full`` all."""
ADDED = 3
"""Documents put around those of a query when they are moved."""
FEWEST, MANY = 12, 24
"""Golden queries below which an order is not judged, and those that are sent when there is time."""
WIDE = 70
"""Documents in the call that is as long as RAGFlow's usual one; all but a query's own are short."""


@dataclass(frozen=True)
class Expected:
    """The reranker as it was started."""

    model: str
    kind: Kind
    max_tokens: int
    """Longest query and document together, in tokens."""
    substitute: str = ""
    instruction: str | None = None

    @classmethod
    def of(cls, deployment: Deployment) -> "Expected":
        """The reranker of a deployment."""
        model, length = deployment.model, deployment.sizing.max_model_len
        instruction = deployment.stack.reranker.instruction
        return cls(deployment.spec.served_name, model.kind, length, model.substitute, instruction)

    @property
    def row(self) -> Architecture:
        """What the kind of model needs, and what its scores are."""
        return architectures.by_kind(self.kind)

    @property
    def trained(self) -> bool:
        """Whether its order can be judged; random weights have none."""
        return not self.substitute or self.kind == "embedding"

    @property
    def template(self) -> str:
        """The model card's prompt as a template; empty for models that need none."""
        return options.score_template(self.row, self.instruction)

    @property
    def template_tokens(self) -> int:
        """Tokens that the server's score template adds to a pair."""
        return options.template_tokens(self.row, self.instruction)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that it is judged in: those that it is known to have been trained on."""
        return golden.LANGUAGES if self.row.multilingual else ("en",)


@dataclass(frozen=True)
class RerankCall:
    """One rerank request of the score check."""

    purpose: Purpose
    query: str
    documents: tuple[str, ...]
    top_n: int
    item: Item | None = None
    places: tuple[int, ...] = ()
    """For moved documents: where each document of the item now stands."""


@dataclass(frozen=True)
class RequestPlan:
    """All requests, in this order."""

    counted: tuple[str, ...]
    """Texts whose tokens the server counts."""
    prompts: tuple[str, ...]
    """The model card's prompts of :data:`PAIR`, which the server also scores as they are."""
    calls: tuple[RerankCall, ...]
    needed: int
    """How many of the calls the rules need; the others make a good order surer."""


@dataclass(frozen=True)
class RerankResult:
    """The response to one call."""

    call: RerankCall
    error: str
    rows: tuple[tuple[int, float], ...] = ()
    """(index, score) in the order of the response; a score that is null is NaN."""
    tokens: int = -1
    """Prompt tokens that the server reports; -1 when it does not."""

    @property
    def returned(self) -> tuple[float, ...]:
        """Scores in the order of the response."""
        return tuple(score for _, score in self.rows)

    @property
    def scores(self) -> tuple[float, ...]:
        """Scores in the order of the documents; needs one row for each."""
        return tuple(score for _, score in sorted(self.rows))

    @property
    def item_scores(self) -> tuple[float, ...]:
        """Scores of the item's documents alone, wherever they stand."""
        scores = self.scores
        return tuple(scores[place] for place in self.call.places) if self.call.places else scores


@dataclass(frozen=True)
class Results:
    """The parsed responses to a plan."""

    results: tuple[RerankResult, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    """Tokens of each counted text; empty when the server does not count."""
    direct: tuple[float, ...] = ()
    """Scores of the plan's prompts as they are; empty when the server gives none."""
    not_sent: int = 0

    def tokens(self, *texts: str) -> int:
        """Tokens of some of the counted texts together; 0 when the server does not count."""
        return sum(self.counts.get(text, 0) for text in texts)

    def of(self, purpose: Purpose) -> tuple[RerankResult, ...]:
        """The results of the calls with one purpose."""
        return tuple(result for result in self.results if result.call.purpose == purpose)

    def scored(self, purpose: Purpose, languages: Sequence[str] = golden.LANGUAGES) -> tuple[ScoredItem, ...]:
        """Golden items of these languages with their scores."""
        pairs = [(result.call.item, result.scores) for result in self.of(purpose)]
        return tuple(ScoredItem(item, scores) for item, scores in pairs if item and item.lang in languages)


def plan_requests(expected: Expected, *, full: bool = False) -> RequestPlan:
    """The requests for a reranker; with ``full`` the whole golden set in both forms, else a part of it."""
    tail = tail_documents(expected, full=full)
    prompts = pair_prompts(expected)
    quick = (("en", 12), ("de", 6), ("zh", 6)) if expected.template else (("en", MANY),)
    items = golden.load() if full else golden.subset(quick)
    first = items if full else tuple(item for item in items if item.lang == "en")[: 2 * REPEATED]
    repeated, moved = (first, first) if full else (first[:REPEATED], first[REPEATED:])
    rest = tuple(item for item in items if item not in first)
    soon = rest[: FEWEST - len(first)] if len(first) < FEWEST else ()
    stemmed = items if full else (*first, *soon)[::2]
    sample = first[0]
    unrelated = [
        other.query for other in items if other.lang == sample.lang and other.domain != sample.domain
    ]
    needed = (
        RerankCall("pair", QUERY, PAIR, len(PAIR)),
        RerankCall("tail", QUERY, tail, len(tail)),
        RerankCall("letters", CHINESE_QUERY, CHINESE_DOCUMENTS, len(CHINESE_DOCUMENTS)),
        *(_golden("golden", item) for item in first),
        *(_golden("again", item) for item in repeated),
        *(_moved(item, items) for item in moved),
        RerankCall("top", sample.query, sample.texts(), 2, sample),
        RerankCall("other", unrelated[0], sample.texts(), len(sample.documents), sample),
        _wide(sample),
        *(_golden("golden", item) for item in soon),
    )
    others = (
        *(_golden("ragflow", item, "ragflow") for item in stemmed),
        *(_golden("golden", item) for item in rest if item not in soon),
    )
    counted = (QUERY, *PAIR, *tail, CHINESE_QUERY, *CHINESE_DOCUMENTS, ASCII_PART, *prompts)
    return RequestPlan(counted, prompts, (*needed, *others), len(needed))


def probe_requests(expected: Expected, plan: RequestPlan, path: str) -> tuple[ProbeRequest, ...]:
    """The plan as HTTP requests; ``path`` is that of the reranker's address, such as ``/v1``."""
    # vLLM adds a tokenizer's special tokens to a rendered prompt: one for Gemma, none for Qwen.
    model, prompts = expected.model, plan.prompts
    bodies = (_json(model=model, prompt=text, add_special_tokens=text in prompts) for text in plan.counted)
    requests = [ProbeRequest("/tokenize", body) for body in bodies]
    if prompts:
        requests.append(ProbeRequest("/classify", _json(model=model, input=prompts, add_special_tokens=True)))
    requests += [ProbeRequest(f"{path}/rerank", rerank_body(model, call)) for call in plan.calls]
    return tuple(requests)


def rerank_body(model: str, call: RerankCall) -> str:
    """The JSON that RAGFlow's client would send."""
    texts = {"query": call.query, "documents": call.documents}
    return _json(model=model, **texts, top_n=call.top_n, return_documents=False)


def parse_responses(plan: RequestPlan, responses: Mapping[int, ProbeResponse]) -> Results:
    """The results in the order of the plan.

    ``responses`` are by the place of their request in :func:`probe_requests`; some may be missing.
    """
    counts = {text: _count(responses.get(place)) for place, text in enumerate(plan.counted)}
    direct = _probabilities(responses.get(len(plan.counted))) if plan.prompts else ()
    calls = enumerate(plan.calls, start=len(plan.counted) + bool(plan.prompts))
    results = tuple(
        RerankResult(call, *parse_ranking(responses[place])) for place, call in calls if place in responses
    )
    return Results(results, counts if all(counts.values()) else {}, direct, len(plan.calls) - len(results))


def tail_documents(expected: Expected, *, full: bool = False) -> tuple[str, str, str]:
    """Long documents with the answer to :data:`QUERY` in their last sentence, nowhere, and in their first.

    ``full`` makes them nearly as long as the server takes them, else they are as long as :data:`LONGEST`.
    """
    longest = expected.max_tokens if expected.row.splits else expected.max_tokens // 3
    spare = 80 + expected.template_tokens  # of the query, the prompt and the two sentences
    words = ((longest if full else min(longest, LONGEST)) - spare) / _TOKENS_PER_WORD
    body = " ".join(_FILLER[number % len(_FILLER)] for number in range(max(1, int(words / 7.6))))
    return f"{_IDLE} {body} {_DECISIVE}", f"{_IDLE} {body} {_IDLE}", f"{_DECISIVE} {body} {_IDLE}"


def pair_prompts(expected: Expected) -> tuple[str, ...]:
    """The model card's prompts of :data:`PAIR`; none for a model without one."""
    template = expected.template
    return tuple(render_prompt(template, QUERY, document) for document in PAIR) if template else ()


@cache
def render_prompt(template: str, query: str, document: str) -> str:
    """The text that vLLM renders from a score template; only the Jinja of the packaged templates is known."""
    usual = re.search(r'set usual = ("(?:[^"\\]|\\.)*")', template)
    text = re.sub(r"\{#-.*?-#\}\s*|" + _BLOCK, "", template, flags=re.DOTALL).removesuffix("\n")
    values = {"query": query, "document": document, r'"\n\n"': "\n\n", r'"\n"': "\n"}
    values["instruction | default(usual, true)"] = json.loads(usual[1]) if usual else ""
    return re.sub(r"\{\{ (.*?) \}\}", lambda match: values[match[1]], text)


def _golden(purpose: Purpose, item: Item, form: Form = "natural") -> RerankCall:
    return RerankCall(purpose, item.query, item.texts(form), len(item.documents), item)


def _moved(item: Item, items: Sequence[Item]) -> RerankCall:
    own = item.texts()
    others = [other.texts()[0] for other in items if other.lang == item.lang and other is not item]
    added = list(dict.fromkeys(text for text in others if text not in own))[:ADDED]
    size = len(own) + len(added)
    places = tuple(place for place in reversed(range(size)) if place % 3 != 1 or place // 3 >= len(added))
    texts = dict(zip(places, own, strict=True))
    documents = tuple(texts[place] if place in texts else added.pop() for place in range(size))
    return RerankCall("moved", item.query, documents, size, item, places)


def _wide(item: Item) -> RerankCall:
    """A query's documents spread over a long call of two titles each; the last document is there twice.

    With Qwen3's prompt two titles end soon after a block of the prefix cache, one title ends before it: when
    repeated, a pair is computed from there on.
    """
    own = item.texts()
    all_titles = dict.fromkeys(document.title for other in golden.load() for document in other.documents)
    titles = (title for title in all_titles if all(title not in text for text in own))
    fillers = map(", ".join, zip(titles, titles, strict=False))
    step = (WIDE - 2) // len(own)
    places = tuple(2 + number * step for number in range(len(own)))
    texts = {**dict(zip(places, own, strict=True)), WIDE - 1: own[-1]}
    documents = tuple(texts[place] if place in texts else next(fillers) for place in range(WIDE))
    return RerankCall("wide", item.query, documents, WIDE, item, places)


def _json(**fields: Any) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _count(response: ProbeResponse | None) -> int:
    try:
        return int(json.loads(response.text)["count"]) if response and response.status == 200 else 0
    except (ValueError, KeyError, TypeError):
        return 0


def _probabilities(response: ProbeResponse | None) -> tuple[float, ...]:
    if response is None or response.status != 200:
        return ()
    try:
        rows = sorted(json.loads(response.text)["data"], key=lambda row: int(row["index"]))
        return tuple(float(row["probs"][0]) for row in rows)
    except (ValueError, KeyError, TypeError, IndexError):
        return ()


def parse_ranking(response: ProbeResponse) -> tuple[str, tuple[tuple[int, float], ...], int]:
    """Why a rerank response has no scores, its (index, score) pairs, and its prompt tokens; -1 if unknown."""
    if response.status != 200:
        status = f"HTTP {response.status}: " if response.status else ""
        return f"{status}{response.text[:300] or 'no response'}", (), -1
    try:
        data = json.loads(response.text)
        pairs = [(int(row["index"]), row["relevance_score"]) for row in data["results"]]
        rows = tuple((index, math.nan if score is None else float(score)) for index, score in pairs)
        return "", rows, int((data.get("usage") or {}).get("prompt_tokens", -1))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"not the expected JSON: {response.text[:200]}", (), -1
