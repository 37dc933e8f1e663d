"""What is asked of RAGFlow's API, what it answers, and what the answers mean; pure.

RAGFlow tells success by ``code`` 0 in the JSON it answers, and gives HTTP 200 with most failures;
so the code is judged, and the status only where no JSON came.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ragops.errors import RagflowError
from ragops.ragflow.secret import Secret, hide

if TYPE_CHECKING:
    from collections.abc import Mapping

_ABSENT = re.compile(r"(?i)\bno \w+ found|not found|does(n.t| not) exist|authorization|own the chat")

AUTHENTICATION = frozenset({401, 403, 109})
"""Codes that mean: not logged in, or not allowed."""


@dataclass(frozen=True)
class Request:
    """One call of RAGFlow's API; values of the body may be secrets."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    why: str = ""
    token_only: bool = False
    """Whether the route takes API tokens alone, at every release."""


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    text: str = field(repr=False)
    secrets: frozenset[Secret] = frozenset()
    """What was sent and must not be shown."""

    @property
    def body(self) -> Any:
        """The JSON; None when it is none."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    @property
    def code(self) -> int:
        """RAGFlow's own code; the HTTP status where no JSON object came, -1 for a page that is no API's."""
        body = self.body
        if isinstance(body, dict) and isinstance(body.get("code"), int):
            return int(body["code"])
        return self.status if self.status >= 400 else -1

    @property
    def ok(self) -> bool:
        """Whether RAGFlow did what was asked."""
        return self.code == 0

    @property
    def tells_absence(self) -> bool:
        """Whether what was asked for is not there, or not this user's."""
        return self.code in {102, 109} and bool(_ABSENT.search(self.message))

    @property
    def message(self) -> str:
        """RAGFlow's own words, without secrets and the line breaks it puts before them."""
        body = self.body
        said = body.get("message") if isinstance(body, dict) else self.text[:200]
        return hide(str(said or "").strip(), self.secrets)

    @property
    def data(self) -> Any:
        """What was asked for; None when there is nothing."""
        body = self.body
        return body.get("data") if isinstance(body, dict) else None


@dataclass(frozen=True)
class Failure:
    """Words in what RAGFlow says when it refuses, what they mean, and what to do."""

    words: str
    cause: str
    remedy: str


FAILURES = (
    Failure(
        "status_code: 404, body: {'error'",
        "The reranker serves no model of that name.",
        "ragops status shows the name that is served; up applies a change of it, then register again",
    ),
    Failure(
        "status_code: 404, body: {'detail': 'Not Found'}",
        "The address has a path behind /v1; RAGFlow appends /rerank itself.",
        "let the address end in /v1",
    ),
    Failure(
        "status_code: 401",
        "The reranker asks for a key, and RAGFlow sent another.",
        "give the reranker's key in RAGOPS_RERANKER_KEY, or with --key-file",
    ),
    Failure(
        "status_code: 400",
        "The reranker refused the texts, most often as too long.",
        "raise max_model_len under [reranker], or let RAGFlow make smaller chunks",
    ),
    Failure(
        "Connection refused",
        "The name was found, but no reranker listens there.",
        "ragops status; RAGFlow can't use localhost or a port of the host",
    ),
    Failure(
        "Name or service not known",
        "RAGFlow's container is not in the reranker's network.",
        "ragops up, or: ragops connect CONTAINER",
    ),
    Failure(
        "Temporary failure in name resolution",
        "RAGFlow's container is not in the reranker's network.",
        "ragops up, or: ragops connect CONTAINER",
    ),
    Failure(
        "missing an 'http://' or 'https://' protocol",
        "The address has no http:// before it.",
        "give the address as http://NAME:8000/v1",
    ),
    Failure(
        "'NoneType' object is not iterable",
        "vLLM serves the model as a text generator, and answers with an error that RAGFlow doesn't read.",
        "ragops up starts it as a reranker; a compose file of your own is told by: ragops check FILE",
    ),
    Failure(
        "Timeout accessing model",
        "The reranker took longer than the 10 s that RAGFlow gives to a test.",
        "ragops verify measures it; register again when the reranker is idle",
    ),
    Failure(
        "timed out",
        "The reranker took longer than RAGFlow waits.",
        "ragops verify measures it; see the benchmark page for what fits",
    ),
    Failure(
        "Illegal header value",
        "The key is empty.",
        "enter any key; the reranker asks for none",
    ),
    Failure(
        "No model passed verification",
        "The model's type was not given as a list.",
        "a fault of ragops, or of another release: please report it with RAGFlow's release",
    ),
    Failure(
        "Already exist instance",
        "v0.26.0 takes a key only once for each provider.",
        "give another key in RAGOPS_RERANKER_KEY, or upgrade RAGFlow to v0.26.1",
    ),
    Failure(
        "already exists for provider",
        "The model is entered already, and RAGFlow has now made an empty instance beside it.",
        "remove the instance with (1) in its name in RAGFlow's model providers",
    ),
    Failure(
        "Instance name cannot be 'default'",
        "RAGFlow keeps that name for itself.",
        "name another with --instance",
    ),
    Failure(
        "is not allowed",
        "This RAGFlow has no provider VLLM.",
        "see its conf/llm_factories.json",
    ),
    Failure(
        "LookupError",
        "The rerank id names no model of this user.",
        "ragops register enters it; the id must have the form of this release",
    ),
    Failure(
        "is still used by",
        "Chats use the model.",
        "choose another rerank model in them first, then unregister again",
    ),
    Failure(
        "Fail to crypt password",
        "The password did not arrive as RAGFlow's own pages send it.",
        "its conf/public.pem is not the usual one; use an API token",
    ),
    Failure(
        "Email and password do not match",
        "The password is wrong.",
        "check RAGOPS_RAGFLOW_PASSWORD",
    ),
    Failure(
        "is not registered",
        "This RAGFlow has no user with that e-mail address.",
        "check --email",
    ),
    Failure(
        "Unauthorized",
        "RAGFlow did not take the token, or the reranker did not take RAGFlow's key.",
        "make a token under RAGFlow's API page, and give it in RAGOPS_RAGFLOW_TOKEN",
    ),
    Failure(
        "own the chat",
        "The chat belongs to another user, or there is none with that id.",
        "the id is in the address of the chat's page in RAGFlow",
    ),
    Failure(
        "No authorization",
        "The chat belongs to another user, or there is none with that id.",
        "the id is in the address of the chat's page in RAGFlow",
    ),
    Failure(
        "The chat doesn't exist",
        "There is no chat with that id.",
        "the id is in the address of the chat's page in RAGFlow",
    ),
    Failure(
        "own the dataset",
        "The dataset belongs to another user, or there is none with that id.",
        "the id is in the address of the dataset's page in RAGFlow",
    ),
    Failure(
        "Internal server error",
        "RAGFlow failed, and may have written part of it.",
        "its own log has the reason: docker logs CONTAINER; then register again",
    ),
    Failure(
        "Connection error",
        "RAGFlow could not reach the reranker.",
        "ragops verify names the layer that fails",
    ),
    Failure(
        "Fail to access model",
        "RAGFlow asked the reranker and got nothing it could use; an empty reason is its 10-s limit.",
        "ragops verify names the layer that fails",
    ),
)
"""RAGFlow's own words, the most telling first: the first that fits is taken."""


def explain(message: str) -> Failure | None:
    """What a message of RAGFlow means; None when it is not known."""
    return next((one for one in FAILURES if one.words.lower() in message.lower()), None)


def refused(request: Request, reply: Reply) -> RagflowError:
    """The error for an answer whose code is not 0."""
    known = explain(reply.message)
    if known is None and reply.code in AUTHENTICATION:
        known = explain("Unauthorized")
    said = f"{request.method} {request.path}: code {reply.code}, HTTP {reply.status}: {reply.message}"
    return RagflowError(
        f"RAGFlow refused: {request.why or request.path}",
        evidence=said + (f"\n{known.cause}" if known else ""),
        hint=known.remedy if known else "RAGFlow's log has more: docker logs CONTAINER",
    )
