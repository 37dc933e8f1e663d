"""The one module that speaks HTTP with RAGFlow: requests out, answers back, secrets in neither.

No request is sent twice, none follows a redirect or goes through a proxy, so that a token reaches
only the address that was named. Whatever goes wrong is told without the secrets that were sent.
"""

from __future__ import annotations

import base64
import json
import ssl
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from ragops.errors import RagflowError, StackError
from ragops.ragflow.answers import Reply, Request, refused
from ragops.ragflow.secret import NONE, Secret, hide

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

_PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody; for addresses without TLS, where reading every certificate takes longer than the call."""

TIMEOUT = 60.0
"""Seconds for one answer; RAGFlow's own tests of a model take up to 10 s, twice on v0.26.3."""


class Api:
    """RAGFlow's API at one address.

    Args:
        url: Address of RAGFlow's pages or API, such as ``http://127.0.0.1:9380``.
        token: An API token; sent with every request but the one that logs in.
    """

    def __init__(self, url: str, token: Secret = NONE) -> None:
        self.url = address(url)
        self.token = token
        self._session = NONE
        self._seen: set[Secret] = {token}
        encrypts = self.url.startswith("https:")
        self._http = httpx.Client(
            base_url=self.url, timeout=TIMEOUT, trust_env=False, verify=encrypts or _PLAIN
        )

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._http.close()

    def ask(self, request: Request) -> Reply:
        """Send one request; any answer is given back.

        Raises:
            RagflowError: No answer came.
        """
        session = NONE if request.token_only and self.token else self._session
        key = session.reveal() or (f"Bearer {self.token.reveal()}" if self.token else "")
        reply = self._send(request, {"Authorization": key} if key else {})
        return Reply(reply.status_code, reply.text, frozenset(self._seen))

    def do(self, request: Request) -> Reply:
        """Send one request that must succeed.

        Raises:
            RagflowError: No answer came, or one whose code is not 0.
        """
        reply = self.ask(request)
        if not reply.ok:
            raise refused(request, reply)
        return reply

    def login(self, route: str, email: str, password: Secret) -> None:
        """Start a session; ends the user's other ones.

        Raises:
            RagflowError: RAGFlow did not take e-mail and password.
            StackError: The package ``cryptography`` is missing.
        """
        self._seen.add(password)
        body = {"email": email, "password": encrypted(password)}
        request = Request("POST", route, body, why="log in")
        reply = self._send(request, {})
        self._session = Secret(reply.headers.get("authorization", ""))
        self._seen.add(self._session)
        answer = Reply(reply.status_code, reply.text, frozenset(self._seen))
        if not answer.ok or not self._session:
            raise refused(request, answer)

    def _send(self, request: Request, headers: Mapping[str, str]) -> httpx.Response:
        content = None if request.body is None else json.dumps(self._revealed(request.body)).encode()
        kind = {} if content is None else {"Content-Type": "application/json"}
        try:
            return self._http.request(
                request.method, request.path, content=content, headers={**headers, **kind}
            )
        except httpx.HTTPError as error:
            reason = hide(str(error) or type(error).__name__, self._seen)
        raise RagflowError(
            f"RAGFlow did not answer at {self.url}",
            evidence=f"{request.method} {request.path}: {reason}",
            hint="name its address with --url; RAGFlow needs minutes to start",
        )

    def _revealed(self, body: Any) -> Any:
        """The body with its secrets in clear, which are remembered to be hidden in the answer."""
        if isinstance(body, Secret):
            self._seen.add(body)
            return body.reveal()
        if isinstance(body, dict):
            return {name: self._revealed(value) for name, value in body.items()}
        return [self._revealed(one) for one in body] if isinstance(body, (list, tuple)) else body


def address(url: str) -> str:
    """An address without path or slash at its end.

    Raises:
        StackError: It isn't http, or has a user and password in it.
    """
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise StackError(
            "that is no address of RAGFlow",
            evidence="an address has http:// or https://, a host, and no user or password in it",
            hint="such as --url http://127.0.0.1:9380",
        )
    return f"{parts.scheme}://{parts.netloc}"


def encrypted(password: Secret) -> str:
    """A password as RAGFlow's pages send it: RSA with the public key that every release ships.

    Source: api/utils/crypt.py, conf/public.pem; the same from v0.17.0 to v0.27.0.

    Raises:
        StackError: The package ``cryptography`` is missing.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415
    except ImportError:
        raise StackError(
            "logging in needs the package cryptography",
            evidence="RAGFlow takes passwords only encrypted with its public key",
            hint="pip install 'ragops-rerank[login]', or use an API token",
        ) from None
    key = load_pem_public_key(public_key())
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError(type(key).__name__)
    text = base64.b64encode(password.reveal().encode())
    return base64.b64encode(key.encrypt(text, padding.PKCS1v15())).decode()


def public_key() -> bytes:
    """RAGFlow's public key, as PEM: its own conf/public.pem."""
    return resources.files("ragops.data").joinpath("ragflow/public.pem").read_bytes()
