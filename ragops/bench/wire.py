"""Send one rerank request as RAGFlow sends it, time its bytes, and validate the response.

:func:`client` creates the connection pool, :func:`encode` the body, :func:`post` sends it. The connection
pool is httpcore's with a network backend that reads the clock when bytes are sent and received.
``extensions={"trace": ...}`` of httpcore reads it only when the event loop resumes the request's task.
Against an echo server, whose response takes no time, in interleaved rounds on two shared cores, p50 in ms
(client CPU per request in ms)::

    body, clients        this backend    httpcore, trace    httpx, trace
    0.6 kB, 1 client     0.12 (0.40)     0.57 (0.76)         0.68 (1.05)
    0.6 kB, 4 clients    0.49 (0.37)     1.60 (0.58)         2.44 (0.84)
    99 kB, 1 client      0.28 (0.88)     0.66 (1.00)         0.83 (1.36)
    99 kB, 4 clients     2.83 (0.89)     8.69 (1.19)        11.59 (1.59)
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from ragops.ragflow.api import Secret, mask
from ragops.ragflow.request import PLACEHOLDER_KEY, RERANK_TIMEOUT, RerankRequest

if TYPE_CHECKING:
    import ssl

NO_KEY = Secret(PLACEHOLDER_KEY)

Client = httpcore.AsyncConnectionPool
"""Connection pool; created by :func:`client`."""

_ERROR_LENGTH = 300
_KEEPALIVE_S = 1.0
_BUFFER = 1 << 20
"""Bytes of a response that may wait to be read; beyond, reading from the socket pauses."""
_CONNECTION_ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol)
"""Failed connections, responses that are not HTTP, and addresses without http."""


@dataclass(frozen=True)
class Target:
    """The server that requests are sent to.

    Args:
        base_url: Address as registered in RAGFlow, ending in ``/v1``.
        model: Served model name.
        api_key: Bearer token.
        timeout: Seconds until a request is cancelled.
    """

    base_url: str
    model: str
    api_key: Secret = NO_KEY
    timeout: float = RERANK_TIMEOUT

    @property
    def url(self) -> str:
        """Address of the rerank route, joined as RAGFlow joins it."""
        return f"{self.base_url.rstrip('/')}/rerank"


@dataclass(frozen=True)
class RerankResponse:
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
    """A connection pool of httpcore, without the overhead of httpx.

    A connection is reused only within a second, long before any server closes it for being idle; RAGFlow
    makes a new one for each request, which on one machine takes a fraction of a millisecond.
    """
    return httpcore.AsyncConnectionPool(
        max_connections=None,
        max_keepalive_connections=None,
        keepalive_expiry=_KEEPALIVE_S,
        network_backend=_TimedBackend(),
    )


def encode(model: str, query: str, documents: tuple[str, ...]) -> bytes:
    """The body of RAGFlow's rerank request."""
    return RerankRequest(model, query, documents).body()


async def post(http: Client, target: Target, body: bytes, documents: int) -> RerankResponse:
    """Send one request and wait for the complete response.

    Args:
        http: From :func:`client`.
        target: The server.
        body: From :func:`encode`.
        documents: Number of documents sent.

    Returns:
        The response; failures are in its ``error``. Only cancellation is raised.
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
        error = f"timeout: no response in {target.timeout:g} s"
        return RerankResponse(begun, time.perf_counter_ns(), error=error)
    except _CONNECTION_ERRORS as caught:
        error = f"connection: {caught!r}"[:_ERROR_LENGTH]
        return RerankResponse(begun, time.perf_counter_ns(), error=error)
    stream = response.extensions["network_stream"]
    times, status = (stream.sent, stream.received), response.status
    if status != httpx.codes.OK:
        text = mask(content.decode(errors="replace"), (target.api_key,))
        error = f"HTTP {status}: {text}"[:_ERROR_LENGTH]
        return RerankResponse(*times, status, error=error)
    try:
        parsed = json.loads(content)
        return RerankResponse(*times, status, _tokens(parsed), _scores(parsed, documents))
    except (ValueError, KeyError, TypeError, IndexError) as caught:
        return RerankResponse(*times, status, error=f"response: {caught!r}"[:_ERROR_LENGTH])


def _request(target: Target, body: bytes) -> httpcore.Request:
    host, url = _parse(target.url)
    headers = (
        (b"Host", host),
        (b"Authorization", f"Bearer {target.api_key.get_secret_value()}".encode()),
        (b"Content-Type", b"application/json"),
        (b"Content-Length", str(len(body)).encode()),
    )
    return httpcore.Request(b"POST", url, headers=headers, content=body)


@lru_cache(maxsize=8)
def _parse(address: str) -> tuple[bytes, httpcore.URL]:
    """The Host header and the address."""
    parsed = httpx.URL(address)
    url = httpcore.URL(
        scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path
    )
    return parsed.netloc, url


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


class _TimedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections that record their times; without timeout, local address and socket options."""

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> _TimedStream:
        began, loop = time.perf_counter_ns(), asyncio.get_running_loop()
        try:
            transport, protocol = await loop.create_connection(
                lambda: _TimedProtocol(asyncio.StreamReader(_BUFFER, loop)), host, port
            )
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return _TimedStream(began, protocol, asyncio.StreamWriter(transport, protocol, protocol.reader, loop))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _TimedStream(httpcore.AsyncNetworkStream):
    """One connection; its two times are those of the request that was last sent over it.

    It ignores timeouts: :func:`post` gives each request one for all steps together.
    """

    def __init__(self, began: int, protocol: _TimedProtocol, writer: asyncio.StreamWriter) -> None:
        self._protocol, self._writer, self._has_read = protocol, writer, False
        self.sent = began
        """When the request's first byte left, or connecting for it began; ns of ``time.perf_counter_ns``."""

    @property
    def received(self) -> int:
        """When the last byte came in; ns of ``time.perf_counter_ns``."""
        return self._protocol.received

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109, ARG002
        self._has_read = True
        try:
            return await self._protocol.reader.read(max_bytes)
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109, ARG002
        """Send; the first call after a read starts the next request's time."""
        if not buffer:
            return
        if self._has_read:
            self._has_read, self.sent = False, time.perf_counter_ns()
        try:
            self._writer.write(buffer)
            await self._writer.drain()
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        """Close without sending what is buffered."""
        self._writer.transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109, ARG002
    ) -> _TimedStream:
        try:
            await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
        except OSError as error:  # ssl.SSLError is one
            raise httpcore.ConnectError(str(error)) from error
        return self

    def get_extra_info(self, info: str) -> Any:
        """``is_readable``: whether an idle connection was closed; others are those of asyncio."""
        if info == "is_readable":
            return self._writer.is_closing() or self._protocol.reader.at_eof()
        return self._writer.get_extra_info(info)


class _TimedProtocol(asyncio.StreamReaderProtocol):
    received = 0

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self.reader = reader

    def data_received(self, data: bytes) -> None:
        self.received = time.perf_counter_ns()
        super().data_received(data)
