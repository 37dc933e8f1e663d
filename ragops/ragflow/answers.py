"""Requests to RAGFlow's API, its responses, and what they mean; pure.

RAGFlow reports success by ``code`` 0 in its JSON, and sends HTTP 200 with most failures; so the
code decides, and the HTTP status only where no JSON came.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ragops import hints
from ragops.errors import RagflowError
from ragops.ragflow.failures import FAILURES
from ragops.ragflow.secret import Secret, mask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragops.hints import Hint

_ABSENT = re.compile(r"(?i)\bno \w+ found|not found|does(n.t| not) exist|authorization|own the chat")
_AUTHENTICATION = frozenset({401, 403, 109})


@dataclass(frozen=True)
class Request:
    """One API call; values of the body may be secrets."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    purpose: str = ""


@dataclass(frozen=True)
class Response:
    """The response to one API call."""

    status: int
    text: str = field(repr=False)
    secrets: frozenset[Secret] = frozenset()
    """The secrets that were sent, to be masked in messages."""

    @property
    def body(self) -> Any:
        """The JSON; None when it is none."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    @property
    def code(self) -> int:
        """RAGFlow's own code; without a JSON object the HTTP status, or -1 where that is no failure."""
        body = self.body
        if isinstance(body, dict) and isinstance(body.get("code"), int):
            return int(body["code"])
        return self.status if self.status >= 400 else -1

    @property
    def ok(self) -> bool:
        """Whether RAGFlow reports success."""
        return self.code == 0

    @property
    def is_absent(self) -> bool:
        """Whether the requested object does not exist, or is not this user's."""
        return self.code in {102, 109} and bool(_ABSENT.search(self.message))

    @property
    def message(self) -> str:
        """RAGFlow's message, without secrets and leading line breaks."""
        body = self.body
        message = body.get("message") if isinstance(body, dict) else self.text[:200]
        return mask(str(message or "").strip(), self.secrets)

    @property
    def data(self) -> Any:
        """The requested data; None without any."""
        body = self.body
        return body.get("data") if isinstance(body, dict) else None


def explain(message: str) -> Hint | None:
    """What a message of RAGFlow means; None when it is not known."""
    hint = hints.find(FAILURES, message)
    return hint if hint.code else None


def refused(request: Request, response: Response) -> RagflowError:
    """The error for a response whose code is not 0."""
    hint = explain(response.message)
    if hint is None and response.code in _AUTHENTICATION:
        hint = explain("Unauthorized")
    evidence = (
        f"{request.method} {request.path}: code {response.code}, HTTP {response.status}: {response.message}"
    )
    return RagflowError(
        f"RAGFlow refused: {request.purpose or request.path}",
        code=hint.code if hint else "ragflow-refused",
        evidence=evidence + (f"\n{hint.cause}" if hint else ""),
        hint=hint.remedy if hint else "RAGFlow's log has more: docker logs CONTAINER",
    )
