"""A rerank request as shares, and their scores as one response of vLLM 0.32 (``pooling/scoring``); pure."""

import hashlib
import math
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

Body = bytes | bytearray
LEAST_SECONDS = 0.05  # of predicted work, for which a share is worth its own costs
MOST_DOCUMENTS, MOST_COMMAS = 10_000, 500_000
"""Of a request that is divided: each value needs up to some hundred bytes of memory beside its text."""
MOST_TOKENS = 1 << 40  # of a share: the sum of all is a number that JSON can hold
_OVER_LONG = re.compile(rb"context length is (\d+) tokens")


@dataclass(frozen=True)
class Rerank:
    """A request: one text as query, and texts as documents."""

    costs: list[int]  # UTF-8 bytes of the query and each document; tokens are unknown here
    keys: list[bytes]  # digests of all that a document's score depends on
    raw: Body | None = None  # the body of a request that goes to one replica as it is
    documents: Sequence[str] = ("",)
    top_n: int = 0
    identity: str = ""
    fields: dict[str, Any] = field(default_factory=dict)  # the query and all others; every share has them

    def body(self, texts: Sequence[str], **fields: Any) -> Body:
        """The request for some texts."""
        return orjson.dumps({**self.fields, "documents": texts, **fields}) if self.raw is None else self.raw


def parse(body: Body, identity: str = "", *, splits: bool = True) -> Rerank:
    """Read a request; whole if only a replica can judge it, or if it can't be divided."""
    try:
        fields: Any = orjson.loads(body) if splits and body.count(b",") <= MOST_COMMAS else None
        texts, top_n = fields.pop("documents", None), fields.pop("top_n", 0)
        own = fields.pop("request_id", "")
        context = hashlib.sha256(orjson.dumps(fields, None, orjson.OPT_SORT_KEYS)).digest()
        texts, query = [texts] if isinstance(texts, str) else texts, fields["query"].encode()
        encoded = [text.encode() for text in texts]
        usual = isinstance(texts, list) and isinstance(own, str) and type(top_n) is int and top_n >= 0
    except (ValueError, TypeError, AttributeError, LookupError):  # also NaN and lone surrogates
        usual = False
    if not usual or not 0 < len(texts) <= MOST_DOCUMENTS:
        return Rerank([len(body)], [b""], body)
    keys = [hashlib.sha256(context + text).digest()[:16] for text in encoded]
    costs, identity = [len(query) + len(text) for text in encoded], identity or own or uuid.uuid4().hex
    return Rerank(costs, keys, None, texts, top_n, identity, fields)


def common_end(cost: float, replicas: Iterable[tuple[float, float]]) -> float:
    """Seconds after which all replicas end if each computes what it can by then.

    Each replica has the seconds until it is free, and its seconds per byte.
    """
    speed, waited, end = 0.0, 0.0, math.inf
    for wait, pace in sorted(replicas):
        if wait < end:
            speed, waited = speed + 1 / pace, waited + wait / pace
            end = (cost + waited) / speed
    return end


def take(costs: Mapping[bytes, float], cost: float, window: float) -> list[bytes]:
    """The documents of a share of about this cost, of the first ones that cost ``window`` together.

    Those that fit in their order, so that small ones level the shares; one at least.
    """
    taken, rest, left = list[bytes](), list[bytes](), cost
    for key, one in costs.items():
        if taken and window <= 0:
            break
        window -= one
        if one <= left or not taken:
            left -= one
            taken.append(key)
        else:
            rest.append(key)
    least = min(rest, key=costs.__getitem__, default=b"")
    return [*taken, least] if rest and costs[least] / 2 <= left else taken


def read_scores(body: bytes | memoryview, count: int) -> tuple[list[float], int, str]:
    """Scores in the order of the documents, prompt tokens and model of a replica's response.

    Raises:
        ValueError: It has not one finite score for each document.
    """
    with suppress(ValueError, LookupError, TypeError):
        fields = orjson.loads(body)
        scores = {row["index"]: row["relevance_score"] + 0.0 for row in fields["results"]}
        tokens, finite = int(fields["usage"]["prompt_tokens"]), all(map(math.isfinite, scores.values()))
        if len(fields["results"]) == count and finite and 0 <= tokens < MOST_TOKENS:
            return [scores[index] for index in range(count)], tokens, str(fields["model"])
    raise ValueError("malformed response")


def merge(request: Rerank, scores: Mapping[int, float], **fields: Any) -> bytes:
    """The response; documents without a score follow in the order of the request."""
    ranked = sorted(scores.items(), key=lambda row: (-row[1], row[0]))
    rest = [index for index in range(len(request.documents)) if index not in scores]
    ranked += zip(rest, tail(list(scores.values()), len(rest)), strict=True)
    texts = [{"text": text, "multi_modal": None} for text in request.documents]
    first = ranked[: request.top_n or None]
    rows = [{"index": index, "document": texts[index], "relevance_score": score} for index, score in first]
    return orjson.dumps({"id": f"score-{request.identity}", **fields, "results": rows})


def tail(scores: Sequence[float], count: int) -> list[float]:
    """Descending scores below all others: between 0 and the lowest where scores are 0 to 1."""
    lowest, most = min(scores), max(scores)
    step = lowest / (count + 1) if lowest > 1e-9 and most <= 1 else max(1e-6, abs(lowest) * 1e-9)
    return [lowest - step * place for place in range(1, count + 1)]


def over_long(status: int, body: bytes | memoryview) -> int:
    """The model's limit in vLLM's refusal of a long document; 0 for any other response."""
    match = _OVER_LONG.search(body) if status == 400 else None
    return int(match[1]) if match else 0
