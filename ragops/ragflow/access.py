"""How RAGFlow lets ragops in: by API token where a release takes one, else by a login that was allowed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.errors import RagflowError
from ragops.ragflow import secret
from ragops.ragflow.api import Api
from ragops.ragflow.secret import NONE, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ragops.ragflow.releases import Release

LOGIN_WARNING = "logging in ends this user's session in every browser: RAGFlow keeps one session a user"


@dataclass(frozen=True)
class Access:
    """What the user has given."""

    token: Secret = NONE
    """An API token, from RAGFlow's API page."""
    email: str = ""
    password: Secret = NONE
    login: bool = False
    """Whether ragops may log in, which ends the user's sessions in every browser."""

    @classmethod
    def given(
        cls,
        *,
        token_file: Path | None = None,
        email: str = "",
        password_file: Path | None = None,
        login: bool = False,
    ) -> Access:
        """From files, else from ``RAGOPS_RAGFLOW_TOKEN`` and ``RAGOPS_RAGFLOW_PASSWORD``.

        A password is looked for only when a login is allowed, and asked for on a terminal.

        Raises:
            StackError: A file can't be read, or holds what is no token.
        """
        token = secret.find("RAGOPS_RAGFLOW_TOKEN", token_file)
        if not login:
            return cls(token)
        return cls(token, email, secret.password("RAGOPS_RAGFLOW_PASSWORD", password_file), login=True)

    def needs_login(self, release: Release) -> bool:
        """Whether nothing but a login will do."""
        return not (release.token and self.token)


def check(access: Access, release: Release, *, chats: bool) -> None:
    """See that what was given will do, before anything is sent.

    Raises:
        RagflowError: It won't; says what is missing.
    """
    if access.needs_login(release) and not access.login:
        raise _missing(release)
    if access.needs_login(release) and not (access.email and access.password):
        raise RagflowError(
            "logging in needs an e-mail address and a password",
            hint="--email, and RAGOPS_RAGFLOW_PASSWORD or --password-file",
        )
    if chats and not access.token and release.chats != "rerank_id":
        raise RagflowError(
            f"RAGFlow {release.name} takes chats and questions by API token alone",
            hint="give one in RAGOPS_RAGFLOW_TOKEN too, or leave --chat and --dataset out",
        )


@contextmanager
def opened(url: str, access: Access, release: Release, told: Callable[[str], None]) -> Iterator[Api]:
    """RAGFlow's API, logged in where the release takes no token on these routes."""
    with Api(url, access.token) as api:
        if access.needs_login(release):
            told(f"note: {LOGIN_WARNING}")
            api.login(release.login, access.email, access.password)
        yield api


def _missing(release: Release) -> RagflowError:
    if release.token:
        return RagflowError(
            f"RAGFlow {release.name} asks for an API token",
            evidence="none was given, and a login was not allowed",
            hint="make one on its API page; RAGOPS_RAGFLOW_TOKEN holds it, or --token-file",
        )
    return RagflowError(
        f"RAGFlow {release.name} takes no API token on these routes, and a login was not allowed",
        evidence=LOGIN_WARNING,
        hint="--allow-login, with --email and RAGOPS_RAGFLOW_PASSWORD",
    )
