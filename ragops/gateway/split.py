"""A rerank request as shares, and their scores as one response of vLLM 0.32 (``pooling/scoring``); pure."""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

SHARE_SECONDS = 2.0
"""Most predicted work of a share when there is a deadline: what has ended by then counts."""
LEAST_SECONDS = 0.02
"""Least predicted work of a share: a smaller one costs more than it gains."""
EVEN = 1.3
"""Paces that differ by no more than this factor count as equal."""
_OVER_LONG = re.compile(rb"context length is (\d+) tokens")


@dataclass(frozen=True)
class Rerank:
    """A request that can be split: one text as query, and a list of texts."""

    query: str
    documents: list[str]
    top_n: int
    request_id: str
    extras: dict[str, Any]
    """The other fields; every share has them."""
    costs: list[int] = field(repr=False)
    """UTF-8 bytes of the query and each document; tokens are unknown here."""
    keys: list[bytes] = field(repr=False)
    """A digest of all that a document's score depends on."""

    def body(self, texts: Sequence[str], **fields: Any) -> bytes:
        """The request for some texts."""
        return orjson.dumps({**self.extras, "query": self.query, "documents": texts, **fields})


def parse(body: bytes) -> Rerank | None:
    """Read a request; None for one that only a replica can judge, or that can't be split."""
    try:
        fields = dict(orjson.loads(body))
    except (ValueError, TypeError):  # also NaN and lone surrogates, which vLLM's parser takes
        return None
    query, texts, top_n = fields.pop("query", None), fields.pop("documents", None), fields.pop("top_n", 0)
    texts, request_id = [texts] if isinstance(texts, str) else texts, fields.pop("request_id", "")
    if not (
        isinstance(query, str) and isinstance(texts, list) and texts and type(top_n) is int and top_n >= 0
    ):
        return None
    if not isinstance(request_id, str) or not all(isinstance(text, str) for text in texts):
        return None
    context, costs, keys = hashlib.sha256(orjson.dumps([fields, query], None, orjson.OPT_SORT_KEYS)), [], []
    for text in texts:
        digest, encoded = context.copy(), text.encode()
        digest.update(encoded)
        costs.append(len(query.encode()) + len(encoded))
        keys.append(digest.digest()[:16])
    return Rerank(query, texts, top_n, request_id, fields, costs, keys)


def share_cost(
    left: int, total: int, handed: int, pace: float, paces: Sequence[float], seconds: float = math.inf
) -> float:
    """The cost of the next share in bytes: equal shares, or on demand where paces differ.

    Args:
        left: Cost of the documents that are not yet handed out.
        total: Cost of all documents.
        handed: Shares already handed out.
        pace: Seconds per byte of the replica that gets the share.
        paces: Those of all admitted replicas.
        seconds: Most predicted work.
    """
    cost = left / (len(paces) - handed % len(paces))
    if max(paces) > EVEN * min(paces):
        weight = (1 / pace) / sum(1 / other for other in paces)
        cost = max(left * weight / 2, total * weight / 6)
    return min(max(cost, LEAST_SECONDS / pace), seconds / pace)


def take(costs: Sequence[int], cost: float) -> int:
    """How many of the documents make a share of about this cost; one at least."""
    total = 0.0
    for count, one in enumerate(costs):
        if count and total + one / 2 > cost:
            return count
        total += one
    return len(costs)


def read_scores(body: bytes, count: int) -> tuple[list[float], int, str]:
    """Scores in the order of the documents, prompt tokens and model of a replica's response.

    Raises:
        ValueError: It has not one finite score for each document.
    """
    try:
        fields = orjson.loads(body)
        scores = {row["index"]: row["relevance_score"] + 0.0 for row in fields["results"]}
        tokens, model = int(fields["usage"]["prompt_tokens"]), str(fields["model"])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"malformed response: {type(error).__name__}") from None
    if len(fields["results"]) != count or scores.keys() != set(range(count)):
        raise ValueError("malformed response: indices")
    if not all(map(math.isfinite, scores.values())):
        raise ValueError("malformed response: scores that are not finite")
    return [scores[index] for index in range(count)], tokens, model


def merge(request: Rerank, scores: dict[int, float], **fields: Any) -> bytes:
    """The response; documents without a score follow in the order of the request."""
    ranked = sorted(scores.items(), key=lambda row: (-row[1], row[0]))
    rest = [index for index in range(len(request.documents)) if index not in scores]
    ranked += zip(rest, tail(list(scores.values()), len(rest)), strict=True)
    results = [
        {
            "index": index,
            "document": {"text": request.documents[index], "multi_modal": None},
            "relevance_score": score,
        }
        for index, score in ranked[: request.top_n or None]
    ]
    return orjson.dumps({**fields, "results": results})


def tail(scores: Sequence[float], count: int) -> list[float]:
    """Descending scores below all others: between 0 and the lowest where scores are 0 to 1."""
    lowest = min(scores)
    if lowest > 1e-9 and max(scores) <= 1:
        return [lowest * (1 - place / (count + 1)) for place in range(1, count + 1)]
    step = max(1e-6, abs(lowest) * 1e-9)
    return [lowest - step * place for place in range(1, count + 1)]


def over_long(status: int, body: bytes) -> int:
    """The model's limit in vLLM's refusal of a long document; 0 for any other response."""
    match = _OVER_LONG.search(body) if status == 400 else None
    return int(match[1]) if match else 0
