"""The contract server's state, its responses, and the check of the API token."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from ragops.ragflow.releases import Release

    Handler = Callable[["Call"], Awaitable[Any]]

UNAUTHORIZED = "<Unauthorized '401: Unauthorized'>"


@dataclass
class Call:
    """One request that arrived, and its response."""

    method: str
    path: str
    body: Any
    authorization: str
    parts: dict[str, str] = field(default_factory=dict)
    """Parts of the path, and of its query."""
    status: int = 0
    response: Any = None


@dataclass
class Model:
    """One model of an instance."""

    id: str
    name: str
    types: list[str]
    max_tokens: int
    extra: dict[str, Any]
    status: str = "active"


@dataclass
class Instance:
    """One instance of a provider."""

    id: str
    name: str
    key: str = ""
    url: str = ""
    models: dict[str, Model] = field(default_factory=dict)


@dataclass
class Llm:
    """One model as add_llm keeps it."""

    id: int
    type: str
    key: str
    url: str
    max_tokens: int


@dataclass
class ServerState:
    """The state of one contract server."""

    release: Release
    limit: float | None = 10.0
    token_limit_mode: str = ""
    """``RERANK_TOKEN_LIMIT_MODE`` in its environment, from v0.27.2 on; that of the release when empty."""
    token: str = "ragflow-EXAMPLE-TOKEN"  # noqa: S105 - an example
    tenant: dict[str, Any] = field(
        default_factory=lambda: {
            "tenant_id": "8b6ceaa6e75011f1aa8002fc00000001",
            **dict.fromkeys(("asr_id", "img2txt_id", "llm_id", "rerank_id"), ""),
            "embd_id": "bge-m3@xxxx",
        }
    )
    version: str = ""
    """What the version route says; the release when empty."""
    provider: str = ""
    """``VLLM`` when it was added."""
    instances: dict[str, Instance] = field(default_factory=dict)
    llms: dict[str, Llm] = field(default_factory=dict)
    chats: dict[str, str] = field(default_factory=dict)
    """Rerank id by chat."""
    chat_datasets: dict[str, list[str]] = field(default_factory=dict)
    """Ids of datasets by chat."""
    datasets: dict[str, list[str]] = field(default_factory=dict)
    """Texts by dataset."""
    calls: list[Call] = field(default_factory=list)
    """Requests in the order in which they came."""
    answered: list[Call] = field(default_factory=list)
    """The same in the order in which they were answered."""
    falls_back: bool = True
    """Whether a server in Go hides a failure of the reranker; PR 19908 of 2026-09-20 may have ended that."""
    case_sensitive: bool = False
    """Whether the database of a server in Go finds a provider only by its name's case, as PostgreSQL does."""
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def go(self) -> bool:
        """Whether the server is the one in Go."""
        return self.release.client.language == "Go"

    def before(self, release: str) -> bool:
        """Whether this release is older than another."""
        return self.release.before(release)

    def number(self) -> str:
        """A new id."""
        return f"{next(self.numbers):032x}"

    def route(self, method: str, path: str, handler: Handler, *, public: bool = False) -> Route:
        """A route, which takes requests without an API token only where it is public."""

        async def answer(request: Request) -> Response:
            call = await _arrived(request)
            self.calls.append(call)
            content = await handler(call) if public or self._lets_in(call) else _refusal(go=self.go)
            response = content if isinstance(content, Response) else JSONResponse(content)
            call.status, call.response = response.status_code, _body(response)
            self.answered.append(call)
            return response

        return Route(path, answer, methods=[method])

    def _lets_in(self, call: Call) -> bool:
        return self.release.registration != "manual" and call.authorization == f"Bearer {self.token}"


def upgrade(old: ServerState, new: ServerState) -> None:
    """RAGFlow's migration from v0.25 to v0.26 or later, as it was seen with the direct jump to v0.27.0.

    Ids of two parts get the instance ``default``; the models there keep their suffix, and have no type and no
    address (tools/scripts/mysql_migration.py:1024-1063).
    """

    def migrated(rerank_id: str) -> str:
        return rerank_id.replace("@", "@default@") if rerank_id.count("@") == 1 else rerank_id

    models = {name: Model(str(item.id), name, [], item.max_tokens, {}) for name, item in old.llms.items()}
    new.provider = "VLLM" if models else ""
    new.instances = {"default": Instance("0", "default", models=models)} if models else {}
    new.tenant |= old.tenant | {"rerank_id": migrated(old.tenant["rerank_id"])}
    new.chats = {name: migrated(rerank_id) for name, rerank_id in old.chats.items()}


def done(data: Any = None, *, message: str = "") -> dict[str, Any]:
    """Success, as most routes say it."""
    return {"code": 0} | ({} if data is None else {"data": data}) | ({"message": message} if message else {})


def failed(message: str, code: int = 102, **more: Any) -> dict[str, Any]:
    """Failure, with HTTP 200."""
    return {"code": code, "message": message, **more}


async def not_found(request: Request, _: Exception) -> Response:
    """A route that the release doesn't have."""
    content = {"code": 404, "data": None, "error": "Not Found", "message": f"Not Found: {request.url.path}"}
    return JSONResponse(content, status_code=404)


def text(content: str) -> Response:
    """An answer that is no JSON."""
    return PlainTextResponse(content)


def unauthorized(message: str) -> Response:
    """HTTP 401."""
    return JSONResponse({"code": 401, "data": None, "message": message}, status_code=401)


def _refusal(*, go: bool) -> Response:
    return unauthorized("Invalid access token" if go else UNAUTHORIZED)


async def _arrived(request: Request) -> Call:
    raw = await request.body()
    parts = {**request.path_params, **request.query_params}
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    body, key = (json.loads(raw) if raw else None), request.headers.get("authorization", "")
    return Call(request.method, path, body, key, parts)


def _body(response: Response) -> Any:
    try:
        return json.loads(bytes(response.body))
    except ValueError:
        return bytes(response.body).decode()
