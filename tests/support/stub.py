"""What the stub reranker answers, in the shapes of vLLM 0.32; a token is a word between spaces.

A substitute for vLLM's rerank server: real sockets, a known service time, faults on request.

It answers in the shapes of vLLM 0.32, so that the benchmark (``ragops.bench``), the checks and a
reader without a model can be tried against it. :class:`StubReranker` runs in a thread of this
process, :class:`StubProcess` in a process of its own, so that the two don't share an interpreter.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import httpx
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ragops.checks.questions import render_prompt
from ragops.errors import BenchError
from ragops.reranker import options
from tests.support import faults, faulty_scorers
from tests.support.faulty_scorers import FaultyScorer, Row, Scale, score
from tests.support.served import START_SECONDS, Served, listen, server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from tests.support.faults import Fault

Prompt = Literal["none", "bare", "card", "longer", "newline", "apart"]
"""What becomes of a pair: nothing but its words, in a server of embeddings; the same in one that
classifies; Qwen3-Reranker's prompt from the model card; a longer one; one of the same length that
scores otherwise; or texts that are read apart."""

_PAIR = re.compile(r"<Query>: (.*)\n<Document>: (.*)<\|im_end\|>", re.DOTALL)


def pair_tokens(query: str, document: str) -> int:
    """Tokens that the stub counts for one pair."""
    return len(query.split()) + len(document.split())


def count_tokens(behaviour: Behaviour, query: str, documents: Sequence[str]) -> int:
    """Tokens that it reports for a request."""
    if behaviour.scorer and behaviour.scorer != "truncated-quietly":
        documents = [faulty_scorers.received(behaviour.scorer, document) for document in documents]
    plain = sum(pair_tokens(query, document) for document in documents)
    if behaviour.prompt in {"none", "bare"}:
        return plain
    if behaviour.prompt == "apart":
        return plain - (len(documents) - 1) * len(query.split())
    longer = 3 * len(documents) if behaviour.prompt == "longer" else 0
    return longer + sum(len(render_prompt(_template(), query, document).split()) for document in documents)


def ranking(behaviour: Behaviour, body: dict[str, Any], used: int, number: int) -> dict[str, Any]:
    """The answer to a rerank call.

    Args:
        behaviour: How the stub behaves.
        body: The request.
        used: Tokens to report.
        number: Of the call, from 1 on.
    """
    documents: list[str] = body["documents"]
    top = body.get("top_n") or len(documents)
    kept = _rows(behaviour, body["query"], documents, top, number)[: len(documents) - behaviour.missing]
    return {
        "id": f"rerank-{uuid.uuid4().hex}",
        "model": behaviour.model,
        "usage": {"prompt_tokens": used, "total_tokens": used},
        "results": [_result(row, documents) for row in kept],
    }


def models_reply(behaviour: Behaviour) -> dict[str, Any]:
    """The one model that is served."""
    card = {
        "id": behaviour.model,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "vllm",
        "root": behaviour.model,
        "parent": None,
        "max_model_len": behaviour.max_tokens or 8192,
    }
    return {"object": "list", "data": [card]}


def count(body: dict[str, Any]) -> dict[str, Any]:
    """The answer to ``/tokenize``."""
    words = body["prompt"].split()
    return {"count": len(words), "max_model_len": 8192, "tokens": list(range(len(words))), "token_strs": None}


def classes(behaviour: Behaviour, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to ``/classify``: the scores of prompts as they are, by the same model."""
    who = behaviour.scorer or "healthy"
    who = "healthy" if who in faulty_scorers.BESIDE else who
    pairs = [(text, match.groups() if (match := _PAIR.search(text)) else None) for text in body["input"]]
    scores = (
        faulty_scorers.scored(who, pair[0], [pair[1]], seed=behaviour.seed, scale=behaviour.scale)[0]
        if pair
        else faulty_scorers.chance(text).random()  # outside of its prompt the model ranks by chance
        for text, pair in pairs
    )
    rows = [{"index": place, "label": "LABEL_0", "probs": [item]} for place, item in enumerate(scores)]
    return {"object": "list", "data": rows}


def _rows(behaviour: Behaviour, query: str, documents: list[str], top: int, number: int) -> list[Row]:
    if who := behaviour.scorer:
        raw = faulty_scorers.scored(
            who, query, documents, call=number, seed=behaviour.seed, scale=behaviour.scale
        )
        scores = [item * 0.7 for item in raw] if behaviour.prompt == "newline" else raw
        return faulty_scorers.rows(who, scores, documents, top)
    told = [_told(behaviour, number, query, document) for document in documents]
    return faulty_scorers.rows("healthy", told, documents, top)


def _told(behaviour: Behaviour, number: int, query: str, document: str) -> float:
    is_wrong = behaviour.order == "wrong" or 0 < behaviour.wrong_after < number
    if behaviour.order == "constant":
        return 0.5
    return 1.0 - score(query, document) if is_wrong else score(query, document)


def _result(row: Row, documents: list[str]) -> dict[str, Any]:
    text = documents[row.index] if row.index < len(documents) else ""
    return {
        "index": row.index,
        "document": {"text": text, "multi_modal": None},
        "relevance_score": row.score,
    }


def _template() -> str:
    return (options.TEMPLATES / "qwen3_reranker.jinja").read_text(encoding="utf-8")


__all__ = [
    "Behaviour",
    "Call",
    "StubProcess",
    "StubReranker",
    "application",
    "pair_tokens",
    "score",
    "service_seconds",
]


@dataclass(frozen=True)
class Behaviour:
    """How the stub behaves; times in seconds.

    A request takes ``fixed_s + per_document_s * documents + per_token_s * tokens``. A token is a
    word between spaces, and a pair costs the words of its query and of its document.
    """

    fixed_s: float = 0.0
    per_document_s: float = 0.0
    per_token_s: float = 0.0
    serial: bool = True
    """One request at a time, as one busy engine; otherwise all at the same time."""
    order: Literal["right", "wrong", "constant"] = "right"
    """Scores by shared words, by their opposite, or the same score for every document."""
    scorer: FaultyScorer | Literal[""] = ""
    """Scores as :data:`~tests.support.faulty_scorers.FaultyScorer` describes them."""
    seed: int = 0
    """Makes one random scorer differ from another."""
    scale: Scale | None = None
    """Where the scores of the scorer lie."""
    prompt: Prompt = "none"
    """What becomes of a pair, as :data:`~tests.support.stub.Prompt` describes it."""
    wrong_after: int = 0
    """Number of rerank calls after which the order is wrong; 0 is never."""
    fail_every: int = 0
    """Every n-th rerank call fails; 0 is never."""
    fail_status: int = 500
    """HTTP status of a failure."""
    names_output: bool = False
    """Whether the refusal of a long document has the words of vLLM 0.33."""
    fault: Fault | Literal[""] = ""
    """What goes wrong below the scores, as :data:`~tests.support.faults.FAULTS` describes it."""
    missing: int = 0
    """Documents left out of each answer."""
    max_tokens: int = 0
    """Longest pair; a longer one is refused with 400, as vLLM does. 0 is no limit."""
    cached: float = 0.0
    """Share of all tokens that it says its prefix cache had."""
    model: str = "stub-reranker"
    """Served model name; any other is answered with 404."""
    api_key: str = ""
    """Key that ``/v1`` routes ask for; empty asks for none."""
    headers: tuple[tuple[str, str], ...] = ()
    """Headers of each ranking, such as the gateway's."""


@dataclass(frozen=True)
class Call:
    """One rerank call that reached the stub."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class _Engine:
    """What changes while the stub runs."""

    behaviour: Behaviour
    calls: list[Call] = field(default_factory=list)
    running: int = 0
    waiting: int = 0
    tokens: int = 0
    answered: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def serve(self, documents: int, tokens: int) -> None:
        """Take as long as the behaviour says, and keep the gauges that vLLM keeps."""
        is_free = not (self.behaviour.serial and self.turn.locked())
        self.waiting += 0 if is_free else documents
        if self.behaviour.serial:
            async with self.turn:
                self.waiting -= 0 if is_free else documents
                await self._work(documents, tokens)
        else:
            await self._work(documents, tokens)

    async def _work(self, documents: int, tokens: int) -> None:
        self.running += documents
        seconds = service_seconds(self.behaviour, documents, tokens)
        try:
            if seconds:
                await asyncio.sleep(seconds)
            self.tokens += tokens
            self.answered += 1
        finally:
            self.running -= documents


def service_seconds(behaviour: Behaviour, documents: int, tokens: int) -> float:
    """Seconds that a request of this size takes when nothing waits before it."""
    return behaviour.fixed_s + behaviour.per_document_s * documents + behaviour.per_token_s * tokens


def application(behaviour: Behaviour, calls: list[Call] | None = None) -> ASGIApp:
    """The stub as an ASGI application.

    Args:
        behaviour: How it behaves.
        calls: A list that is given each rerank call that arrives.
    """
    engine = _Engine(behaviour, calls if calls is not None else [])

    async def rerank(request: Request) -> Response:
        return await _rerank(engine, request)

    async def models(_: Request) -> Response:
        return JSONResponse(models_reply(behaviour))

    async def tokenize(request: Request) -> Response:
        return JSONResponse(count(await request.json()))

    async def classify(request: Request) -> Response:
        return JSONResponse(classes(behaviour, await request.json()))

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(_metrics(engine))

    async def health(_: Request) -> Response:
        return Response(status_code=200)

    async def openapi(_: Request) -> Response:
        listed = faults.paths(behaviour.fault, classifier=behaviour.prompt != "none")
        return JSONResponse({"openapi": "3.1.0", "paths": {path: {} for path in sorted(listed)}})

    routes = [Route(path, rerank, methods=["POST"]) for path in ("/rerank", "/v1/rerank", "/v2/rerank")]
    routes += [Route("/v1/models", models), Route("/metrics", metrics), Route("/health", health)]
    routes += [Route("/tokenize", tokenize, methods=["POST"]), Route("/openapi.json", openapi)]
    if behaviour.prompt != "none":  # vLLM has it for classifiers alone
        routes.append(Route("/classify", classify, methods=["POST"]))
    routed = Starlette(routes=routes, exception_handlers={404: _no_path})
    return faults.spoiled(routed, behaviour.fault)


async def _no_path(_: Request, __: Exception) -> Response:
    return JSONResponse({"detail": "Not Found"}, status_code=404)  # as vLLM's FastAPI says it


async def _rerank(engine: _Engine, request: Request) -> Response:
    behaviour = engine.behaviour
    if _is_shut_out(behaviour, request):
        return JSONResponse({"error": "Unauthorized"}, status_code=401)
    body = json.loads(await request.body())
    if cut := body.get("max_tokens_per_doc"):
        body["documents"] = [" ".join(document.split()[:cut]) for document in body["documents"]]
    engine.calls.append(Call(request.url.path, dict(request.headers), body))
    number = len(engine.calls)
    documents: list[str] = body["documents"]
    sizes = [pair_tokens(body["query"], document) for document in documents]
    tokens = count_tokens(behaviour, body["query"], documents)
    if refusal := _refusal(behaviour, str(body.get("model")), max(sizes, default=0)):
        return refusal
    answer = ranking(behaviour, body, tokens, number)
    await engine.serve(len(documents), tokens)
    if behaviour.fail_every and number % behaviour.fail_every == 0:
        return _error(behaviour.fail_status, "InternalServerError", "the stub was told to fail")
    headers = dict(behaviour.headers)  # a JSONResponse refuses NaN
    return Response(json.dumps(answer), media_type="application/json", headers=headers)


def _is_shut_out(behaviour: Behaviour, request: Request) -> bool:
    """Like vLLM's ``--api-key``, which guards ``/v1`` and ``/v2`` but not ``/rerank``."""
    if not behaviour.api_key or not request.url.path.startswith(("/v1", "/v2")):
        return False
    return request.headers.get("authorization") != f"Bearer {behaviour.api_key}"


def _refusal(behaviour: Behaviour, model: str, longest: int) -> Response | None:
    if model not in (behaviour.model, "None"):  # vLLM takes a request that names none
        return _error(404, "NotFoundError", f"The model `{model}` does not exist.")
    if behaviour.max_tokens and longest > behaviour.max_tokens:
        text = (
            f"This model's maximum context length is {behaviour.max_tokens} tokens. However, "
            + ("you requested 0 output tokens and " if behaviour.names_output else "")
            + f"your prompt contains at least {longest} input tokens."
        )
        return _error(400, "BadRequestError", text)
    return None


def _error(status: int, kind: str, message: str) -> Response:
    detail = {"message": message, "type": kind, "param": None, "code": status}
    return JSONResponse({"error": detail}, status_code=status)


def _metrics(engine: _Engine) -> str:
    label = f'{{engine="0",model_name="{engine.behaviour.model}"}}'
    rows = (
        ("vllm:num_requests_running", "gauge", engine.running),
        ("vllm:num_requests_waiting", "gauge", engine.waiting),
        ("vllm:prompt_tokens_total", "counter", engine.tokens),
        ("vllm:prefix_cache_hits_total", "counter", int(engine.tokens * engine.behaviour.cached)),
    )
    lines = "".join(f"# TYPE {name} {kind}\n{name}{label} {float(value)}\n" for name, kind, value in rows)
    calls = f'http_requests_total{{handler="/v1/rerank",method="POST",status="2xx"}} {engine.answered}.0'
    other = 'http_requests_total{handler="/metrics",method="GET",status="2xx"} 7.0'
    return f"{lines}# TYPE http_requests_total counter\n{other}\n{calls}\n"


class _Stub:
    """A listening port and how it behaves; the two stubs differ in where the server runs."""

    def __init__(self, behaviour: Behaviour = Behaviour()) -> None:
        self.behaviour = behaviour
        self._listener = listen()
        self._port = int(self._listener.getsockname()[1])

    @property
    def base_url(self) -> str:
        """Address as RAGFlow takes it, ending in ``/v1``."""
        return f"http://127.0.0.1:{self._port}/v1"


class StubReranker(_Stub):
    """The stub in a thread of this process.

    ::

        with StubReranker(Behaviour(per_document_s=0.001)) as stub:
            httpx.post(stub.base_url + "/rerank", json={...})

    Args:
        behaviour: How it behaves.
    """

    def __init__(self, behaviour: Behaviour = Behaviour()) -> None:
        super().__init__(behaviour)
        self.calls: list[Call] = []
        """The rerank calls that arrived, oldest first."""
        self._served = Served(application(behaviour, self.calls), self._listener)

    def __enter__(self) -> Self:
        """Start; returns when the server answers."""
        self._served.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and close the port."""
        self._served.__exit__()


class StubProcess(_Stub):
    """The stub in a process of its own, so that its work is not measured as the client's.

    Args:
        behaviour: How it behaves.
    """

    _process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        """Start; returns when the server answers, or raises BenchError when its process ended."""
        number = self._listener.fileno()
        argv = [sys.executable, "-m", __name__, str(number), json.dumps(asdict(self.behaviour))]
        paths = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(argv, pass_fds=[number], env=paths)
        health = self.base_url.removesuffix("/v1") + "/health"
        while self._process.poll() is None:
            with suppress(httpx.TransportError):
                httpx.get(health, timeout=0.2, trust_env=False)
                return self
        self._listener.close()
        raise BenchError("the stub's process did not start", evidence=f"exit code {self._process.returncode}")

    def __exit__(self, *_: object) -> None:
        """End the process, and close the port."""
        self._process.terminate()
        self._process.wait(START_SECONDS)
        self._listener.close()


def _main(number: str, behaviour: str) -> None:
    listener = socket.socket(fileno=int(number))
    server(application(Behaviour(**json.loads(behaviour)))).run(sockets=[listener])


if __name__ == "__main__":
    _main(*sys.argv[1:])
