"""One rerank call as RAGFlow makes it: the body, the headers, and what an answer must hold.

``load.py`` sends many of them and keeps the time, ``order.py`` sends one and looks at the scores.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

from ragops.ragflow.request import TIMEOUT, RerankRequest

RAGFLOW_TIMEOUT = TIMEOUT

_SHORT = 300


@dataclass(frozen=True)
class Target:
    """Where requests go.

    Args:
        base_url: Address as registered in RAGFlow, ending in ``/v1``.
        model: Served model name.
        api_key: Sent as the bearer; must not be empty, as RAGFlow's client refuses that.
        timeout: Seconds until a request is given up.
    """

    base_url: str
    model: str
    api_key: str = "x"
    timeout: float = RAGFLOW_TIMEOUT

    @property
    def url(self) -> str:
        """Address of the rerank route, joined as RAGFlow joins it."""
        return f"{self.base_url.rstrip('/')}/rerank"


@dataclass(frozen=True)
class Reply:
    """What came of one request."""

    t_send: int
    """When it was sent, ns of ``time.perf_counter_ns``."""
    t_done: int
    """When the last byte was there, or it was given up."""
    status: int | None = None
    """HTTP status; None when none came."""
    tokens: int | None = None
    """Prompt tokens that the server counted."""
    scores: tuple[float, ...] = ()
    """Score of each document, in the order in which they were sent; empty when there was an error."""
    error: str = ""
    """Why the answer can't be used; empty when it can."""


def client(target: Target) -> httpx.AsyncClient:
    """An HTTP client that opens a connection for each call.

    RAGFlow makes a new client for each call too. It also keeps the benchmark clear of requests
    that fail because the server closed an idle connection in that moment.
    """
    headers = {"Authorization": f"Bearer {target.api_key}", "Content-Type": "application/json"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(headers=headers, limits=limits, timeout=target.timeout, trust_env=False)


def encode(model: str, query: str, documents: tuple[str, ...]) -> bytes:
    """The body of RAGFlow's rerank request."""
    return RerankRequest(model, query, documents).body()


async def post(http: httpx.AsyncClient, target: Target, body: bytes, documents: int) -> Reply:
    """Send one request and wait for the whole answer.

    Args:
        http: From :func:`client`.
        target: Where to.
        body: From :func:`encode`.
        documents: How many documents must come back.

    Returns:
        The reply; whatever goes wrong is in its ``error``. Only cancellation is raised.
    """
    t_send = time.perf_counter_ns()
    try:
        async with asyncio.timeout(target.timeout):
            response = await http.post(target.url, content=body)
    except (TimeoutError, httpx.TimeoutException):
        return Reply(t_send, time.perf_counter_ns(), error=f"timeout: no answer in {target.timeout:g} s")
    except httpx.HTTPError as error:
        return Reply(t_send, time.perf_counter_ns(), error=f"connection: {error!r}"[:_SHORT])
    t_done = time.perf_counter_ns()
    if response.status_code != httpx.codes.OK:
        text = f"HTTP {response.status_code}: {response.text}"[:_SHORT]
        return Reply(t_send, t_done, status=response.status_code, error=text)
    return _read(response.content, documents, t_send, t_done)


def _read(content: bytes, documents: int, t_send: int, t_done: int) -> Reply:
    status = int(httpx.codes.OK)
    try:
        answer = json.loads(content)
        scores = _scores(answer, documents)
        tokens = _tokens(answer)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        return Reply(t_send, t_done, status=status, error=f"answer: {error!r}"[:_SHORT])
    return Reply(t_send, t_done, status=status, tokens=tokens, scores=scores)


def _scores(answer: Any, documents: int) -> tuple[float, ...]:
    found = {int(result["index"]): float(result["relevance_score"]) for result in answer["results"]}
    if sorted(found) != list(range(documents)):
        msg = f"{len(found)} different documents scored, {documents} sent"
        raise ValueError(msg)
    return tuple(found[index] for index in range(documents))


def _tokens(answer: Any) -> int | None:
    usage = answer.get("usage") or {}
    tokens = usage.get("prompt_tokens", usage.get("total_tokens"))
    return None if tokens is None else int(tokens)
