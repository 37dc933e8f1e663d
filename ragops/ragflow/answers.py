"""What is asked of RAGFlow's API, what it answers, and what the answers mean; pure.

RAGFlow tells success by ``code`` 0 in the JSON it answers, and gives HTTP 200 with most failures;
so the code is judged, and the status only where no JSON came.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ragops import hints
from ragops.errors import RagflowError
from ragops.ragflow.failures import FAILURES
from ragops.ragflow.secret import Secret, hide

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragops.hints import Hint

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


def explain(message: str) -> Hint | None:
    """What a message of RAGFlow means; None when it is not known."""
    hint = hints.find(FAILURES, message)
    return hint if hint.code else None


def refused(request: Request, reply: Reply) -> RagflowError:
    """The error for an answer whose code is not 0."""
    known = explain(reply.message)
    if known is None and reply.code in AUTHENTICATION:
        known = explain("Unauthorized")
    said = f"{request.method} {request.path}: code {reply.code}, HTTP {reply.status}: {reply.message}"
    return RagflowError(
        f"RAGFlow refused: {request.why or request.path}",
        code=known.code if known else "registration-refused",
        evidence=said + (f"\n{known.cause}" if known else ""),
        hint=known.remedy if known else "RAGFlow's log has more: docker logs CONTAINER",
    )
