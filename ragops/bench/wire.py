"""One rerank request as RAGFlow sends it, and the validation of its response."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import httpcore
import httpx

from ragops.bench.stopwatch import Stopwatch
from ragops.ragflow.request import RERANK_TIMEOUT, RerankRequest

Client = httpcore.AsyncConnectionPool
"""Connection pool; created by :func:`client`."""

RAGFLOW_TIMEOUT = RERANK_TIMEOUT

_SHORT = 300
_IDLE = 1.0


@dataclass(frozen=True)
class Target:
    """The server that requests are sent to.

    Args:
        base_url: Address as registered in RAGFlow, ending in ``/v1``.
        model: Served model name.
        api_key: Bearer token; must not be empty, as RAGFlow's client refuses that.
        timeout: Seconds until a request is cancelled.
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
    """The result of one request."""

    t_send: int
    """When it was sent, ns of ``time.perf_counter_ns``."""
    t_done: int
    """When the last byte was received, or the request was cancelled."""
    status: int | None = None
    """HTTP status; None without a response."""
    tokens: int | None = None
    """Prompt tokens that the server counted."""
    scores: tuple[float, ...] = ()
    """Score of each document, in the order in which they were sent; empty when there was an error."""
    error: str = ""
    """Why the response is invalid; empty when it is valid."""


def client() -> Client:
    """A connection pool of httpcore, without the overhead of httpx; see ``stopwatch.py``.

    A connection is used again only within a second, long before any server closes it for being idle;
    RAGFlow makes a new one for each call, which on one machine takes a fraction of a millisecond.
    """
    return httpcore.AsyncConnectionPool(
        max_connections=None,
        max_keepalive_connections=None,
        keepalive_expiry=_IDLE,
        network_backend=Stopwatch(),
    )


def encode(model: str, query: str, documents: tuple[str, ...]) -> bytes:
    """The body of RAGFlow's rerank request."""
    return RerankRequest(model, query, documents).body()


async def post(http: Client, target: Target, body: bytes, documents: int) -> Reply:
    """Send one request and wait for the complete response.

    Args:
        http: From :func:`client`.
        target: The server.
        body: From :func:`encode`.
        documents: Number of documents sent.

    Returns:
        The reply; failures are in its ``error``. Only cancellation is raised.
    """
    begun = time.perf_counter_ns()
    try:
        async with asyncio.timeout(target.timeout):
            response = await http.handle_async_request(_request(target, body))
            try:
                content = await response.aread()
            finally:
                await response.aclose()
    except TimeoutError:
        return Reply(begun, time.perf_counter_ns(), error=f"timeout: no response in {target.timeout:g} s")
    except _BROKEN as error:
        return Reply(begun, time.perf_counter_ns(), error=f"connection: {error!r}"[:_SHORT])
    over = response.extensions["network_stream"]
    t_send, t_done = over.sent, over.received
    if response.status != httpx.codes.OK:
        text = f"HTTP {response.status}: {content.decode(errors='replace')}"[:_SHORT]
        return Reply(t_send, t_done, status=response.status, error=text)
    return _read(content, documents, t_send, t_done)


_BROKEN = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol)
"""Failed connections, responses that are not HTTP, and addresses without http."""


def _request(target: Target, body: bytes) -> httpcore.Request:
    host, url = _parsed(target.url)
    headers = (
        (b"Host", host),
        (b"Authorization", f"Bearer {target.api_key}".encode()),
        (b"Content-Type", b"application/json"),
        (b"Content-Length", str(len(body)).encode()),
    )
    return httpcore.Request(b"POST", url, headers=headers, content=body)


@lru_cache(maxsize=8)
def _parsed(address: str) -> tuple[bytes, httpcore.URL]:
    """The Host header and the address."""
    parsed = httpx.URL(address)
    url = httpcore.URL(
        scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path
    )
    return parsed.netloc, url


def _read(content: bytes, documents: int, t_send: int, t_done: int) -> Reply:
    status = int(httpx.codes.OK)
    try:
        response = json.loads(content)
        scores = _scores(response, documents)
        tokens = _tokens(response)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        return Reply(t_send, t_done, status=status, error=f"answer: {error!r}"[:_SHORT])
    return Reply(t_send, t_done, status=status, tokens=tokens, scores=scores)


def _scores(response: Any, documents: int) -> tuple[float, ...]:
    scores = {int(result["index"]): float(result["relevance_score"]) for result in response["results"]}
    if sorted(scores) != list(range(documents)):
        msg = f"{len(scores)} different documents scored, {documents} sent"
        raise ValueError(msg)
    if not all(map(math.isfinite, scores.values())):
        msg = "a score is not finite"
        raise ValueError(msg)
    return tuple(scores[index] for index in range(documents))


def _tokens(response: Any) -> int | None:
    usage = response.get("usage") or {}
    tokens = usage.get("prompt_tokens", usage.get("total_tokens"))
    return None if tokens is None else int(tokens)
