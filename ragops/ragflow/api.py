"""RAGFlow's HTTP API: secrets, requests, responses, the client, and errors.

RAGFlow reports success by ``code`` 0 in its JSON, and sends HTTP 200 with most failures; so the code
decides, and the HTTP status only where the response is not JSON. Each request is sent once, follows no
redirect and uses no proxy, so that a token reaches only the configured address. Errors and responses
are shown with the secrets masked. Two pages of the site are generated from the causes and remedies.
"""

import json
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit

import httpx
from pydantic import SecretStr

from ragops.data import read_table
from ragops.docker import hints
from ragops.docker.hints import Hint
from ragops.errors import RagflowError, StackError, read_text
from ragops.ragflow.request import over_long

TOKEN_VARIABLE = "RAGOPS_RAGFLOW_TOKEN"  # noqa: S105 - a name
KEY_VARIABLE = "RAGOPS_RERANKER_KEY"

API_TIMEOUT = 60.0
"""Seconds for one response; RAGFlow's own test of a model takes up to 10 s, twice on v0.26.3."""

FAILURES = tuple(
    Hint(words, remedy, code, cause)
    for column, code, remedy, cause in read_table("ragflow_messages.tsv")
    for words in column.split(" | ")
)
"""Parts of RAGFlow's messages with their causes, the most specific first: the first match is used. Those with
``API error`` and those of Go's ``net/http`` are of v1.0 (internal/entity/models/vllm.go)."""

_MASK = "***"
_MAX_FILE = 1 << 20  # bytes
_MIN_MASKED_LENGTH = 4  # characters; a shorter secret is a placeholder such as x, in many other words
_ABSENT = re.compile(r"(?i)\bno \w+ found|not found|does(n.t| not) exist")
_AUTHENTICATION = frozenset({401, 403, 109})
# For addresses without TLS: loading the system's certificates takes longer than the request.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Secret(SecretStr):
    """A key or token that prints as stars, so that it can be part of a record or an error.

    It comes from a file or the environment, never from an argument of the command, which every user of
    the machine can read. ``get_secret_value()`` returns the text.
    """

    @property
    def sendable(self) -> bool:
        """Whether an HTTP header can hold it."""
        text = self.get_secret_value()
        return text != "" and text.isascii() and text.isprintable() and " " not in text

    def checked(self, message: str, file: Path | None = None) -> "Secret":
        """Itself if it is sendable, else an error with this message."""
        if not self.sendable:
            evidence = "it is empty, or contains spaces, line breaks or characters beyond ASCII"
            hint = "write only the key to a file, on one line"
            raise StackError(message, code="secret-refused", evidence=evidence, hint=hint, file=file)
        return self


NO_SECRET = Secret("")


def read_secret(variable: str, file: Path | None = None) -> Secret:
    """Read a key or token from a file, else from an environment variable; empty without either."""
    message, hint = f"{file or variable} holds no key", "write only the key to a file, on one line"
    if file is not None:
        text = read_text(StackError, message, file, _MAX_FILE, code="secret-refused", hint=hint).strip()
    elif not (text := os.environ.get(variable, "").strip()):
        return NO_SECRET
    return Secret(text).checked(message, file)


def mask(text: str, secrets: Iterable[Secret]) -> str:
    """Replace every secret in a text by stars, the longest first."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _MIN_MASKED_LENGTH:
            text = text.replace(secret.get_secret_value(), _MASK)
    return text


@dataclass(frozen=True)
class Request:
    """A request to RAGFlow's API; values of the body may be secrets."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    purpose: str = ""


@dataclass(frozen=True)
class Response:
    """The response to one request."""

    status: int
    text: str = field(repr=False)
    secrets: frozenset[Secret] = frozenset()

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object; empty if the response is none."""
        try:
            value = json.loads(self.text)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def code(self) -> int:
        """RAGFlow's own code; without one the HTTP status, or -1 where that is no failure."""
        code = self.body.get("code")
        if isinstance(code, int):
            return code
        return self.status if self.status >= 400 else -1

    @property
    def ok(self) -> bool:
        """Whether RAGFlow reports success, also in the result of a test of a model."""
        return self.code == 0 and not self._failed_test

    @property
    def _failed_test(self) -> bool:
        return isinstance(self.data, dict) and self.data.get("success") is False

    @property
    def is_ragflow(self) -> bool:
        """Whether the response has the form of RAGFlow's API."""
        return isinstance(self.body.get("code"), int) and "message" in self.body

    @property
    def is_absent(self) -> bool:
        """Whether the requested object does not exist; an unknown route has HTTP 404."""
        return self.status == 200 and self.code in {102, 404} and bool(_ABSENT.search(self.message))

    @property
    def message(self) -> str:
        """RAGFlow's message, else the start of the text, without secrets and leading line breaks."""
        body = self.data if self._failed_test else self.body
        message = body.get("message") if body else self.text[:200]
        return mask(str(message or "").strip(), self.secrets)

    @property
    def data(self) -> Any:
        """The requested data; None without any."""
        return self.body.get("data")


class Api:
    """RAGFlow's API at one address, with an API token; a context manager that closes its connections."""

    def __init__(self, url: str, token: Secret = NO_SECRET, *, timeout: float = API_TIMEOUT) -> None:
        self.url = base_url(url)
        self._secrets = {token}
        verify = self.url.startswith("https:") or _NO_CERTIFICATES
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=timeout, trust_env=False, verify=verify
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(self, request: Request) -> Response:
        """Send one request; the response may report a failure, no response is an error."""
        content, headers = None, {}
        if request.body is not None:
            content = json.dumps(self._revealed(request.body)).encode()
            headers = {"Content-Type": "application/json"}
        try:
            response = self._http.request(request.method, request.path, content=content, headers=headers)
        except httpx.HTTPError as error:
            reason = mask(str(error) or type(error).__name__, self._secrets)
        else:
            return Response(response.status_code, response.text, frozenset(self._secrets))
        raise RagflowError(
            f"RAGFlow did not respond at {self.url}",
            code="ragflow-silent",
            evidence=f"{request.method} {request.path}: {reason}",
            hint="name its address with --url; RAGFlow needs minutes to start",
            url=self.url,
        )

    def call(self, request: Request) -> Response:
        """Send one request; a failure that RAGFlow reports is an error too."""
        response = self.send(request)
        if not response.ok:
            raise refusal(request, response)
        return response

    def _revealed(self, value: Any) -> Any:
        """The body with its secrets in clear text; they are masked in every later response."""
        if isinstance(value, Secret):
            self._secrets.add(value)
            return value.get_secret_value()
        if isinstance(value, dict):
            return {name: self._revealed(item) for name, item in value.items()}
        return [self._revealed(item) for item in value] if isinstance(value, (list, tuple)) else value


def split_address(url: str) -> SplitResult:
    """The parts of an HTTP address; any other, or one with a user or a password, is an error."""
    url = url if "//" in url else f"http://{url}"
    with suppress(ValueError, httpx.InvalidURL):  # of the port, brackets, control characters, labels
        parts = urlsplit(url)
        host = httpx.URL(url).host.encode("idna")
        if parts.scheme in {"http", "https"} and host.strip() and parts.port != 0 and "@" not in parts.netloc:
            return parts
    raise StackError(
        "the address is not valid",
        code="address-refused",
        evidence="an address has http:// or https://, a host, and no user or password",
        hint="such as http://127.0.0.1:9380",
    )


def base_url(url: str) -> str:
    """Scheme, host and port of an address; errors as of :func:`split_address`."""
    parts = split_address(url)
    return f"{parts.scheme}://{parts.netloc}"


def rerank_base(url: str) -> str:
    """A reranker's address as RAGFlow has it, ending in ``/v1``; errors as of :func:`split_address`."""
    parts = split_address(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}/v1"


def failure_hint(message: str) -> Hint | None:
    """Cause and remedy of a message of RAGFlow; None for an unknown message."""
    hint = hints.find(FAILURES, message)
    return hint if hint.code else None


def refusal(request: Request, response: Response) -> RagflowError:
    """The error for a response whose code is not 0."""
    hint = failure_hint(response.message)
    if hint is None and response.code in _AUTHENTICATION:
        hint = failure_hint("Unauthorized")
    result = f"code {response.code}, HTTP {response.status}: {response.message}"
    _, tokens = over_long(response.message) or (0, 0)
    return RagflowError(
        f"RAGFlow refused: {request.purpose or request.path}",
        code=hint.code if hint else "ragflow-refused",
        evidence=f"{request.method} {request.path}: {result}" + (f"\n{hint.cause}" if hint else ""),
        hint=hint.remedy.format(tokens=tokens) if hint else "RAGFlow's log has more: docker logs CONTAINER",
    )
