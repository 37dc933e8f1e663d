"""Keys, tokens and passwords: from the environment, a file or a prompt, and shown nowhere.

They are never arguments of the command, which every user of the machine can read. A
:class:`Secret` has no text of its own, so that it can be part of a record or an error.
"""

from __future__ import annotations

import getpass
import os
import sys
from typing import TYPE_CHECKING

from ragops.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MASK = "***"

_LEAST = 4
"""Letters; a shorter one is a placeholder such as ``x``, and hiding it would garble every text."""


class Secret:
    """A text that only :meth:`reveal` gives back."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the moment in which it is sent."""
        return self._text

    def __repr__(self) -> str:
        """Stars, however long it is."""
        return MASK

    def __bool__(self) -> bool:
        """Whether there is one at all."""
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


NONE = Secret("")


def find(variable: str, file: Path | None = None) -> Secret:
    """A key or token from a file, else from an environment variable.

    Raises:
        StackError: The file can't be read, or what is there can't be sent in a header.
    """
    if file is not None:
        return _checked(_read(file), str(file))
    text = os.environ.get(variable, "").strip()
    return _checked(text, variable) if text else NONE


def password(variable: str, file: Path | None = None) -> Secret:
    """A password from a file, else from an environment variable, else from a prompt on a terminal.

    Raises:
        StackError: The file can't be read.
    """
    if file is not None:
        return Secret(_read(file))
    if text := os.environ.get(variable, ""):
        return Secret(text)
    return Secret(getpass.getpass("RAGFlow password: ")) if sys.stdin.isatty() else NONE


def hide(text: str, secrets: Iterable[Secret]) -> str:
    """The text with every secret in it replaced by stars, the longest first."""
    for secret in sorted(secrets, key=lambda one: -len(one.reveal())):
        if len(secret.reveal()) >= _LEAST:
            text = text.replace(secret.reveal(), MASK)
    return text


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise StackError(
            f"no key can be read from {file}",
            code="secret-refused",
            evidence=str(reason),
            hint="name another file",
            file=file,
        ) from None


def _checked(text: str, where: str) -> Secret:
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise StackError(
            f"{where} holds no key",
            code="secret-refused",
            evidence="it is empty, or has spaces, line breaks or letters beyond ASCII in it",
            hint="write the key alone, on one line",
        )
    return Secret(text)
