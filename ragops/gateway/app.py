"""The routes: vLLM's of a reranker, ``/health``, ``/metrics`` and ``/replicas``."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from . import split
from .cache import ScoreCache
from .dispatch import Dispatcher, Job, unavailable
from .metrics import Metrics
from .replicas import JSON, Pool, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

    from starlette.requests import Request

MAX_BODY = 32 * 1024 * 1024
KEEP_ALIVE = 3.0
"""Less than the 5 s after which vLLM's server closes an idle connection."""
RERANK = ("/v1/rerank", "/rerank", "/v2/rerank")
PASSED = {
    "/v1/models": "GET",
    "/version": "GET",
    "/openapi.json": "GET",
    "/tokenize": "POST",
    "/classify": "POST",
}

log = logging.getLogger("gateway")


@dataclass(frozen=True)
class Settings:
    """What the environment says."""

    replicas: tuple[str, ...]
    deadline: float = 0.0
    cache: int = 0
    long_documents: str = "truncate"
    split: bool = True
    key_sha256: str = ""
    reference: Path = Path("/reference/reference.json")

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read ``GATEWAY_*``."""

        def value(name: str, default: str) -> str:
            return environment.get(f"GATEWAY_{name}", "") or default

        return cls(
            tuple(host.strip() for host in value("REPLICAS", "").split(",") if host.strip()),
            float(value("DEADLINE", "0")),
            int(value("CACHE", "0")),
            value("LONG_DOCUMENTS", "truncate"),
            value("SPLIT", "1") != "0",
            value("KEY_SHA256", ""),
            Path(value("REFERENCE", "/reference/reference.json")),
        )


class Gateway:
    """The service; ``application`` is its ASGI application."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.cache = ScoreCache(settings.cache if settings.split else 0)
        routes = [Route(path, self.rerank, methods=["POST"]) for path in RERANK]
        routes += [Route(path, self.forward, methods=[method]) for path, method in PASSED.items()]
        for handler in (self.health, self.prometheus, self.replicas):
            path = "/metrics" if handler == self.prometheus else f"/{handler.__name__}"
            routes.append(Route(path, handler, methods=["GET"]))
        self.application = Starlette(
            routes=routes, lifespan=self._lifespan, exception_handlers={HTTPException: _http_error}
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            self.pool = Pool(list(self.settings.replicas), self.settings.reference, session)
            self.dispatcher = Dispatcher(self.pool, self.cache, self.metrics)
            watch = asyncio.ensure_future(self.pool.run())
            try:
                yield
            finally:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch

    def _authorize(self, request: Request) -> None:
        """Compare the bearer key, if one is required.

        Raises:
            HTTPException: It is missing or wrong.
        """
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        right = hmac.compare_digest(digest, self.settings.key_sha256.lower()) and scheme.lower() == "bearer"
        if self.settings.key_sha256 and not right:
            raise HTTPException(401)

    async def rerank(self, request: Request) -> Response:
        """Split, rank, merge."""
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        self._authorize(request)
        body = await _read(request)
        job = self._job(request, body, arrived)
        reply = await _unless_disconnected(request, self.dispatcher.rank(job))
        seconds = loop.time() - arrived
        headers = dict(reply.headers)
        if job.request and reply.status == 200:
            headers["x-ranked"] = f"{len(job.scores)}/{len(job.request.documents)}"
            headers["x-cached"] = str(job.counts["cached"])
            headers["x-truncated"] = str(job.counts["truncated"])
        own = max(seconds - job.ran, 0.0)
        headers["server-timing"] = f"gateway;dur={own * 1000:.1f}, replicas;dur={job.ran * 1000:.1f}"
        late = job.late or bool(job.deadline and loop.time() > job.deadline)
        self.metrics.request(
            reply.status, seconds, job.counts if reply.status == 200 else Counter(), late=late
        )
        return Response(reply.body, reply.status, headers)

    def _job(self, request: Request, body: bytes, arrived: float) -> Job:
        strict = "handling=strict" in request.headers.get("prefer", "").replace(" ", "")
        fresh = "no-cache" in request.headers.get("cache-control", "")
        plain = request.headers.get("content-type", "").lower().split(";")[0].strip() == "application/json"
        parsed = split.parse(body) if plain and self.settings.split else None
        deadline = (
            arrived + self.settings.deadline if self.settings.deadline and parsed and not strict else None
        )
        return Job(
            str(request.url.path),
            body,
            parsed,
            arrived,
            deadline,
            cached=bool(self.cache.limit) and not (strict or fresh),
            truncate=self.settings.long_documents == "truncate" and not strict,
        )

    async def forward(self, request: Request) -> Response:
        """Pass a request on to one admitted replica as it is."""
        self._authorize(request)
        body = await _read(request)
        for replica in self.pool.admitted:
            url = f"http://{replica.address}{request.url.path}?{request.url.query}".rstrip("?")
            headers = {**JSON, "Content-Type": request.headers.get("content-type", "application/json")}
            limit = aiohttp.ClientTimeout(total=60)
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with self.pool.session.request(
                    request.method, url, data=body or None, headers=headers, timeout=limit
                ) as response:
                    content = await response.read()
                    return Response(content, response.status, media_type=response.headers.get("content-type"))
        return _response(unavailable("no replica is admitted", retry=5))

    async def health(self, _: Request) -> Response:
        """200 if a replica is admitted."""
        return Response(status_code=200 if self.pool.admitted else 503)

    async def prometheus(self, _: Request) -> Response:
        """The metrics."""
        states = Counter(replica.state for replica in self.pool.replicas.values())
        gauges: dict[str, float] = {
            f'replicas{{state="{state}"}}': states[state]
            for state in ("admitted", "checking", "rejected", "down")
        }
        gauges["queued_requests"] = self.dispatcher.queued
        gauges |= {
            "cache_entries": len(self.cache),
            "cache_hits": self.cache.hits,
            "cache_misses": self.cache.misses,
        }
        return PlainTextResponse(self.metrics.text(gauges))

    async def replicas(self, _: Request) -> Response:
        """The state of all replicas."""
        rows = [
            {
                "address": replica.address,
                "state": replica.state,
                "reason": replica.reason,
                "pace": replica.pace if replica.paces else 0.0,
                "shares": replica.shares,
            }
            for replica in self.pool.replicas.values()
        ]
        cache = {"entries": len(self.cache), "limit": self.cache.limit, "hits": self.cache.hits}
        fields: dict[str, Any] = {
            "reference": self.pool.serving,
            "deadline": self.settings.deadline,
            "cache": {**cache, "misses": self.cache.misses},
            "hour": self.metrics.hour(),
            "replicas": rows,
        }
        return JSONResponse(fields)


def _response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, reply.headers)


async def _http_error(_: Request, error: Exception) -> Response:
    """An error of a route, as vLLM has it."""
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "")
    if status == 401:
        return JSONResponse({"error": "Unauthorized"}, 401)
    return Response(split.error_body(status, detail, detail), status, media_type="application/json")


async def _read(request: Request) -> bytes:
    """The body of a request.

    Raises:
        HTTPException: It is too large.
    """
    if int(request.headers.get("content-length", "0")) > MAX_BODY:
        raise HTTPException(413)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            raise HTTPException(413)
        chunks.append(chunk)
    return b"".join(chunks)


async def _unless_disconnected(request: Request, work: Coroutine[Any, Any, Reply]) -> Reply:
    """Await a reply; the client's disconnect cancels it."""
    task = asyncio.ensure_future(work)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.ensure_future(watch())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return await task
        return Reply(499, b"")
    finally:
        leaving.cancel()
        task.cancel()
