"""The server that is measured, and one rerank request to it as RAGFlow sends it, with the times of its bytes.

The clock is read before a request is sent, connecting included, and as soon as bytes are received: ahead of
parsing them, and of everything else that waits for the event loop.
p50 in ms (client CPU per request in ms), against an echo server whose response takes no time, in interleaved
rounds on two shared cores, beside two libraries with their ``trace`` extension::

    body, clients        this module     httpcore, trace    httpx, trace
    0.6 kB, 1 client     0.12 (0.18)     0.36 (0.55)         1.47 (0.95)
    0.6 kB, 4 clients    0.42 (0.16)     3.49 (0.55)         6.15 (0.92)
    67 kB, 1 client      0.23 (0.42)     0.60 (0.90)         2.63 (1.37)
    67 kB, 4 clients     1.98 (0.37)     6.51 (0.87)         6.78 (1.29)
"""

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import h11
import httpx

from ragops.bench.records import NO_GATEWAY, GatewayCounts, GemmPeak, Provenance, Sample
from ragops.ragflow import releases
from ragops.ragflow.api import Secret, mask, split_address
from ragops.ragflow.request import PLACEHOLDER_KEY, RERANK_TIMEOUT, RerankRequest

NO_KEY = Secret(PLACEHOLDER_KEY)

_UNKNOWN = Provenance()
_ERROR_LENGTH = 300


@dataclass(frozen=True)
class Server:
    """The server that is measured, and its recorded properties.

    Args:
        base_url: Address as registered in RAGFlow, ending in ``/v1``.
        model: Served model name.
        api_key: Bearer token; never recorded.
        provenance: Image, model, machine and versions.
        sampler: Called before and after each trial and once a second, in its own thread.
        limit: Matrix multiplication limit of the machine, from :mod:`ragops.bench.measure`.
        no_order_check: Why the order is not checked, such as that the model is untrained; empty to check it.

    Raises:
        StackError: The address is not valid, or the key can't be sent.
    """

    base_url: str
    model: str
    api_key: Secret = NO_KEY
    provenance: Provenance = _UNKNOWN
    sampler: Callable[[], Sample] | None = None
    limit: GemmPeak | None = None
    no_order_check: str = ""

    def __post_init__(self) -> None:
        split_address(self.base_url if "://" in self.base_url else "")  # RAGFlow needs the scheme too
        self.api_key.checked("the server's API key can't be sent")


@dataclass(frozen=True)
class RerankResponse:
    """The result of one request; the fields of a :class:`RequestRecord`, and the scores."""

    t_send: int
    t_done: int
    """When the last byte was received, or the request was cancelled."""
    status: int | None = None
    tokens: int | None = None
    scores: tuple[float, ...] = ()
    """Score of each document, in the order in which they were sent; empty when there was an error."""
    error: str = ""
    gateway: GatewayCounts = NO_GATEWAY


def encode(model: str, query: str, documents: tuple[str, ...], release: str = "") -> bytes:
    """The body of RAGFlow's rerank request; that of the newest release when it is left out."""
    return RerankRequest(model, query, documents, releases.of_or_nearest(release).client).body()


class Client:
    """Sends requests to one server, over connections that are reused within a second.

    That is long before any server closes them for being idle. RAGFlow up to v0.27 makes a new one for each
    request, which on one machine takes a fraction of a millisecond; v1.0 reuses them for 90 seconds.
    """

    def __init__(self, server: Server, timeout: float = RERANK_TIMEOUT, release: str = "") -> None:
        self.server, self.timeout, self.release = server, timeout, release
        self._idle_ns = 10**9 * (90 if releases.of_or_nearest(release).client.language == "Go" else 1)
        self.url = httpx.URL(f"{server.base_url.rstrip('/')}/rerank")
        """Address of the rerank route, joined as RAGFlow joins it."""
        self._tls = httpx.create_ssl_context() if self.url.scheme == "https" else None
        self._idle = list[_Connection]()

    def close(self) -> None:
        """Close the connections."""
        for connection in self._idle:
            connection.transport.abort()

    async def post(self, body: bytes, documents: int, *, fresh: bool = True) -> RerankResponse:
        """Send a body with this number of documents, and wait for the complete response.

        The gateway does not use its cache for a ``fresh`` request. Failures are in the response; only
        cancellation is raised.
        """
        begun = ended = time.perf_counter_ns()
        status, key = None, self.server.api_key
        try:
            async with asyncio.timeout(self.timeout):
                connection = await self._connect()
                try:
                    await connection.send(self.url, key.get_secret_value(), body, fresh=fresh)
                except BaseException:
                    connection.transport.abort()
                    raise
            self._idle.append(connection)
            ended, status, content = connection.received, connection.status, connection.content
            if status == httpx.codes.OK:
                parsed, counts = json.loads(content), _gateway_counts(connection.headers)
                usage, scores = parsed.get("usage") or {}, _scores(parsed, documents)
                tokens = usage.get("prompt_tokens", usage.get("total_tokens"))
                count = None if tokens is None else int(tokens)
                return RerankResponse(begun, ended, status, count, scores, gateway=counts)
            error = f"HTTP {status}: {mask(content.decode(errors='replace'), (key,))}"
        except TimeoutError:
            ended, error = time.perf_counter_ns(), f"timeout: no response in {self.timeout:g} s"
        except (OSError, h11.RemoteProtocolError) as caught:
            ended, error = time.perf_counter_ns(), f"connection: {caught!r}"
        except (ValueError, KeyError, TypeError, IndexError) as caught:
            error = f"response: {caught!r}"
        return RerankResponse(begun, ended, status, error=error[:_ERROR_LENGTH])

    async def _connect(self) -> "_Connection":
        """An idle connection, or a new one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable(self._idle_ns):
                return connection
            connection.transport.abort()
        host, port = self.url.raw_host.decode(), self.url.port or (443 if self._tls else 80)
        create = asyncio.get_running_loop().create_connection
        return (await create(_Connection, host, port, ssl=self._tls))[1]


class _Connection(asyncio.Protocol):
    """One connection; its content, status and time are those of the last response."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.status, self.content, self.received = 0, bytearray(), 0
        self.headers = dict[bytes, bytes]()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._http = h11.Connection(h11.CLIENT)

    def is_reusable(self, idle_ns: int) -> bool:
        """Whether the last response is complete and recent, and the connection open without further bytes."""
        is_recent = time.perf_counter_ns() - self.received < idle_ns
        is_complete = self._http.their_state is h11.DONE and not self._http.trailing_data[0]
        return is_complete and is_recent and not self.transport.is_closing()

    def send(self, url: httpx.URL, key: str, body: bytes, *, fresh: bool) -> asyncio.Future[None]:
        """Send a request; the future ends with its response."""
        if self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self.content, self._ended = bytearray(), asyncio.get_running_loop().create_future()
        headers = [
            ("Host", url.netloc.decode()),
            ("Authorization", f"Bearer {key}"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            *([("Cache-Control", "no-cache")] if fresh else []),
        ]
        head = h11.Request(method="POST", target=url.raw_path, headers=headers)
        for event in (head, h11.Data(body), h11.EndOfMessage()):
            self.transport.write(self._http.send(event) or b"")
        return self._ended

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received = time.perf_counter_ns()
        self._parse(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self._http.their_state is not h11.SEND_RESPONSE:
            self._parse(b"")
        elif not self._ended.done():
            self._ended.set_exception(exc or ConnectionError("closed without a response"))

    def _parse(self, data: bytes) -> None:
        """Take bytes of the response; none when the server has closed the connection."""
        try:
            self._http.receive_data(data)
            while not self._ended.done() and (event := self._http.next_event()) is not h11.NEED_DATA:
                match event:
                    case h11.Response(status_code=status, headers=headers):
                        self.status, self.headers = status, dict(headers)
                    case h11.Data(data=part):
                        self.content += part
                    case h11.EndOfMessage():
                        self._ended.set_result(None)
        except h11.RemoteProtocolError as error:
            self._ended.set_exception(error)


def _scores(response: Any, documents: int) -> tuple[float, ...]:
    scores = {int(result["index"]): float(result["relevance_score"]) for result in response["results"]}
    if sorted(scores) != list(range(documents)):
        msg = f"{len(scores)} different documents scored, {documents} sent"
        raise ValueError(msg)
    if not all(map(math.isfinite, scores.values())):
        msg = "a score is not finite"
        raise ValueError(msg)
    return tuple(scores[index] for index in range(documents))


def _gateway_counts(headers: Mapping[bytes, bytes]) -> GatewayCounts:
    ranked, cached = (headers.get(name, b"").partition(b"/")[0] for name in (b"x-ranked", b"x-cached"))
    own = headers.get(b"server-timing", b"").partition(b"gateway;dur=")[2].partition(b",")[0]
    return GatewayCounts(
        int(ranked) if ranked else None, int(cached) if cached else None, float(own) if own else None
    )
