"""How RAGFlow's own client calls a reranker: class CoHereRerank, factory VLLM, cohere 5.6.2.

Written after what the clients of v0.20.5, v0.25.6 and v0.27.0 put on the wire when they were
recorded. Errors carry the words that RAGFlow shows.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import httpx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.contract.state import ServerState

QUESTIONS = {
    "v0.24.0": ("Hello~ RAGFlower!", ("Hi, there!", "Ohh, my friend!")),
    "v0.26.0": ("What's the weather?", ("Is it sunny today?",)),
}
"""What the test call of a registration asks, from a release on."""

_SPREAD = 1e-3
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""It calls plain addresses alone; a context for each call would take longer than the call."""


class ClientError(Exception):
    """What the client raises; ``kind`` is the class RAGFlow would name."""

    def __init__(self, kind: str, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.kind = kind
        self.status = status


def scores(
    state: ServerState, url: str, key: str, model: str, query: str, texts: Sequence[str]
) -> list[float]:
    """Scores in the order of the texts; waits for them.

    Raises:
        ClientError: As the client of the release fails.
    """
    if not texts and not state.before("v0.25.3"):
        return []
    reply = _posted(state, url, key, _payload(model, query, texts))
    results = reply.get("results")
    if results is None:
        raise ClientError("TypeError", "'NoneType' object is not iterable")
    scores = [0.0] * len(texts)
    for item in results:
        scores[item["index"]] = float(item["relevance_score"])
    return scores if state.before("v0.26.0") else normalised(scores)


async def tested(state: ServerState, url: str, key: str, model: str) -> str:
    """What the test call of a registration finds wrong; empty when nothing is.

    Raises:
        TimeoutError: It took longer than the release allows.
    """
    query, texts = [asks for since, asks in QUESTIONS.items() if not state.before(since)][-1]
    try:
        call = asyncio.to_thread(scores, state, url, key, model, query, texts)
        await asyncio.wait_for(call, state.limit)
    except ClientError as error:
        return str(error)
    return ""


async def listed(url: str, key: str) -> list[dict[str, Any]]:
    """The models that a server lists; the type is guessed from the name, as v0.27 does."""
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(trust_env=False) as client:
        reply = await client.get(f"{url.removesuffix('/')}/models", headers=headers)
    names = [item["id"] for item in reply.json().get("data", [])]
    kinds = {name: "rerank" if "rerank" in name.lower() else "chat" for name in names}
    return [{"model_name": name, "model_type": [kind], "max_tokens": 8192} for name, kind in kinds.items()]


def normalised(results: list[float]) -> list[float]:
    """As v0.26 and later do: spread over 0 to 1 when any score is outside."""
    if not results or all(0.0 <= item <= 1.0 for item in results):
        return results
    low, high = min(results), max(results)
    if high - low < _SPREAD:
        return [min(1.0, max(0.0, item)) for item in results]
    return [(item - low) / (high - low) for item in results]


def _payload(model: str, query: str, texts: Sequence[str]) -> dict[str, Any]:
    return {
        "model": model.split("___", maxsplit=1)[0],
        "query": query,
        "documents": list(texts),
        "top_n": len(texts),
        "return_documents": False,
    }


def _posted(state: ServerState, base: str, key: str, payload: dict[str, Any]) -> dict[str, Any]:
    headers = {
        "X-Fern-Language": "Python",
        "X-Fern-SDK-Name": "cohere",
        "X-Fern-SDK-Version": "5.6.2",
        "Authorization": f"Bearer {key}",
    }
    where = urljoin(base.rstrip("/") + "/", "rerank")
    try:
        with httpx.Client(timeout=state.release.timeout, trust_env=False, verify=PLAIN) as client:
            reply = client.post(where, json=payload, headers=headers)
    except httpx.HTTPError as error:
        raise ClientError(type(error).__name__, str(error)) from None
    try:
        body = reply.json()
    except json.JSONDecodeError:  # a web page, with any status
        raise ClientError("ApiError", f"status_code: {reply.status_code}, body: {reply.text}") from None
    if reply.status_code >= 400:
        content = f"status_code: {reply.status_code}, body: {body}"
        raise ClientError("ApiError", content, reply.status_code)
    return body if isinstance(body, dict) else {}
