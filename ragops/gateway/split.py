"""A rerank request as shares, and their scores as one response of vLLM 0.32 (``pooling/scoring``); pure."""

import hashlib
import math
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

Body = bytes | bytearray
SHARE_SECONDS = 2.0
"""Most predicted work of a share when there is a deadline: what has ended by then counts."""
LEAST_SHARES = 8
"""Shares for which a short deadline has time."""
LEAST_SECONDS = 0.05
"""Least predicted work of a share: a smaller one costs more than it gains."""
EVEN = 1.4
"""Paces that differ by no more than this factor count as equal."""
MOST_DOCUMENTS, MOST_COMMAS = 10_000, 500_000
"""Of a request that is divided: each value needs up to some hundred bytes of memory beside its text."""
_OVER_LONG = re.compile(rb"context length is (\d+) tokens")


@dataclass(frozen=True)
class Rerank:
    """A request: one text as query, and texts as documents."""

    costs: list[int]
    """UTF-8 bytes of the query and each document; tokens are unknown here."""
    keys: list[bytes]
    """A digest of all that a document's score depends on."""
    raw: Body | None = None
    """The body of a request that goes to one replica as it is."""
    documents: Sequence[str] = ("",)
    top_n: int = 0
    identity: str = ""
    fields: dict[str, Any] | None = None
    """The query and all others; every share has them."""

    def body(self, texts: Sequence[str], **fields: Any) -> Body:
        """The request for some texts."""
        shared = {**(self.fields or {}), "documents": texts, **fields}
        return orjson.dumps(shared) if self.raw is None else self.raw


def parse(body: Body, identity: str = "") -> Rerank:
    """Read a request; one that only a replica can judge, or that can't be split, stays as it is."""
    whole = Rerank([len(body)], [b""], body)
    if body.count(b",") > MOST_COMMAS:
        return whole
    try:
        fields = orjson.loads(body)
        query, texts, top_n = fields.get("query"), fields.pop("documents", None), fields.pop("top_n", 0)
        own_identity = fields.pop("request_id", "")
        context = hashlib.sha256(orjson.dumps(fields, None, orjson.OPT_SORT_KEYS))
    except (ValueError, TypeError, AttributeError):  # also NaN and lone surrogates, which vLLM's parser takes
        return whole
    texts, costs, keys = [texts] if isinstance(texts, str) else texts, [], []
    if not (isinstance(query, str) and isinstance(texts, list) and isinstance(own_identity, str)):
        return whole
    if not all(isinstance(text, str) for text in texts) or type(top_n) is not int or top_n < 0:
        return whole
    if not 0 < len(texts) <= MOST_DOCUMENTS:
        return whole
    for text in texts:
        digest, encoded = context.copy(), text.encode()
        digest.update(encoded)
        costs.append(len(query.encode()) + len(encoded))
        keys.append(digest.digest()[:16])
    return Rerank(costs, keys, None, texts, top_n, identity or own_identity or uuid.uuid4().hex, fields)


def share_cost(left: int, total: int, handed: int, pace: float, paces: Sequence[float]) -> float:
    """The cost of the next share in bytes: equal shares, or on demand where paces differ.

    ``left`` is the cost of the documents that are not handed out, in ``handed`` shares so far; ``pace`` are
    the seconds per byte of the replica that gets the share, ``paces`` those of all admitted ones.
    """
    cost = left / (len(paces) - handed % len(paces))
    if max(paces) > EVEN * min(paces):
        weight = (1 / pace) / sum(1 / other for other in paces)
        cost = max(left * weight / 2, total * weight / 6)
    return max(cost, LEAST_SECONDS / pace)


def take(costs: Sequence[int], cost: float) -> int:
    """How many of the documents make a share of about this cost; one at least."""
    total = 0.0
    for count, one in enumerate(costs):
        if count and total + one / 2 > cost:
            return count
        total += one
    return len(costs)


def read_scores(body: bytes | memoryview, count: int) -> tuple[list[float], int, str]:
    """Scores in the order of the documents, prompt tokens and model of a replica's response.

    Raises:
        ValueError: It has not one finite score for each document.
    """
    try:
        fields = orjson.loads(body)
        scores = {row["index"]: row["relevance_score"] + 0.0 for row in fields["results"]}
        if len(fields["results"]) == count and all(map(math.isfinite, scores.values())):
            ordered = [scores[index] for index in range(count)]
            return ordered, int(fields["usage"]["prompt_tokens"]), str(fields["model"])
    except (ValueError, LookupError, TypeError):
        pass
    raise ValueError("malformed response")


def merge(request: Rerank, scores: dict[int, float], **fields: Any) -> bytes:
    """The response; documents without a score follow in the order of the request."""
    ranked = sorted(scores.items(), key=lambda row: (-row[1], row[0]))
    rest = [index for index in range(len(request.documents)) if index not in scores]
    ranked += zip(rest, tail(list(scores.values()), len(rest)), strict=True)
    rows = [
        {
            "index": index,
            "document": {"text": request.documents[index], "multi_modal": None},
            "relevance_score": score,
        }
        for index, score in ranked[: request.top_n or None]
    ]
    return orjson.dumps({**fields, "results": rows})


def tail(scores: Sequence[float], count: int) -> list[float]:
    """Descending scores below all others: between 0 and the lowest where scores are 0 to 1."""
    lowest = min(scores)
    if lowest > 1e-9 and max(scores) <= 1:
        return [lowest * (1 - place / (count + 1)) for place in range(1, count + 1)]
    step = max(1e-6, abs(lowest) * 1e-9)
    return [lowest - step * place for place in range(1, count + 1)]


def over_long(status: int, body: bytes | memoryview) -> int:
    """The model's limit in vLLM's refusal of a long document; 0 for any other response."""
    match = _OVER_LONG.search(body) if status == 400 else None
    return int(match[1]) if match else 0
