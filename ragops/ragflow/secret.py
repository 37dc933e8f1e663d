"""Keys and tokens: read from a file or the environment, and never shown.

They are never arguments of the command, which every user of the machine can read. A
:class:`Secret` prints as stars, so that it can be part of a record or an error.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ragops.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MASK = "***"

TOKEN_VARIABLE = "RAGOPS_RAGFLOW_TOKEN"  # noqa: S105 - a name
KEY_VARIABLE = "RAGOPS_RERANKER_KEY"

_SHORTEST_MASKED = 4
"""Characters; a shorter secret is a placeholder such as ``x``, and masking it would garble every text."""


class Secret:
    """A text that only :meth:`reveal` returns."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the moment in which it is sent."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


NONE = Secret("")


def read_secret(variable: str, file: Path | None = None) -> Secret:
    """Read a key or token from a file, else from an environment variable; empty without either.

    Raises:
        StackError: The file can't be read, or the text can't be sent in an HTTP header.
    """
    if file is None:
        text = os.environ.get(variable, "").strip()
        if not text:
            return NONE
    else:
        try:
            text = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise StackError(
                f"no key can be read from {file}",
                code="secret-refused",
                evidence=str(reason),
                hint="name another file",
                file=file,
            ) from None
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise StackError(
            f"{file or variable} holds no key",
            code="secret-refused",
            evidence="it is empty, or contains spaces, line breaks or characters beyond ASCII",
            hint="write only the key, on one line",
        )
    return Secret(text)


def mask(text: str, secrets: Iterable[Secret]) -> str:
    """Replace every secret in a text by stars, the longest first."""
    for secret in sorted(secrets, key=lambda secret: -len(secret.reveal())):
        if len(secret.reveal()) >= _SHORTEST_MASKED:
            text = text.replace(secret.reveal(), MASK)
    return text
