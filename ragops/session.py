"""What the verbs share: the Docker engine, the configuration resolved on this host, and the lock.

A :class:`Session` connects the configuration to a Docker engine. Its :class:`Deployment` is what the
configuration means on this host: it is resolved once, on first use, and passed on.
"""

from __future__ import annotations

import fcntl
import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ragops.configuration import home
from ragops.docker import engine as docker_engine
from ragops.errors import LockedError
from ragops.reranker import host as hosts
from ragops.reranker import model as models
from ragops.reranker import options
from ragops.reranker.sizing import size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ragops.configuration import Stack
    from ragops.docker.engine import Engine
    from ragops.docker.objects import ContainerSpec
    from ragops.reranker.host import Host
    from ragops.reranker.model import Model
    from ragops.reranker.sizing import Sizing


@dataclass(frozen=True)
class Deployment:
    """The configuration resolved on this host: model, sizing and container."""

    stack: Stack
    model: Model
    host: Host
    sizing: Sizing
    spec: ContainerSpec

    @classmethod
    def resolve(cls, stack: Stack, model: Model | None = None) -> Deployment:
        """Read the model folder and the host once, and build the container's specification.

        A ``model`` replaces the one that the configuration or the environment names.

        Raises:
            ModelError: vLLM cannot serve the model folder.
            StackError: The host lacks what the configuration requires.
        """
        model = model or models.resolve(stack, home())
        host = hosts.read_host()
        template = _template_copy(options.template_file(model))
        sizing = size(stack, model, host)
        image = stack.reranker.image
        spec = options.container_spec(stack, model, sizing, image=image, template=template)
        return cls(stack, model, host, sizing, spec)

    @property
    def served_name(self) -> str:
        """Served model name, which RAGFlow sends in its requests."""
        return options.served_name(self.stack, self.model)


@dataclass(frozen=True)
class Session:
    """A configuration and the Docker engine that it is applied to."""

    stack: Stack
    engine: Engine

    @classmethod
    def open(cls, stack: Stack, engine: Engine | None = None) -> Session:
        """A session with this engine; without one, with the Docker engine that is reachable.

        Raises:
            EngineError: No Docker engine is reachable.
        """
        return cls(stack, engine or docker_engine.connect())

    @cached_property
    def deployment(self) -> Deployment:
        """The configuration resolved on this host; the first access reads the model folder and the host."""
        return Deployment.resolve(self.stack)


@contextmanager
def lock(address: str, name: str, purpose: Literal["change", "watch"] = "change") -> Iterator[None]:
    """Lock a stack for other ragops processes; the lock ends with the process.

    Args:
        address: Address of the Docker engine that the stack runs on.
        name: Name of the reranker's container, which identifies the stack on it.
        purpose: ``ragops watch`` has a lock of its own, beside that of each change.

    Raises:
        LockedError: Another process has the lock.
    """
    home().mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(f"{address} {name}".encode()).hexdigest()[:12]
    file = home() / f"{purpose}-{digest}.lock"
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            watched = "end ragops watch first: it would repair the stack within seconds"
            raise LockedError(
                f"another ragops process has the {purpose} lock of {name}",
                evidence=f"{file} is locked",
                hint=watched if purpose == "watch" else "try again when it has ended",
                file=file,
            ) from error
        yield


def refuse_while_watched(address: str, name: str) -> None:
    """Raise an error while ``ragops watch`` watches a stack, for changes that it would repair.

    Raises:
        LockedError: ``ragops watch`` runs.
    """
    with lock(address, name, "watch"):
        pass


def _template_copy(template: Path | None) -> Path | None:
    """A copy of the score template outside the package: containers mount it by path."""
    if template is None:
        return None
    text = template.read_bytes()
    folder = home() / "templates" / hashlib.sha256(text).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / template.name
    if not copy.exists():
        copy.write_bytes(text)
        copy.chmod(0o644)  # root in the container has no more rights than other users
    return copy
