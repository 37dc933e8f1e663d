"""The changes that a plan is made of; each says itself in words and as docker commands.

``planning.py`` chooses them, and carries them out through ``engine.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ragops.errors import EngineError, InUseError

if TYPE_CHECKING:
    from ragops.container import ContainerSpec, NetworkSpec
    from ragops.engine import Engine

Command = tuple[str, ...]


def old_name(name: str) -> str:
    """What a container is called while another is put in its place."""
    return f"{name}-old"


class Action(Protocol):
    """One change: said in words, as docker commands, and done."""

    def describe(self) -> str:
        """What it does, in one line."""

    def commands(self) -> tuple[Command, ...]:
        """The equivalent docker commands."""

    def apply(self, engine: Engine) -> None:
        """Do it."""


@dataclass(frozen=True)
class CreateNetwork:
    """Make the network."""

    spec: NetworkSpec

    def describe(self) -> str:
        return f"+ create network {self.spec.name}"

    def commands(self) -> tuple[Command, ...]:
        return (self.spec.command(),)

    def apply(self, engine: Engine) -> None:
        engine.create_network(self.spec)


@dataclass(frozen=True)
class CreateVolume:
    """Make a volume."""

    name: str
    role: str = "cache"

    def describe(self) -> str:
        return f"+ create volume {self.name}"

    def commands(self) -> tuple[Command, ...]:
        return (("docker", "volume", "create", "--label", f"org.ragops={self.role}", self.name),)

    def apply(self, engine: Engine) -> None:
        engine.create_volume(self.name, role=self.role)


@dataclass(frozen=True)
class RunContainer:
    """Make a container and start it; one that won't start is removed again."""

    spec: ContainerSpec

    def describe(self) -> str:
        return f"+ run container {self.spec.name} from {self.spec.image}"

    def commands(self) -> tuple[Command, ...]:
        return (self.spec.docker_command(),)

    def apply(self, engine: Engine) -> None:
        made = engine.create_container(self.spec)
        try:
            engine.start(self.spec.name)  # by name, which an error then tells
        except EngineError:
            engine.remove_container(made)
            raise


@dataclass(frozen=True)
class ReplaceContainer:
    """Put a changed container in the place of the old one, which comes back if that fails."""

    spec: ContainerSpec
    reason: str

    def describe(self) -> str:
        return f"~ replace container {self.spec.name}: {self.reason}"

    def commands(self) -> tuple[Command, ...]:
        return (("docker", "rm", "--force", self.spec.name), self.spec.docker_command())

    def apply(self, engine: Engine) -> None:
        old, aside = engine.container(self.spec.name), old_name(self.spec.name)
        if old is None:
            RunContainer(self.spec).apply(engine)
            return
        engine.stop(old.id)
        engine.rename(old.id, aside)
        try:
            RunContainer(self.spec).apply(engine)
        except EngineError:
            engine.rename(old.id, self.spec.name)
            if old.running:
                engine.start(old.id)
            raise
        engine.remove_container(old.id)


@dataclass(frozen=True)
class StartContainer:
    """Start a container that exists."""

    name: str

    def describe(self) -> str:
        return f"~ start container {self.name}"

    def commands(self) -> tuple[Command, ...]:
        return (("docker", "start", self.name),)

    def apply(self, engine: Engine) -> None:
        engine.start(self.name)


@dataclass(frozen=True)
class RestartContainer:
    """Stop a container that does not do its work, by force if need be, and start it again."""

    name: str
    reason: str

    def describe(self) -> str:
        return f"~ restart container {self.name}: {self.reason}"

    def commands(self) -> tuple[Command, ...]:
        return (("docker", "restart", self.name),)

    def apply(self, engine: Engine) -> None:
        engine.stop(self.name)
        engine.start(self.name)


@dataclass(frozen=True)
class Connect:
    """Join a container to the network; its default route may move."""

    network: str
    container: str
    note: str = ""
    aliases: tuple[str, ...] = ()

    def describe(self) -> str:
        tail = f" ({self.note})" if self.note else ""
        return f"+ connect {self.container} to {self.network}{tail}"

    def commands(self) -> tuple[Command, ...]:
        flags = [part for alias in self.aliases for part in ("--alias", alias)]
        return (("docker", "network", "connect", *flags, self.network, self.container),)

    def apply(self, engine: Engine) -> None:
        engine.connect(self.network, self.container, self.aliases)


@dataclass(frozen=True)
class Disconnect:
    """Take a container out of the network; the container itself stays as it is."""

    network: str
    container: str

    def describe(self) -> str:
        return f"- disconnect {self.container} from {self.network}"

    def commands(self) -> tuple[Command, ...]:
        return (("docker", "network", "disconnect", "--force", self.network, self.container),)

    def apply(self, engine: Engine) -> None:
        engine.disconnect(self.network, self.container)


@dataclass(frozen=True)
class Remove:
    """Remove a container or volume of ours."""

    kind: str
    name: str
    id: str

    def describe(self) -> str:
        return f"- remove {self.kind} {self.name}"

    def commands(self) -> tuple[Command, ...]:
        force = ("--force",) if self.kind == "container" else ()
        return (("docker", self.kind, "rm", *force, self.name),)

    def apply(self, engine: Engine) -> None:
        remove = {"container": engine.remove_container, "volume": engine.remove_volume}
        remove[self.kind](self.id)


@dataclass(frozen=True)
class RemoveNetwork:
    """Remove a network of ours that no container is in, running or stopped.

    The engine itself minds the running ones only. A stopped one that is left behind can never be
    started again: it remembers the network by its id.
    """

    name: str
    id: str

    def describe(self) -> str:
        return f"- remove network {self.name}"

    def commands(self) -> tuple[Command, ...]:
        return (("docker", "network", "rm", self.name),)

    def apply(self, engine: Engine) -> None:
        places = ((one.name, one.endpoint(self.name)) for one in engine.containers())
        if users := [name for name, place in places if place and place.network_id in ("", self.id)]:
            raise in_use(self.name, users)
        engine.remove_network(self.id)


def in_use(network: str, users: list[str]) -> InUseError:
    """The error for a network that these containers are in."""
    return InUseError(
        f"network {network} is in use by {', '.join(sorted(users))}",
        evidence="ragops takes only RAGFlow and what it made itself out of a network; "
        "a stopped container could not start again without it",
        hint=f"ragops disconnect {min(users)}, then try again",
    )
