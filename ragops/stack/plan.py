"""Plans: the actions that bring the Docker engine to the configuration.

:func:`plan_up`, :func:`plan_connect`, :func:`plan_down` and :func:`plan_purge` are pure: they compare the
configuration with the observed state, and return a :class:`Plan`. Each action describes itself in words and
as docker commands; :func:`apply` runs them.
"""

from __future__ import annotations

import logging
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ragops.checks import ready
from ragops.docker.objects import (
    LABEL,
    LABEL_FINGERPRINT,
    LABEL_MODEL,
    SNAP,
    NetworkSpec,
    differences,
    moves_route,
)
from ragops.errors import EngineError, InUseError, StackError
from ragops.progress import step
from ragops.ragflow.discovery import RagflowContainer, check_connectable, find, is_ragflow
from ragops.table import Column, Shown, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ragops.configuration import Network, Stack
    from ragops.docker.engine import Engine
    from ragops.docker.objects import ContainerSpec, ContainerState, NetworkState, Observed, VolumeState

_log = logging.getLogger(__name__)

_MODEL = (LABEL_MODEL, LABEL_FINGERPRINT)

Command = tuple[str, ...]
_SETTLE = 1.0
"""Seconds until another process has read the networks that it may have created twice."""


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
class CreateNetwork(Action):
    """Create the network; of two that are created at once, one is removed.

    Docker 20.10 then has two networks of one name. The one with the smaller id waits for the other to be
    removed, and is removed itself if the other's creator did not read it.
    """

    spec: NetworkSpec
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
    command = f"docker volume create --label {LABEL}=cache {{name}}"

    def apply(self, engine: Engine) -> None:
        engine.create_volume(self.name, role="cache")


def _create(engine: Engine, spec: ContainerSpec, name: str) -> str:
    """Create a container, and read a file of its model through the engine; returns the container's id.

    Raises:
        EngineError: The engine refused, or sees another file system than this process.
    """
    container, folder = engine.create_container(spec, name), dict(spec.labels).get(LABEL_MODEL, "")
    mounted = [mount.target for mount in spec.mounts if mount.source == folder]
    if mounted and not engine.has_file(container, f"{mounted[0]}/config.json"):
        engine.remove_container(container)
        raise EngineError(
            f"the model folder {folder} is empty for the Docker engine",
            code="folder-empty",
            evidence="a container with this folder has no config.json in it",
            hint=f"{SNAP}: move the model there"
            if engine.state().hides(Path(folder))
            else "is the engine in a container, a virtual machine or on another host? copy the model there",
            container=name,
        )
    return container


@dataclass(frozen=True)
class RunContainer(Action):
    """Create a container and start it; it is removed if it does not start."""

    spec: ContainerSpec
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
class ReplaceContainer(Action):
    """Replace a reranker; the old container is kept until the new one has responded to a rerank.

    Without an ``obstacle`` the old one responds until then: the new one starts under another name, and both
    are renamed at the end. With one the old one is stopped first. After a failure it has its name and runs.
    """

    spec: ContainerSpec
    old: ContainerState
    reason: str
    obstacle: str = ""
    """Why the two containers cannot run at once."""
    ready_timeout: float = 600
    reached: bool = True
    """Whether RAGFlow reaches the old one."""

    def describe(self) -> str:
        effect = f"RAGFlow's calls fail while vLLM loads: {self.obstacle}"
        if not self.obstacle:
            effect = "the old container responds until the new one does"
        if not self.reached:
            effect = "RAGFlow does not reach the old container: its calls fail until the new one responds"
        return f"~ replace container {self.spec.name}: {self.reason} ({effect})"

    def commands(self) -> tuple[Command, ...]:
        name, (aside, temporary) = self.spec.name, self._names
        run, remove = self.spec.docker_command(), ("docker", "rm", "--force", aside)
        rename = ("docker", "rename", name, aside)
        if self.obstacle:
            return (rename, ("docker", "stop", aside), run, remove)
        first = tuple(temporary if word == name else word for word in run)
        return (first, rename, ("docker", "rename", temporary, name), ("docker", "stop", aside), remove)

    @property
    def _names(self) -> tuple[str, str]:
        """Names of the old and the new container meanwhile, unique by the old one's id."""
        name, digits = self.spec.name, self.old.id[:8]
        return f"{name}-old-{digits}", f"{name}-new-{digits}"

    def apply(self, engine: Engine) -> None:
        spec, old, (aside, temporary) = self.spec, self.old.id, self._names
        try:
            if self.obstacle:
                engine.rename(old, aside)
            name = spec.name if self.obstacle else temporary
            new = _create(engine, spec, name)
            if self.obstacle:
                engine.stop(old)
            engine.start(name)  # by name, so that an error names it
            ready.wait(engine, name, spec.served_name, self.ready_timeout)
            if not self.obstacle:
                engine.rename(old, aside)  # between the two, for 5 ms, no container has the name
                engine.rename(new, spec.name)
        except BaseException:
            self._restore(engine)
            raise
        if not self.obstacle:
            ready.drain(engine, old)
            engine.stop(old)
        engine.remove_container(old)

    def _restore(self, engine: Engine) -> None:
        """Remove the new container; the old one has its name again, and runs if it did."""
        try:
            for name in (self._names[1], self.spec.name):
                container = engine.container(name)
                if container and container.id != self.old.id and container.ours:
                    engine.remove_container(container.id)
            RestoreContainer(self.old, self.spec.name, start=self.old.running).apply(engine)
            _log.warning("the old container %s is kept", self.spec.name)
        except EngineError as error:
            _log.error("%s is not restored yet, ragops up does it: %s", self.spec.name, error.short)


@dataclass(frozen=True)
class RestoreContainer(Action):
    """Rename a reranker back to its configured name, and start it."""

    container: ContainerState
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
    command = "docker network connect {network} {container}"

    def describe(self) -> str:
        effect = " (moves its default route: open connections break)" if self.moves else ""
        return f"+ connect {self.container} to {self.network}{effect}"

    def apply(self, engine: Engine) -> None:
        engine.connect(self.network, self.container)


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

    kind: Literal["container", "network", "volume"]
    name: str
    id: str
    change = "- remove {kind} {name}"

    def commands(self) -> tuple[Command, ...]:
        force = ("--force",) if self.kind == "container" else ()
        return (("docker", self.kind, "rm", *force, self.name),)

    def apply(self, engine: Engine) -> None:
        if self.kind == "container":
            engine.remove_container(self.id)
        elif self.kind == "volume":
            engine.remove_volume(self.id)
        else:
            endpoints = {member.name: member.endpoint(self.name) for member in engine.containers()}
            connected = [name for name, end in endpoints.items() if end and end.network_id in ("", self.id)]
            if connected:
                raise _in_use(self.name, connected)
            engine.remove_network(self.id)


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
        rows = tuple(
            (action.describe(), "\n".join(map(shlex.join, action.commands()))) for action in self.actions
        )
        columns = (Column("change"), Column("as docker commands", code=True, html_only=True))
        title = "" if rows else "nothing to change"
        return Table(columns, rows, title, tuple(f"note: {note}" for note in self.notes))


def apply(plan: Plan, engine: Engine) -> None:
    """Run the actions in order.

    Raises:
        EngineError: The engine refused one; completed actions stay, and the next plan continues after them.
    """
    for action in plan.actions:
        step(action.describe())
        action.apply(engine)


def plan_up(stack: Stack, spec: ContainerSpec, observed: Observed, free_memory: int = 0) -> Plan:
    """The actions after which the reranker runs and RAGFlow reaches it.

    ``free_memory`` in bytes is what a second reranker may take while the first one runs.

    Raises:
        StackError: A name belongs to an object that ragops did not create, or the network exists and
            differs from its configuration.
        RagflowError: RAGFlow's container is missing, ambiguous, or can't join a network.
    """
    network = observed.network(stack.network.name)
    servers = [check_connectable(ragflow) for ragflow in find(observed.containers, stack.ragflow)]
    volumes = {volume.name for volume in observed.volumes}
    mounted = [mount.source for mount in spec.mounts if mount.kind == "volume"]
    actions = list(_network_actions(stack.network, network))
    actions += [CreateVolume(name) for name in mounted if name not in volumes]
    internal = network.internal if network else bool(stack.network.internal)
    connections = [
        action
        for ragflow in servers
        for action in _ragflow_actions(ragflow, stack.network.name, network, internal=internal)
    ]
    actions += _reranker_actions(stack, spec, observed, free_memory, reached=not connections)
    actions += connections
    return Plan(tuple(actions), tuple(_notes(stack, spec, network, servers)))


def plan_connect(ragflow: RagflowContainer, network: NetworkState) -> Plan:
    """The actions that connect a container to an existing network; empty if it is connected.

    Raises:
        RagflowError: Docker can't connect it to any network.
    """
    check_connectable(ragflow)
    return Plan(tuple(_ragflow_actions(ragflow, network.name, network, internal=network.internal)))


def plan_down(stack: Stack, observed: Observed) -> Plan:
    """The actions that remove the stack: objects with the ragops label, and RAGFlow's connections.

    RAGFlow's containers are disconnected also when they are stopped: Docker cannot start a container
    whose network is gone.

    Raises:
        InUseError: Containers that are neither RAGFlow's nor ours are connected, running or stopped.
    """
    own = stack.reranker.name
    names = (own, f"{own}-tune-a", f"{own}-tune-b")
    tuned = [container for container in map(observed.container, names[1:]) if container and container.ours]
    rerankers = [*observed.rerankers(own), *tuned]
    networks = [item for item in observed.networks if item.name == stack.network.name and item.ours]
    foreign = [
        member.name
        for member in observed.members(stack.network.name)
        if not (member.ours or is_ragflow(member) or member.name in stack.ragflow.containers)
    ]
    if networks and foreign:
        raise _in_use(stack.network.name, foreign)
    caches = {f"{name}-{kind}" for name in names for kind in ("compiled", "cache")}
    volumes = [volume for volume in observed.volumes if volume.name in caches]
    return _removal(observed, rerankers, networks, volumes)


def plan_purge(observed: Observed) -> Plan:
    """The actions that remove every object with the ragops label, of all stacks and demos.

    Other containers are disconnected from these networks, running or stopped, so that they can start again.
    """
    containers = [container for container in observed.containers if container.ours]
    networks = [network for network in observed.networks if network.ours]
    return _removal(observed, containers, networks, observed.volumes)


def network_spec(network: Network) -> NetworkSpec:
    """The configured network as Docker creates it."""
    return NetworkSpec(network.name, network.driver, network.subnet, bool(network.internal))


def _in_use(network: str, containers: list[str]) -> InUseError:
    return InUseError(
        f"network {network} is in use by {', '.join(sorted(containers))}",
        evidence="ragops disconnects only RAGFlow's containers and its own; "
        "a stopped container could not start again without the network",
        hint=f"ragops disconnect {min(containers)}, then try again",
    )


def _removal(
    observed: Observed,
    containers: Sequence[ContainerState],
    networks: Sequence[NetworkState],
    volumes: Sequence[VolumeState],
) -> Plan:
    """Remove containers, networks and own volumes; disconnect the other containers of the networks first."""
    actions: list[Action] = [Remove("container", container.name, container.id) for container in containers]
    for network in networks:
        others = [member for member in observed.members(network.name) if member not in containers]
        actions += [Disconnect(network.name, member.name) for member in others]
    actions += [Remove("network", network.name, network.id) for network in networks]
    actions += [Remove("volume", volume.name, volume.name) for volume in volumes if LABEL in volume.labels]
    return Plan(tuple(actions))


def _network_actions(configured: Network, network: NetworkState | None) -> Iterator[Action]:
    if network is None:
        yield CreateNetwork(network_spec(configured))
        return
    if differing := differences(configured, network):
        undo = "ragops down, then ragops up" if network.ours else f"docker network inspect {network.name}"
        raise StackError(
            f"network {network.name} exists and differs from its configuration",
            code="network-differs",
            evidence="\n".join(differing),
            hint=f"configure it as it is, or recreate it: {undo}",
        )


def _reranker_actions(
    stack: Stack, spec: ContainerSpec, observed: Observed, free_memory: int, *, reached: bool
) -> Iterator[Action]:
    network, container = observed.network(stack.network.name), observed.container(spec.name)
    if container is not None and not container.ours:
        raise StackError(
            f"container {spec.name} was not created by ragops",
            code="name-taken",
            evidence=f"image {container.image}, {container.status}",
            hint="remove or rename it, or set another name under [reranker]",
            container=spec.name,
        )
    kept = _kept(container, spec.name, observed)
    old = kept or container
    for other in observed.rerankers(spec.name):
        if other is not old and _is_temporary(other.name, spec.name):
            yield Remove("container", other.name, other.id)
    if kept:
        yield RestoreContainer(kept, spec.name)
    if old is None:
        yield RunContainer(spec)
    elif reason := outdated(old, spec) or ("" if network else "its network is gone"):
        obstacle = _obstacle(old, spec, free_memory)
        running = replace(old, status="running") if kept else old
        reached = reached and _is_connected(old, network)
        yield ReplaceContainer(spec, running, reason, obstacle, stack.reranker.ready_timeout, reached)
    else:
        if network is not None:
            yield from _connection_actions(old, Connect(network.name, spec.name), network)
        others = (endpoint.network for endpoint in old.endpoints if endpoint.network != spec.network)
        yield from (Disconnect(name, spec.name) for name in others)
        if not (old.running or kept):
            yield StartContainer(spec.name)
        elif old.health == "unhealthy":
            yield RestartContainer(spec.name, "it is unhealthy", spec.served_name)


def _is_temporary(container: str, name: str) -> bool:
    return container == name or container.startswith((f"{name}-old", f"{name}-new-"))


def _kept(container: ContainerState | None, name: str, observed: Observed) -> ContainerState | None:
    """What an interrupted replacement kept, if the new one is not healthy; else a renamed reranker."""
    others = [other for other in observed.rerankers(name) if other.name != name]
    kept = [other for other in others if other.name.startswith(f"{name}-old")]
    if container is None:
        kept += [other for other in others if not _is_temporary(other.name, name)]
    healthy = container and container.running and container.health == "healthy"
    return kept[0] if kept and not healthy else None


def outdated(container: ContainerState, spec: ContainerSpec) -> str:
    """Why a container has to be replaced; empty when it need not."""
    labels, recorded = dict(spec.labels), container.labels
    if container.image_id != spec.image_id:
        return moved_image(spec.image, container.image_id, spec.image_id)
    model = (*(recorded.get(name, "") for name in _MODEL), *(labels.get(name, "") for name in _MODEL))
    if change := changed_model(*model):
        return change
    if container.config != spec.config_hash():
        return "its configuration changed"
    if changed := spec.updated(container):
        return f"docker update changed {', '.join(changed)}"
    return ""


def moved_image(name: str, old: str, new: str) -> str:
    """A change of the image, by ids or digests, in words."""
    return f"image: {name} moved from {old[7:19]} to {new[7:19] or 'an image to pull or build'}"


def changed_model(old: str, old_fingerprint: str, new: str, new_fingerprint: str) -> str:
    """A change of the recorded model folder or its files, in words; empty without one."""
    if old and old != new:
        return f"model: {old} → {new}"
    return f"model: the files of {old} changed" if old and old_fingerprint != new_fingerprint else ""


def _obstacle(old: ContainerState, spec: ContainerSpec, free_memory: int) -> str:
    """Why a new container cannot run beside the old one; empty when it can."""
    if old.status != "running" or old.health == "unhealthy":
        return f"the old container is {old.health if old.running else old.status}"
    ports = {port for _, port, _ in old.published} & {port for _, port, _ in spec.publish}
    if ports:
        return f"both publish port {min(ports)}"
    if spec.memory > free_memory:
        return f"the new container may take {spec.memory >> 20} MiB, {free_memory >> 20} are free"
    return ""


def _ragflow_actions(
    ragflow: RagflowContainer, name: str, network: NetworkState | None, *, internal: bool
) -> Iterator[Action]:
    moves = moves_route(ragflow.container, name, internal=internal)
    return _connection_actions(ragflow.container, Connect(name, ragflow.name, moves), network)


def _connection_actions(
    container: ContainerState, connect: Connect, network: NetworkState | None
) -> Iterator[Action]:
    if _is_connected(container, network):
        return
    if container.endpoint(connect.network):
        yield Disconnect(connect.network, container.name)  # from a removed network of that name
    yield connect


def _is_connected(container: ContainerState, network: NetworkState | None) -> bool:
    """Whether a container is in this very network; a stopped one may not have its id yet."""
    endpoint = container.endpoint(network.name) if network else None
    return bool(network and endpoint and endpoint.network_id in ("", network.id))


def _notes(
    stack: Stack, spec: ContainerSpec, network: NetworkState | None, servers: list[RagflowContainer]
) -> Iterator[str]:
    if network is not None and not network.ours:
        yield f"network {network.name} was not created by ragops: it is used, and never removed"
    if not servers:
        yield "no RAGFlow container found: start RAGFlow, or the demo client with: ragops demo up"
    for ragflow in servers:
        if ragflow.demo:
            yield f"{ragflow.name} is the demo client, a substitute for RAGFlow"
    internal = network.internal if network else stack.network.internal
    if stack.reranker.port and (internal or not spec.publish):
        older = "on a Docker engine before 28 other machines reach published ports"
        reason = "the network is internal" if internal else older
        yield f"port {stack.reranker.port} is not published: {reason}; ragops status has another address"
