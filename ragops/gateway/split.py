"""A rerank request as shares, and their scores as one response; pure.

The shapes and the errors are those of vLLM 0.32 (``entrypoints/pooling/scoring``).
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence

SHARE_SECONDS = 2.0
"""Most predicted work of a share when there is a deadline: what has ended by then counts."""
LEAST_SECONDS = 0.02
"""Least predicted work of a share: a smaller one costs more than it gains."""
EVEN = 1.3
"""Paces that differ by no more than this factor count as equal."""

_OVER_LONG = re.compile(rb"context length is (\d+) tokens")


class MalformedResponseError(Exception):
    """A replica's response has not one finite score for each document."""


@dataclass(frozen=True)
class Rerank:
    """A request that can be split: one text as query, and a list of texts."""

    query: str
    documents: tuple[str, ...]
    top_n: int
    extras: dict[str, Any]
    """The other fields; every share has them."""
    request_id: str
    costs: tuple[int, ...] = field(repr=False)
    """UTF-8 bytes of the query and each document; tokens are unknown here."""
    keys: tuple[bytes, ...] = field(repr=False)
    """A digest of all that a document's score depends on."""

    def body(self, indices: Sequence[int], **fields: Any) -> bytes:
        """The request for some of the documents."""
        documents = [self.documents[index] for index in indices]
        return orjson.dumps({**self.extras, "query": self.query, "documents": documents, **fields})


def parse(body: bytes) -> Rerank | None:
    """Read a request; None for one that only a replica can judge, or that can't be split."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:  # also NaN and lone surrogates, which vLLM's parser takes
        return None
    if not isinstance(fields, dict):
        return None
    query, documents, top_n = fields.pop("query", None), fields.pop("documents", None), fields.pop("top_n", 0)
    request_id = fields.pop("request_id", "")
    documents = [documents] if isinstance(documents, str) else documents
    if not (isinstance(query, str) and isinstance(documents, list) and documents and type(top_n) is int):
        return None
    if not (top_n >= 0 and isinstance(request_id, str) and all(isinstance(text, str) for text in documents)):
        return None
    start = query.encode()
    context = hashlib.sha256(orjson.dumps([fields, query], option=orjson.OPT_SORT_KEYS))
    costs, keys = [], []
    for text in documents:
        encoded = text.encode()
        digest = context.copy()
        digest.update(encoded)
        costs.append(len(start) + len(encoded))
        keys.append(digest.digest()[:16])
    return Rerank(query, tuple(documents), top_n, fields, request_id, tuple(costs), tuple(keys))


def share_cost(
    left: int, total: int, handed: int, pace: float, paces: Sequence[float], seconds: float | None
) -> float:
    """The cost of the next share, in bytes.

    Args:
        left: Cost of the documents that are not yet handed out.
        total: Cost of all documents.
        handed: Number of shares already handed out.
        pace: Seconds per byte of the replica that gets the share.
        paces: Those of all admitted replicas.
        seconds: Most predicted work; None without a deadline.
    """
    if max(paces) <= EVEN * min(paces):
        cost = left / (len(paces) - handed % len(paces))
    else:
        weight = (1 / pace) / sum(1 / other for other in paces)
        cost = max(left * weight / 2, total * weight / 6)
    cost = max(cost, LEAST_SECONDS / pace)
    return cost if seconds is None else min(cost, seconds / pace)


def take(costs: Sequence[int], cost: float) -> int:
    """How many of the documents make a share of about this cost; one at least."""
    total, count = 0.0, 0
    for one in costs:
        if count and total + one / 2 > cost:
            break
        total += one
        count += 1
    return count


def read_scores(body: bytes, count: int) -> tuple[list[float], int, str]:
    """Scores in the order of the documents, prompt tokens and model of a replica's response.

    Raises:
        MalformedResponseError: It has not one finite score for each document.
    """
    try:
        fields = orjson.loads(body)
        scores = {row["index"]: float(row["relevance_score"]) for row in fields["results"]}
        tokens, model = int(fields["usage"]["prompt_tokens"]), str(fields["model"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise MalformedResponseError(type(error).__name__) from None
    if len(fields["results"]) != count or scores.keys() != set(range(count)):
        raise MalformedResponseError("indices")
    if not all(map(math.isfinite, scores.values())):
        raise MalformedResponseError("not finite")
    return [scores[index] for index in range(count)], tokens, model


def merge(request: Rerank, scores: dict[int, float], tokens: int, model: str, identity: str) -> bytes:
    """A response of vLLM for scores by index; documents without one follow in the order of the request."""
    order = sorted(scores, key=lambda index: (-scores[index], index))
    rest = [index for index in range(len(request.documents)) if index not in scores]
    ranked = [(index, scores[index]) for index in order]
    if rest:
        ranked += zip(rest, tail(list(scores.values()), len(rest)), strict=True)
    results = [
        {
            "index": index,
            "document": {"text": request.documents[index], "multi_modal": None},
            "relevance_score": score,
        }
        for index, score in ranked[: request.top_n or None]
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps({"id": identity, "model": model, "usage": usage, "results": results})


def tail(scores: Sequence[float], count: int) -> list[float]:
    """Descending scores below all others: between 0 and the lowest where scores are 0 to 1."""
    lowest = min(scores)
    if lowest > 1e-9 and max(scores) <= 1:
        return [lowest * (1 - (place + 1) / (count + 1)) for place in range(count)]
    step = max(1e-6, abs(lowest) * 1e-9)
    return [lowest - step * (place + 1) for place in range(count)]


def over_long(status: int, body: bytes) -> int:
    """The model's limit in vLLM's refusal of a long document; 0 for any other response."""
    match = _OVER_LONG.search(body) if status == 400 else None
    return int(match[1]) if match else 0


def error_body(status: int, kind: str, message: str) -> bytes:
    """An error in vLLM's shape."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}})
