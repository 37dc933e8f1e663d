"""HTTP client of RAGFlow's API; the only module that speaks HTTP with RAGFlow.

Each request is sent once, follows no redirect and uses no proxy, so that a token reaches only the
configured address. Errors and responses are shown with the secrets masked.
"""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from ragops.errors import RagflowError, StackError
from ragops.ragflow.answers import Request, Response, refused
from ragops.ragflow.secret import NONE, Secret, mask

if TYPE_CHECKING:
    from typing import Self

_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For addresses without TLS, where loading the system's certificates takes longer than the call."""

TIMEOUT = 60.0
"""Seconds for one response; RAGFlow's own test of a model takes up to 10 s, twice on v0.26.3."""


class Api:
    """RAGFlow's API at one address; a context manager that closes its connections.

    Args:
        url: Address of RAGFlow's pages or API, such as ``http://127.0.0.1:9380``.
        token: An API token; sent with every request.
    """

    def __init__(self, url: str, token: Secret = NONE) -> None:
        self.url = base_url(url)
        self._secrets = {token}
        verify = self.url.startswith("https:") or _NO_CERTIFICATES
        headers = {"Authorization": f"Bearer {token.reveal()}"} if token else {}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=TIMEOUT, trust_env=False, verify=verify
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(self, request: Request) -> Response:
        """Send one request; the response may report a failure.

        Raises:
            RagflowError: No response came.
        """
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
        """Send one request that must succeed.

        Raises:
            RagflowError: No response came, or one whose code is not 0.
        """
        response = self.send(request)
        if not response.ok:
            raise refused(request, response)
        return response

    def _revealed(self, value: Any) -> Any:
        """A body with its secrets in clear, which are remembered to be masked in the response."""
        if isinstance(value, Secret):
            self._secrets.add(value)
            return value.reveal()
        if isinstance(value, dict):
            return {name: self._revealed(item) for name, item in value.items()}
        return [self._revealed(item) for item in value] if isinstance(value, (list, tuple)) else value


def base_url(url: str) -> str:
    """Scheme, host and port of an address.

    Raises:
        StackError: It isn't http, or contains a user or a password.
    """
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise StackError(
            "the address of RAGFlow is not valid",
            code="address-refused",
            evidence="an address has http:// or https://, a host, and no user or password",
            hint="such as --url http://127.0.0.1:9380",
        )
    return f"{parts.scheme}://{parts.netloc}"
