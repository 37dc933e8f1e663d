"""What the stub reranker does wrong below the scores: at the level of HTTP and of connections.

:data:`FAULTS` says what each one is. The bodies are those of vLLM 0.32, of an OpenAI-like gateway, or
of a web server.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

Fault = Literal[
    "html", "html-502", "redirect-301", "redirect-302", "redirect-307", "redirect-308",
    "unauthorized", "unauthorized-gateway", "generates", "embeds", "classifies", "pools",
    "no-openapi", "only-rerank", "wrong-path", "says-200", "busy", "backlog", "dead", "fails",
    "reset", "hangs", "no-results", "empty",
]  # fmt: skip

FAULTS: Mapping[Fault, str] = {
    "html": "every path answers 200 with a page of HTML, as a proxy's log-in page does",
    "html-502": "every path answers 502 with a page of HTML, as nginx without its upstream does",
    "redirect-301": "every path is moved to https; a client makes a GET of a POST",
    "redirect-302": "every path is found elsewhere; a client makes a GET of a POST",
    "redirect-307": "every path is elsewhere for now; a POST stays one",
    "redirect-308": "every path is elsewhere for good; a POST stays one",
    "unauthorized": "vLLM's answer to a wrong key, on /v1 alone",
    "unauthorized-gateway": "an OpenAI-like gateway's answer to a wrong key, on every path",
    "generates": "vLLM without --runner pooling: it writes text and has no rerank route",
    "embeds": "a server of embeddings without a rerank route",
    "classifies": "vLLM with a head of two labels: /classify and no rerank route",
    "pools": "vLLM with a vector for each token: /pooling and no rerank route",
    "no-openapi": "vLLM with --disable-fastapi-docs: it lists no routes, and ranks",
    "only-rerank": "a gateway that lets nothing through but /v1/rerank",
    "wrong-path": "the rerank route is listed and not there",
    "says-200": "an old vLLM that writes text: rerank answers 200 with an error in it",
    "busy": "503 of a full queue",
    "backlog": "503 of too many tokens that wait",
    "dead": "the engine has died: 503 on /health, 500 on rerank",
    "fails": "rerank answers 500",
    "reset": "the connection is cut in the middle of a rerank call",
    "hangs": "rerank calls get no answer",
    "no-results": "rerank answers JSON without results",
    "empty": "rerank answers 200 with nothing",
}
"""Each fault, and what it is."""

RANKS = frozenset({"/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"})
_COMMON = frozenset({"/health", "/ping", "/metrics", "/version", "/tokenize", "/v1/models"})
_PATHS: Mapping[str, frozenset[str]] = {
    "generates": _COMMON | {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"},
    "embeds": _COMMON | {"/v1/embeddings", "/pooling"},
    "classifies": _COMMON | {"/classify", "/pooling"},
    "pools": _COMMON | {"/pooling"},
}
_TARGET = "https://ragflow.example/v1/rerank"
_PAGE = "<!DOCTYPE html><html><head><title>{}</title></head><body>Please log in.</body></html>"
_BUSY = "The engine is currently busy and cannot accept new requests. Please try again later."
_BACKLOG = "The engine has reached its prefill token backlog limit. Please try again later."
_OLD = "The model does not support Rerank (Score) API"

_Answer = tuple[int, str, str]
"""Status, content type, body."""


def paths(fault: Fault | Literal[""], *, classifier: bool) -> Collection[str]:
    """The routes that ``/openapi.json`` lists.

    Args:
        fault: What is wrong.
        classifier: Whether the server has a scoring head, and so ``/classify`` and no embeddings.
    """
    healthy = _COMMON | RANKS | {"/pooling", "/classify" if classifier else "/v1/embeddings"}
    return _PATHS.get(fault, healthy)


def spoiled(app: ASGIApp, fault: Fault | Literal[""]) -> ASGIApp:
    """The application with the fault before it; itself when there is none.

    Raises:
        ValueError: There is no such fault.
    """
    if not fault:
        return app
    if fault not in get_args(Fault):
        msg = f"no fault {fault!r}: {', '.join(FAULTS)}"
        raise ValueError(msg)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if fault in {"reset", "hangs"} and path in RANKS:
            await _broken(fault, receive, send)
        elif fault.startswith("redirect-"):
            status = int(fault.removeprefix("redirect-"))
            await _send(send, (status, "text/html", ""), location=_TARGET)
        elif reply := _instead(fault, path):
            await _send(send, reply)
        else:
            await app(scope, receive, send)

    return answer


def _instead(fault: Fault, path: str) -> _Answer | None:
    """The answer in place of the right one; None where the right one is given."""
    if everywhere := _EVERYWHERE.get(fault):
        return everywhere
    if fault == "unauthorized":
        return _json(401, {"error": "Unauthorized"}) if path.startswith("/v1") else None
    if path in RANKS:
        missing = fault in _PATHS or fault == "wrong-path"
        return _NOT_FOUND if missing else _RANKING.get(fault)
    if fault == "dead" and path == "/health":
        return 503, "", ""
    hidden = (fault == "no-openapi" and path == "/openapi.json") or fault == "only-rerank"
    return _NOT_FOUND if hidden else None


def _json(status: int, body: object) -> _Answer:
    return status, "application/json", json.dumps(body)


def _error(status: int, kind: str, message: str) -> _Answer:
    return _json(status, {"error": {"message": message, "type": kind, "param": None, "code": status}})


_NOT_FOUND = _json(404, {"detail": "Not Found"})
_EVERYWHERE: Mapping[str, _Answer] = {
    "html": (200, "text/html; charset=utf-8", _PAGE.format("Company proxy")),
    "html-502": (502, "text/html", _PAGE.format("502 Bad Gateway")),
    "unauthorized-gateway": _error(401, "authentication_error", "Invalid API key"),
}
_RANKING: Mapping[str, _Answer] = {
    "says-200": _json(200, {"object": "error", "message": _OLD, "type": "BadRequestError", "code": 400}),
    "busy": _error(503, "ServiceUnavailableError", _BUSY),
    "backlog": _error(503, "ServiceUnavailableError", _BACKLOG),
    "dead": _error(500, "InternalServerError", "EngineCore encountered an issue."),
    "fails": _error(500, "InternalServerError", "list index out of range"),
    "no-results": _json(200, {"id": "rerank-1", "scores": [0.1, 0.9, 0.2]}),
    "empty": (200, "application/json", ""),
}


async def _send(send: Send, answer: _Answer, location: str = "") -> None:
    status, kind, body = answer
    pairs = (("content-type", kind), ("location", location), ("content-length", str(len(body))))
    headers = [(name.encode(), value.encode()) for name, value in pairs if value]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


async def _broken(fault: Fault, receive: Receive, send: Send) -> None:
    """Read the request, then cut the connection, or keep it and say nothing until the client goes."""
    while (await receive()).get("more_body"):
        pass
    if fault == "reset":
        transport = getattr(send, "__self__").transport  # noqa: B009 - uvicorn's own, typed nowhere
        transport.abort()
    await receive()  # comes when the client has gone
