"""The exceptions that ragops raises.

Catch the base class to show any of them::

    try:
        ragops.up(stack)
    except ragops.RagopsError as error:
        print(error.code, error.message, error.evidence, error.hint)

Each class has a default code; where an error is raised, a narrower one may be given. The page of errors lists
all codes.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = "errors.html"
"""Page of the documentation with an anchor for each error code."""


@cache
def _site() -> str:
    """Address of the published documentation, as the package's metadata has it; empty without one."""
    from importlib.metadata import PackageNotFoundError, metadata  # noqa: PLC0415 - only errors need it

    try:
        urls: list[str] = metadata("ragops-rerank").get_all("Project-URL") or []
    except PackageNotFoundError:  # a checkout that is not installed
        return ""
    return dict(url.split(", ", 1) for url in urls).get("Documentation", "")


def explanation(code: str) -> str:
    """Where an error code is explained: on the published site, else in the terminal."""
    return f"{_site().rstrip('/')}/{PAGE}#{code}" if _site() else f"ragops explain {code}"


class RagopsError(Exception):
    """Base class: an error with a message, its evidence and a hint.

    Args:
        message: Cause of the error in one sentence.
        code: Short, stable name of the error, such as ``port-taken``; by default that of the class.
        evidence: A log line, a response of the Docker engine, or another observation. May be empty.
        hint: How to fix it, as a command if there is one.
        container: Name of the container of the error, or an empty string.
        url: Address that was requested, or an empty string.
        file: File or folder of the error.
    """

    code = "failed"

    def __init__(  # noqa: PLR0913 - each is an attribute that a program can act on
        self,
        message: str,
        *,
        code: str = "",
        evidence: str = "",
        hint: str = "",
        container: str = "",
        url: str = "",
        file: Path | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.evidence = evidence
        self.hint = hint
        self.container = container
        self.url = url
        self.file = file

    @property
    def short(self) -> str:
        """The message and the first line of the evidence, in one line."""
        return " - ".join(part for part in (self.message, *self.evidence.splitlines()[:1]) if part)

    def to_json(self) -> dict[str, str | None]:
        """The fields as JSON, with the class name as ``error``."""
        names = ("code", "message", "evidence", "hint", "container", "url")
        fields = {name: getattr(self, name) for name in names}
        return {"error": type(self).__name__, **fields, "file": self.file and str(self.file)}

    def __str__(self) -> str:
        """The message, the indented evidence, the documentation of the code, and the hint."""
        lines = [self.message]
        lines += [f"  {line}" for line in self.evidence.splitlines()]
        lines.append(f"see: {explanation(self.code)}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class StackError(RagopsError):
    """ragops.toml can't be read, or a value in it is invalid."""

    code = "stack-refused"


class EngineError(RagopsError):
    """The Docker engine is missing, or refused a request."""

    code = "engine-refused"


class NotFoundError(EngineError):
    """The Docker engine has no network, container or image of that name."""

    code = "not-found"


class LaunchError(RagopsError):
    """The reranker's container exited, or was not ready before the timeout."""

    code = "start-failed"


class ModelError(RagopsError):
    """The model folder is missing, incomplete, or of a kind that can't rerank."""

    code = "model-refused"


class ImageError(RagopsError):
    """The vLLM image could be neither found, pulled nor built."""

    code = "image-failed"


class RagflowError(RagopsError):
    """RAGFlow was not found, is ambiguous, has an unsupported release, or refused a request."""

    code = "ragflow-refused"


class BenchError(RagopsError):
    """A benchmark failed, or a folder does not contain a recorded run."""

    code = "bench-failed"


class ComposeError(RagopsError):
    """A compose file can't be read or is invalid; the message has the line number, if known."""

    code = "compose-unreadable"


class InUseError(RagopsError):
    """A network can't be removed, because containers that ragops did not connect still use it."""

    code = "network-in-use"


class LockedError(RagopsError):
    """Another ragops process is changing or watching the same stack."""

    code = "locked"


@contextmanager
def file_errors(
    kind: type[RagopsError], message: str, file: Path, *, code: str = "", hint: str = ""
) -> Iterator[None]:
    """Convert exceptions of the file system, JSON, TOML and pydantic into ``kind``.

    ``RuntimeError`` is that of ``~user`` without such a user, and of a text that is nested too deeply.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise kind(message, code=code, evidence=reason(error), hint=hint, file=file) from error


def read_text(
    kind: type[RagopsError], message: str, file: Path, max_bytes: int, *, code: str = "", hint: str = ""
) -> str:
    """The text of a regular file of at most ``max_bytes`` in UTF-8, with or without a byte-order mark.

    Raises:
        RagopsError: Of this ``kind``: the file is missing, a device or a pipe, larger, or not UTF-8.
    """
    with file_errors(kind, message, file, code=code, hint=hint):
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not block
        with os.fdopen(descriptor, "rb") as stream:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            data = stream.read(max_bytes + 1) if regular else b""
        if not regular or len(data) > max_bytes:
            msg = f"larger than {max_bytes >> 20} MiB" if regular else "not a regular file"
            raise ValueError(msg)
        return data.decode("utf-8-sig")


def reason(error: Exception) -> str:
    """An exception in one line; for pydantic, its first error with the location in the data."""
    if not hasattr(error, "errors"):
        return str(error)
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])
