"""The routes: vLLM's of a reranker, ``/health``, ``/metrics`` and ``/replicas``."""

import asyncio
import hashlib
import hmac
import math
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

import aiohttp
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from . import split
from .dispatch import NONE_ADMITTED, Dispatcher, Job, failure
from .metrics import Metrics
from .replicas import FAILURES, FORWARD_TIMEOUT, HEALTH_TIMEOUT, JSON, Pool, State, forever, log

MAX_BODY, IN_FLIGHT = 8 << 20, 16 << 20
"""Bytes of one request, and of all on their way: a byte needs up to eleven of memory until its response."""
RERANK = ("/v1/rerank", "/rerank", "/v2/rerank")
FORWARDED = ("/v1/models", "/version", "/openapi.json", "/tokenize", "/classify")
"""Requests that one replica gets as they are."""


class Gateway:
    """The service, configured by ``GATEWAY_*``; ``application`` is its ASGI application."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        value = {name.removeprefix("GATEWAY_"): text for name, text in environment.items() if text}.get
        self.deadline = float(value("DEADLINE", "0")) or math.inf
        self.splits = value("SPLIT", "1") != "0"
        self.truncates = value("LONG_DOCUMENTS", "truncate") == "truncate"
        self.key, hosts = value("KEY_SHA256", ""), value("REPLICAS", "").replace(",", " ").split()
        self.metrics, self.lookups, self.in_flight = Metrics(), Counter(hits=0, misses=0), 0
        self.pool = Pool(hosts, Path(value("REFERENCE", "/reference/reference.json")))
        limit = int(value("CACHE", "0")) if self.splits else 0
        self.dispatcher = Dispatcher(self.pool, limit, self.metrics.counts)
        self.application = Starlette(
            routes=[
                *(Route(path, self.rerank, methods=["POST"]) for path in RERANK),
                *(Route(path, self.forward, methods=["GET", "POST"]) for path in FORWARDED),
                Route("/health", self.health),
                Route("/metrics", self.prometheus),
                Route("/replicas", self.replicas),
            ],
            lifespan=self._lifespan,
            exception_handlers=dict.fromkeys((HTTPException, ClientDisconnect, Exception), self.error),
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self.pool.run()), tasks.create_task(forever(self.dispatcher.watch))]
            yield
            for task in running:
                task.cancel()

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytearray]:
        """The body of a request whose key is right, until its response."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        digest, body = hashlib.sha256(key.encode("latin-1")).hexdigest(), bytearray()
        if self.key and not (hmac.compare_digest(digest, self.key.lower()) and scheme.lower() == "bearer"):
            log.warning("401: no valid key from %s", request.scope.get("client"))
            raise HTTPException(401)
        try:
            async for chunk in request.stream():
                body += chunk
                self.in_flight += len(chunk)
                if len(body) > MAX_BODY:
                    raise HTTPException(413)
                if self.in_flight > IN_FLIGHT:
                    raise HTTPException(503, "the requests on their way are too large")
            kind = request.headers.get("content-type", "").lower().split(";")[0]
            if request.method == "POST" and kind != JSON:
                raise HTTPException(400, "Unsupported Media Type: Only 'application/json' is allowed")
            yield body
        finally:
            self.in_flight -= len(body)

    async def rerank(self, request: Request) -> Response:
        """Rank documents; the client's disconnect cancels it."""
        loop, headers = asyncio.get_running_loop(), request.headers
        arrived, strict = loop.time(), "handling=strict" in headers.get("prefer", "")
        async with self._body(request) as body:
            parsed = split.parse(body, headers.get("x-request-id", ""), splits=self.splits)
            plain, fresh = not strict and parsed.raw is None, "no-cache" in headers.get("cache-control", "")
            cached = plain and self.dispatcher.limit > 0 and not fresh
            deadline = arrived + self.deadline if plain else math.inf
            job = Job(parsed, deadline, strict, cached, plain and self.truncates)
            leaving = asyncio.ensure_future(self._leave(request, job))
            try:
                reply = await self.dispatcher.rank(job)
            finally:
                leaving.cancel()
        took, counts = loop.time() - arrived, job.counts()
        own, replicas = (took - job.ran) * 1000, job.ran * 1000
        reply.headers["server-timing"] = f"gateway;dur={own:.1f}, replicas;dur={replicas:.1f}"
        self.lookups.update(hits=counts["cached"], misses=(counts["computed"] + counts["unranked"]) * cached)
        late = loop.time() > job.deadline or (job.late and not job.scores)
        self.metrics.request(reply.status_code, took, counts, late=late)
        return reply

    async def _leave(self, request: Request, job: Job) -> None:
        """End a job when its client leaves."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.dispatcher.finish(job, Response(status_code=499))

    async def forward(self, request: Request) -> Response:
        """Pass a request on to the first admitted replica that responds."""
        path = f"{request.url.path}?{request.url.query}".rstrip("?")
        async with self._body(request) as body:
            sent, seconds = (body, FORWARD_TIMEOUT) if request.method == "POST" else (None, HEALTH_TIMEOUT)
            for replica in self.pool.admitted:
                try:
                    return await self.pool.send(replica, path, sent, seconds)
                except FAILURES as error:
                    if isinstance(error, aiohttp.ClientConnectionError):
                        self.pool.fail(replica, type(error).__name__)
        return failure(503, NONE_ADMITTED)

    async def error(self, request: Request, error: Exception) -> Response:
        """An error of a route, as vLLM has it; 499: the client left while it sent."""
        status = getattr(error, "status_code", 499 if isinstance(error, ClientDisconnect) else 500)
        message = getattr(error, "detail", "internal error")
        if request.url.path in RERANK:
            self.metrics.counts[f'requests_total{{status="{status}"}}'] += 1
        if status in {401, 404, 405}:
            return JSONResponse({"error" if status == 401 else "detail": message}, status)
        return Response(status_code=499) if status == 499 else failure(status, message)

    async def health(self, _: Request) -> Response:
        """200 if a replica is admitted."""
        return Response(status_code=200 if self.pool.admitted else 503)

    async def prometheus(self, _: Request) -> Response:
        """The metrics."""
        states = Counter(replica.state for replica in self.pool.replicas.values())
        gauges = {f'replicas{{state="{state}"}}': states[state] for state in get_args(State)}
        gauges |= {"queued_requests": self.dispatcher.queued, "cache_entries": len(self.dispatcher.cache)}
        return PlainTextResponse(self.metrics.text({**gauges, "proof_tokens_total": self.pool.proof_tokens}))

    async def replicas(self, _: Request) -> Response:
        """The state of the service and of all replicas."""
        names, dispatcher = ("address", "state", "reason", "pace", "shares"), self.dispatcher
        fields = {
            "reference": self.pool.serving,
            "deadline": self.deadline if self.deadline < math.inf else 0.0,
            "cache": {"entries": len(dispatcher.cache), "limit": dispatcher.limit, **self.lookups},
            "hour": self.metrics.hour(),
            "replicas": [{name: getattr(one, name) for name in names} for one in self.pool.replicas.values()],
            "hosts": {host: sorted(own) for host, own in self.pool.addresses.items()},
        }
        return JSONResponse(fields)
