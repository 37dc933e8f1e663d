"""Every error that ragops raises on purpose.

::

    RagopsError
    ├── StackError       ragops.toml is wrong
    ├── EngineError      the Docker engine is missing, or refused what was asked
    │   └── NotFoundError    no such network, container or image
    ├── LaunchError      the reranker did not become ready
    ├── ModelError       the model folder is missing or not usable
    ├── ImageError       the vLLM image could not be built or pulled
    ├── RagflowError     no RAGFlow, more than one to choose from, or it refused
    ├── BenchError       a benchmark could not run, or its folder is not one
    ├── ComposeError     a file can't be read, or is no compose file
    ├── InUseError       a network can't be removed: containers that ragops did not connect are in it
    └── LockedError      another ragops is changing or watching the same stack

Catch the base class to show any of them::

    try:
        ragops.up(stack)
    except ragops.RagopsError as error:
        print(error.code, error.message, error.evidence, error.hint)
"""

from __future__ import annotations

from ragops import codes


class RagopsError(Exception):
    """What went wrong, what was seen, and what to do about it.

    Args:
        message: One sentence: what went wrong.
        evidence: What was seen: a log line, an engine's answer. May be empty.
        hint: What to do next, as a command where there is one.
    """

    def __init__(self, message: str, *, evidence: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.evidence = evidence
        self.hint = hint

    @property
    def code(self) -> str:
        """Its short, stable name, such as ``port-taken``: what the page of errors lists it by."""
        kinds = [kind.__name__ for kind in type(self).__mro__]
        return codes.find(kinds, self.message, self.evidence)

    @property
    def short(self) -> str:
        """The message with the first line of the evidence, for where there is one line."""
        return " - ".join(part for part in (self.message, *self.evidence.splitlines()[:1]) if part)

    def __str__(self) -> str:
        """The message, the evidence indented below it, where it is explained, and the hint last."""
        lines = [self.message]
        lines += [f"  {line}" for line in self.evidence.splitlines()]
        lines.append(f"see: {codes.PAGE}#{self.code}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class StackError(RagopsError):
    """ragops.toml can't be read, or says something that can't be done."""


class EngineError(RagopsError):
    """The Docker engine is missing, or refused what was asked of it."""


class NotFoundError(EngineError):
    """The engine knows no network, container or image of that name."""


class LaunchError(RagopsError):
    """The reranker's container ended, or was not ready in time."""


class ModelError(RagopsError):
    """The model folder is missing, incomplete, or of a kind that can't rerank."""


class ImageError(RagopsError):
    """The vLLM image could be neither found, pulled nor built."""


class RagflowError(RagopsError):
    """RAGFlow was not found, is one of several, is of an unknown release, or refused what was asked."""


class BenchError(RagopsError):
    """A benchmark could not run, or a folder does not hold a recorded run."""


class ComposeError(RagopsError):
    """A compose file can't be read, or is none; the message names the line where there is one."""


class InUseError(RagopsError):
    """A network can't be removed, because containers that ragops did not connect are in it."""


class LockedError(RagopsError):
    """Another ragops is changing or watching the same stack."""
