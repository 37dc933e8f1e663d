"""Plans: the actions that bring the Docker engine to the configuration.

Each action describes itself in words and as docker commands; :func:`apply` runs them. ``planning.py`` chooses
them.
"""

import json
import logging
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from ragops.checks import ready, reference
from ragops.checks.questions import Expected
from ragops.configuration import SharedNetwork
from ragops.docker import objects
from ragops.docker.engine import Engine
from ragops.docker.swarm import TASK
from ragops.errors import EngineError, InUseError, StackError, file_errors
from ragops.progress import step
from ragops.reranker.gateway import MARK, REFERENCE, ROLE
from ragops.reranker.hub import Listing, pull
from ragops.session import replace_file
from ragops.table import Column, Shown, Table

_log = logging.getLogger(__name__)

Command = tuple[str, ...]
_SETTLE = 1.0
"""Seconds until another process has read the networks that it may have created twice."""
_RELEASE = 30.0
"""Seconds until the tasks of a removed service have left their network."""
_DRAIN = 150
"""Seconds until a container is stopped by force: a gateway first sends the responses that are due."""


class Action:
    """One change of the Docker engine; the templates name fields of the subclass."""

    change: ClassVar[str]
    command: ClassVar[str]

    def describe(self) -> str:
        """The change in one line, beginning with ``+``, ``~`` or ``-``."""
        return self.change.format_map(vars(self))

    def commands(self) -> tuple[Command, ...]:
        """The equivalent docker commands."""
        return (tuple(word.format_map(vars(self)) for word in self.command.split()),)

    def apply(self, engine: Engine) -> None:
        """Carry it out."""
        raise NotImplementedError


@dataclass(frozen=True)
class FetchModel(Action):
    """Download a model by name; the changes after it are planned from its files."""

    listing: Listing
    change = "+ fetch model {listing}"
    command = "ragops model pull"

    def apply(self, engine: Engine) -> None:  # noqa: ARG002 - no engine is needed
        pull(self.listing.name, self.listing.commit)


@dataclass(frozen=True)
class CreateNetwork(Action):
    """Create the network; of two that are created at once, one is removed.

    Docker 20.10 then has two networks of one name. The one with the smaller id waits for the other to be
    removed, and is removed itself if the other's creator did not read it.
    """

    spec: objects.NetworkSpec
    change = "+ create network {spec.name}"

    def commands(self) -> tuple[Command, ...]:
        return (self.spec.command(),)

    def apply(self, engine: Engine) -> None:
        created = engine.create_network(self.spec)
        others = self._others(engine, created)
        if others and created < min(others):
            time.sleep(_SETTLE)
            others = self._others(engine, created)
        if others:
            engine.remove_network(created)

    def _others(self, engine: Engine, created: str) -> list[str]:
        same = (network.id for network in engine.networks() if network.name == self.spec.name)
        return [network for network in same if network != created]


@dataclass(frozen=True)
class CreateVolume(Action):
    """Create a volume."""

    name: str
    change = "+ create volume {name}"
    command = f"docker volume create --label {objects.LABEL}=cache {{name}}"

    def apply(self, engine: Engine) -> None:
        engine.create_volume(self.name, role="cache")


def _create(engine: Engine, spec: objects.ContainerSpec, name: str) -> str:
    """Create a container; an error if the engine sees another file system than this process."""
    container, folder = engine.create_container(spec, name), dict(spec.labels).get(objects.LABEL_MODEL, "")
    for mount in spec.mounts:
        file = "config.json" if mount.source == folder else MARK if mount.target == REFERENCE else ""
        if file and not engine.has_file(container, f"{mount.target}/{file}"):
            engine.remove_container(container)
            where = "an engine in a container, in a virtual machine or on another host"
            where = objects.SNAP if engine.state().hides(Path(mount.source)) else where
            remedy = "set RAGOPS_HOME, or gateway = false" if file == MARK else "move the model there"
            raise EngineError(
                f"{mount.source} is empty for the Docker engine",
                code="folder-empty",
                evidence=f"a container with this folder has no {file} in it",
                hint=f"{where}: {remedy}",
                container=name,
            )
    return container


@dataclass(frozen=True)
class RunContainer(Action):
    """Create a container and start it; it is removed if it does not start."""

    spec: objects.ContainerSpec
    change = "+ run container {spec.name} from {spec.image}"

    def commands(self) -> tuple[Command, ...]:
        return (self.spec.docker_command(),)

    def apply(self, engine: Engine) -> None:
        container = _create(engine, self.spec, self.spec.name)
        try:
            engine.start(self.spec.name)  # by name, so that an error names it
        except EngineError:
            engine.remove_container(container)
            raise


@dataclass(frozen=True)
class ScoreCheck:
    """The score check of a replica; the gateway compares each replica with the scores that it returns."""

    expected: Expected
    identity: str
    """Of all that scores depend on; no check is needed while the stored reference has it."""
    file: Path

    @property
    def known(self) -> bool:
        """Whether the stored reference is of this model and these settings."""
        try:
            return bool(json.loads(self.file.read_bytes())["id"] == self.identity)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def run(self, engine: Engine, container: str, image: str, address: str = "") -> None:
        """Check the scores of a replica that responds, unless they are known, and store the reference.

        ``container`` is its own, or the gateway's, from which it has this ``address``.

        Raises:
            LaunchError: The scores are wrong.
            StackError: The reference can't be written.
        """
        if self.known:
            return
        text = reference.approve(engine, container, image, self.expected, self.identity, address)
        self.store(text.encode())

    def store(self, content: bytes | None) -> None:
        """Replace the reference, or remove it.

        Raises:
            StackError: It can't be written.
        """
        hint = "make it writable for this user, or name another folder: RAGOPS_HOME"
        with file_errors(StackError, f"can't write {self.file}", self.file, code="home-unusable", hint=hint):
            if content is None:
                self.file.unlink(missing_ok=True)
            else:
                replace_file(self.file, content)  # readable for the gateway, which runs as another user


@dataclass(frozen=True)
class CheckScores(Action):
    """Wait until a replica responds, check its scores, and store them as the gateway's reference.

    With ``servers``, which run elsewhere, ``spec`` is the gateway, and the first that it reaches is checked.
    """

    spec: objects.ContainerSpec
    check: ScoreCheck
    ready_timeout: float = 600
    servers: tuple[str, ...] = ()

    def describe(self) -> str:
        replica = " or ".join(self.servers) or self.spec.name
        return f"+ check the scores of {replica}: the gateway compares each replica with them"

    def commands(self) -> tuple[Command, ...]:
        return ()

    def apply(self, engine: Engine) -> None:
        name, address = self.spec.name, ""
        if self.servers:
            address = ready.wait_server(engine, name, self.servers, self.ready_timeout)
        else:
            ready.wait(engine, name, self.spec.served_name, self.ready_timeout)
        self.check.run(engine, name, self.spec.image_id, address)


@dataclass(frozen=True)
class Proof:
    """What a new container has to show before it replaces another."""

    timeout: float = 600
    check: ScoreCheck | None = None
    """Of a replica's scores; None where they are known."""
    gateway: str = ""
    """The running gateway that has to admit the new replica; empty without one."""
    replicas: tuple[str, ...] = ()
    """Replicas that a new gateway has to admit."""
    servers: tuple[str, ...] = ()
    """Servers elsewhere, of which it has to admit one."""

    def run(self, engine: Engine, spec: objects.ContainerSpec, name: str) -> None:
        """Wait until the container of that name has responded, with scores that are right.

        Raises:
            LaunchError: It has not.
        """
        if spec.role == ROLE:
            if self.check and self.servers:
                address = ready.wait_server(engine, name, self.servers, self.timeout)
                self.check.run(engine, name, spec.image_id, address)
            ready.wait_admitted(engine, name, self.replicas, self.timeout, self.servers)
            return
        ready.wait(engine, name, spec.served_name, self.timeout)
        if self.check:
            self.check.run(engine, name, spec.image_id)
        if self.gateway:
            ready.wait_admitted(engine, self.gateway, (name,), self.timeout)


@dataclass(frozen=True)
class ReplaceContainer(Action):
    """Replace a reranker, a replica or a gateway; the old container is kept until the new one is proved.

    Without an ``obstacle`` the old one responds until then: the new one starts under another name, and both
    are renamed at the end. With one the old one is stopped first. After a failure it has its name and runs.
    """

    spec: objects.ContainerSpec
    old: objects.ContainerState
    reason: str
    obstacle: str = ""
    """Why the two containers cannot run at once."""
    proof: Proof = Proof()
    reached: bool = True
    """Whether RAGFlow reaches the old one."""
    others: tuple[str, ...] = ()
    """Other replicas, which the gateway has to have admitted before the old one is stopped."""
    first: objects.ContainerSpec | None = None
    """With an obstacle: the replica of a new gateway, which needs the memory of the old container."""
    stopped: tuple[objects.ContainerState, ...] = ()
    """With an obstacle: replicas of the old gateway, whose memory the new container needs."""
    overlay: bool = False
    """Whether one is in an overlay network, in which Docker 20.10 renames no running container."""

    def describe(self) -> str:
        meanwhile = "vLLM loads" if self.spec.role != ROLE or self.first else "the gateway starts"
        effect = f"RAGFlow's calls fail while {meanwhile}: {self.obstacle}"
        if not self.obstacle:
            effect = "the old container responds until the new one does"
        elif self.others:
            effect = "the other replicas respond meanwhile"
        if not self.reached:
            effect = "RAGFlow does not reach the old container: its calls fail until the new one responds"
        return f"~ replace container {self.spec.name}: {self.reason} ({effect})"

    def commands(self) -> tuple[Command, ...]:
        name, (aside, temporary) = self.spec.name, self._names
        run, remove = self.spec.docker_command(), ("docker", "rm", "--force", aside)
        rename = ("docker", "rename", name, aside)
        if self.obstacle:
            stopped = tuple(("docker", "stop", replica.name) for replica in self.stopped)
            halt = ("docker", "stop", name if self.overlay else aside)
            first = (self.first.docker_command(),) if self.first else ()
            return (*((halt, rename) if self.overlay else (rename, halt)), *stopped, *first, run, remove)
        beside = tuple(temporary if word == name else word for word in run)
        if self.overlay:
            alias = (*beside[:3], "--network-alias", name, *beside[3:])
            stop = ("docker", "stop", temporary), ("docker", "rm", temporary)
            return (alias, ("docker", "stop", name), rename, run, *stop, remove)
        return (beside, rename, ("docker", "rename", temporary, name), ("docker", "stop", aside), remove)

    @property
    def _names(self) -> tuple[str, str]:
        """Names of the old and the new container meanwhile, unique by the old one's id."""
        name, digits = self.spec.name, self.old.id[:8]
        return f"{name}-old-{digits}", f"{name}-new-{digits}"

    def apply(self, engine: Engine) -> None:
        spec, old, (aside, temporary) = self.spec, self.old.id, self._names
        check = self.proof.check
        stored = check.file.read_bytes() if check and check.file.exists() else None
        if self.others:
            ready.wait_admitted(engine, self.proof.gateway, self.others, self.proof.timeout)
        try:
            if self.obstacle:
                self._set_aside(engine, aside)
            name = spec.name if self.obstacle else temporary
            alias = (spec.name,) if self.overlay and not self.obstacle else ()
            new = _create(engine, replace(spec, aliases=(*spec.aliases, *alias)), name)
            if self.obstacle:
                self._make_room(engine)
            engine.start(name)  # by name, so that an error names it
            self.proof.run(engine, spec, name)
            if alias:
                self._succeed(engine, new)
            elif not self.obstacle:
                engine.rename(old, aside)  # between the two, for 5 ms, no container has the name
                engine.rename(new, spec.name)
        except BaseException:
            if check:
                check.store(stored)  # the gateway would reject the old container
            self._restore(engine)
            raise
        if not self.obstacle and not alias:
            if self.old.role != ROLE and not self.proof.gateway:
                ready.drain(engine, old)  # of a replica's requests the gateway sends the rest elsewhere
            engine.stop(old, timeout=_DRAIN)
        engine.remove_container(old)

    def _set_aside(self, engine: Engine, name: str) -> None:
        """Give the old container another name; in an overlay network it is stopped before."""
        if self.overlay:
            engine.stop(self.old.id, timeout=_DRAIN)
        engine.rename(self.old.id, name)

    def _succeed(self, engine: Engine, temporary: str) -> None:
        """Replace the old container by one of its name, while the temporary one responds to it."""
        aside = self._names[0]
        with suppress(EngineError):  # which removes the name from DNS even so, while its requests go on
            engine.rename(self.old.id, aside)
        engine.stop(self.old.id, timeout=_DRAIN)
        if (old := engine.container(self.old.id)) and old.name != aside:
            engine.rename(self.old.id, aside)
        _create(engine, self.spec, self.spec.name)
        engine.start(self.spec.name)
        self.proof.run(engine, self.spec, self.spec.name)
        engine.stop(temporary, timeout=_DRAIN)
        engine.remove_container(temporary)

    def _make_room(self, engine: Engine) -> None:
        """Stop what the new container needs the place of; then start and check a new gateway's replica."""
        first = self.first
        if first:
            _create(engine, first, first.name)
        engine.stop(self.old.id, timeout=_DRAIN)
        for replica in self.stopped:
            engine.stop(replica.id)
        if first:
            engine.start(first.name)
            self.proof.run(engine, first, first.name)

    def _restore(self, engine: Engine) -> None:
        """Remove the new containers; the old ones have their names again, and run if they did."""
        try:
            for name in (self._names[1], self.spec.name, *([self.first.name] if self.first else [])):
                container = engine.container(name)
                if container and container.id != self.old.id and container.ours:
                    engine.remove_container(container.id)
            for replica in self.stopped:
                if replica.running:
                    engine.start(replica.id)
            RestoreContainer(self.old, self.spec.name, start=self.old.running).apply(engine)
            _log.warning("the old container %s is kept", self.spec.name)
        except EngineError as error:
            _log.error("%s is not restored yet, ragops up does it: %s", self.spec.name, error.short)


@dataclass(frozen=True)
class RestoreContainer(Action):
    """Rename a reranker back to its configured name, and start it."""

    container: objects.ContainerState
    name: str
    start: bool = True
    change = "~ restore container {name}, which is named {container.name}"

    def commands(self) -> tuple[Command, ...]:
        return (("docker", "rename", self.container.name, self.name), ("docker", "start", self.name))

    def apply(self, engine: Engine) -> None:
        container = engine.container(self.container.id)
        if container is not None and container.name != self.name:
            engine.rename(container.id, self.name)
        if self.start:
            engine.start(self.container.id)


@dataclass(frozen=True)
class StartContainer(Action):
    """Start a container that exists."""

    name: str
    change = "~ start container {name}"
    command = "docker start {name}"

    def apply(self, engine: Engine) -> None:
        engine.start(self.name)


@dataclass(frozen=True)
class RestartContainer(Action):
    """Stop a container and start it again, unless it responds as ``served_name``."""

    name: str
    reason: str
    served_name: str = ""
    change = "~ restart container {name}: {reason}"
    command = "docker restart {name}"

    def apply(self, engine: Engine) -> None:
        if self.served_name and ready.responds(engine, self.name, self.served_name):
            return  # it was unpaused a moment ago
        engine.stop(self.name)
        engine.start(self.name)


@dataclass(frozen=True)
class Connect(Action):
    """Connect a container to the network; its default route may move."""

    network: str
    container: str
    moves: bool = False
    aliases: tuple[str, ...] = ()

    def commands(self) -> tuple[Command, ...]:
        aliases = (part for alias in self.aliases for part in ("--alias", alias))
        return (("docker", "network", "connect", *aliases, self.network, self.container),)

    def describe(self) -> str:
        effect = " (moves its default route: open connections break)" if self.moves else ""
        return f"+ connect {self.container} to {self.network}{effect}"

    def apply(self, engine: Engine) -> None:
        engine.connect(self.network, self.container, self.aliases)


@dataclass(frozen=True)
class Disconnect(Action):
    """Disconnect a container from the network."""

    network: str
    container: str
    change = "- disconnect {container} from {network}"
    command = "docker network disconnect --force {network} {container}"

    def apply(self, engine: Engine) -> None:
        engine.disconnect(self.network, self.container)


@dataclass(frozen=True)
class Remove(Action):
    """Remove an object with the ragops label; a network only without containers, running or stopped.

    Docker refuses to remove a network only for running containers. A stopped one refers to it by its id, and
    could not start without it.
    """

    kind: Literal["container", "network", "volume", "service", "config"]
    name: str
    id: str
    released: bool = False
    """Whether tasks of Swarm, which end some seconds after their service, may have it."""
    change = "- remove {kind} {name}"

    def commands(self) -> tuple[Command, ...]:
        force = ("--force",) if self.kind == "container" else ()
        return (("docker", self.kind, "rm", *force, self.name),)

    def apply(self, engine: Engine) -> None:
        if self.kind == "network":
            others = (one for one in engine.containers() if one.role != TASK)
            endpoints = {member.name: member.endpoint(self.name) for member in others}
            connected = [name for name, end in endpoints.items() if end and end.network_id in ("", self.id)]
            if connected:
                raise in_use(self.name, connected)
        remove: dict[str, Callable[[str], None]] = {
            "container": engine.remove_container,
            "network": engine.remove_network,
            "volume": engine.remove_volume,
            "service": engine.remove_service,
            "config": engine.remove_config,
        }
        deadline = time.monotonic() + _RELEASE
        while True:
            try:
                remove[self.kind](self.id)
                break
            except EngineError as error:
                used = any(words in error.evidence for words in ("in use", "has active endpoints"))
                if not (used and self.released) or time.monotonic() > deadline:
                    raise
            time.sleep(1)
        while self.kind == "network" and self.released and time.monotonic() < deadline:
            if engine.network(self.name) is None:  # a node removes it after the manager
                break
            time.sleep(1)


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """Actions in order, with notes for the user."""

    actions: tuple[Action, ...]
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing has to change."""
        return not self.actions

    def commands(self) -> tuple[str, ...]:
        """The equivalent docker commands, to read or to paste."""
        return tuple(shlex.join(command) for action in self.actions for command in action.commands())

    def to_json(self) -> dict[str, Any]:
        """Each change with its docker commands, and the notes."""
        changes = [{"change": action.describe(), "commands": action.commands()} for action in self.actions]
        return {"changes": changes, "notes": self.notes}

    def table(self) -> Table:
        """One row for each action, in HTML with its docker commands; then the notes."""
        rows = tuple((item.describe(), "\n".join(map(_lines, item.commands()))) for item in self.actions)
        commands = Column("as docker commands", code=True, html_only=True, folded=True)
        notes, title = tuple(f"note: {note}" for note in self.notes), "" if rows else "nothing to change"
        return Table((Column("change"), commands), rows, title, notes)


def _lines(command: Command) -> str:
    """A command with a line for each option."""
    return " ".join(f"\\\n  {word}" if word[0] == "-" else word for word in map(shlex.quote, command))


def apply(plan: Plan, engine: Engine) -> None:
    """Run the actions in order.

    Raises:
        EngineError: The engine refused one; completed actions stay, and the next plan continues after them.
    """
    for action in plan.actions:
        step(action.describe())
        action.apply(engine)


def moved_image(name: str, old: str, new: str) -> str:
    """A change of the image, by ids or digests, in words."""
    return f"image: {name} moved from {old[7:19]} to {new[7:19] or 'an image to pull or build'}"


def model_change(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """A change of the recorded model folder or its files, by the labels, in words; empty without one."""
    folder, wanted = (labels.get(objects.LABEL_MODEL, "") for labels in (old, new))
    if not folder or folder != wanted:
        return f"model: {folder} → {wanted}" if folder else ""
    same = old.get(objects.LABEL_FINGERPRINT) == new.get(objects.LABEL_FINGERPRINT)
    return "" if same else f"model: the files of {folder} changed"


def network_spec(network: SharedNetwork) -> objects.NetworkSpec:
    """The configured network as Docker creates it."""
    internal = bool(network.internal)
    return objects.NetworkSpec(network.name, network.driver, network.subnet, internal, network.encrypted)


def in_use(network: str, containers: list[str]) -> InUseError:
    """The error of a network that has these other containers."""
    return InUseError(
        f"network {network} is in use by {', '.join(sorted(containers))}",
        evidence="ragops disconnects only RAGFlow's containers and its own; "
        "a stopped container could not start again without the network",
        hint=f"ragops disconnect {min(containers)}, then try again",
    )
