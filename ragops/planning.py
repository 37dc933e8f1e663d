"""What has to change so that the engine has what was declared, and doing it.

:func:`plan_up` and :func:`plan_down` are pure: declaration and observation in, actions out.
:func:`apply` carries the actions of ``actions.py`` out, one after the other.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.actions import (
    Action,
    Connect,
    CreateNetwork,
    CreateVolume,
    Disconnect,
    Remove,
    RemoveNetwork,
    ReplaceContainer,
    RestartContainer,
    RunContainer,
    StartContainer,
    in_use,
    old_name,
)
from ragops.container import NetworkSpec
from ragops.errors import StackError
from ragops.ragflow.discovery import RagflowContainer, find, is_ragflow, joinable
from ragops.table import Column, Shown, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ragops.container import ContainerSpec
    from ragops.engine import Engine
    from ragops.stack import Network, Stack
    from ragops.state import ContainerState, NetworkState, VolumeState


@dataclass(frozen=True)
class Observed:
    """What the engine has at one moment."""

    networks: tuple[NetworkState, ...]
    containers: tuple[ContainerState, ...]
    volumes: tuple[VolumeState, ...]

    def network(self, name: str) -> NetworkState | None:
        """The network of that name."""
        return next((one for one in self.networks if one.name == name), None)

    def container(self, name: str) -> ContainerState | None:
        """The container of that name."""
        return next((one for one in self.containers if one.name == name), None)

    def members(self, network: str) -> tuple[ContainerState, ...]:
        """Containers, stopped ones too, that belong to a network."""
        return tuple(one for one in self.containers if one.endpoint(network))


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """Actions in order, and what the reader should know beside them."""

    actions: tuple[Action, ...]
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing has to change."""
        return not self.actions

    def commands(self) -> tuple[str, ...]:
        """The equivalent docker commands, to read or to paste."""
        return tuple(shlex.join(command) for action in self.actions for command in action.commands())

    def table(self) -> Table:
        """One row for each action, in HTML with its docker commands; then the notes."""
        rows = tuple(
            (action.describe(), "\n".join(shlex.join(command) for command in action.commands()))
            for action in self.actions
        )
        columns = (Column("change"), Column("as docker commands", code=True, html_only=True))
        title = "" if rows else "nothing to change"
        return Table(columns, rows, title, tuple(f"note: {note}" for note in self.notes))


def observe(engine: Engine) -> Observed:
    """Look at everything once, without changing anything."""
    return Observed(engine.networks(), engine.containers(), engine.volumes())


def apply(plan: Plan, engine: Engine, told: Callable[[Action], None] = lambda _: None) -> None:
    """Carry a plan out.

    Args:
        plan: The actions, in order.
        engine: Where.
        told: Called with each action before it is done.

    Raises:
        EngineError: The engine refused one; those before it stay done, the next
            :func:`plan_up` goes on from there.
    """
    for action in plan.actions:
        told(action)
        action.apply(engine)


def plan_up(stack: Stack, spec: ContainerSpec, image_id: str, observed: Observed) -> Plan:
    """What has to be done so that the reranker runs and RAGFlow reaches it.

    Args:
        stack: What is declared.
        spec: The reranker's container, as ``vllm.launch`` makes it.
        image_id: The image that ``spec.image`` names at this moment.
        observed: What the engine has.

    Raises:
        StackError: A name is taken by something that is not ours, or the network that exists
            differs from the declared one.
        RagflowError: RAGFlow's container is missing, ambiguous, or can't join a network.
    """
    network = observed.network(stack.network.name)
    members = [joinable(one) for one in find(observed.containers, stack.ragflow)]
    actions = [
        *_network_actions(stack.network, network),
        *_volume_actions(spec, observed),
        *_reranker_actions(spec, image_id, network, observed),
        *(action for one in members for action in _connect_actions(one, stack.network, network)),
    ]
    return Plan(tuple(actions), tuple(_notes(stack, network, members)))


def plan_connect(found: RagflowContainer, network: NetworkState) -> Plan:
    """What joins one container to a network that exists; empty when it is there already.

    Raises:
        RagflowError: Docker can't connect it to any network.
    """
    joinable(found)
    wanted = _connect(found, network.name, internal=network.internal)
    return Plan(tuple(_joining(found.container, network, wanted)))


def plan_down(stack: Stack, spec_volumes: tuple[str, ...], observed: Observed) -> Plan:
    """What takes the stack away again: only what carries our label, and RAGFlow out of its network.

    RAGFlow's containers leave the network whether they run or not: one that is stopped could not
    start again without it. Whoever else is in it was put there by somebody who is to decide.

    Raises:
        InUseError: Containers that are neither RAGFlow's nor ours are in the network, running or stopped.
    """
    own = stack.reranker.name
    names = (own, old_name(own), *(f"{own}-tune-{slot}" for slot in "ab"))
    rerankers = [one for one in map(observed.container, names) if one is not None and one.ours]
    network = observed.network(stack.network.name)
    actions: list[Action] = [Remove("container", one.name, one.id) for one in rerankers]
    if network is not None and network.ours:
        others = [one for one in observed.members(network.name) if one not in rerankers]
        if strangers := [one.name for one in others if not _known(one, stack)]:
            raise in_use(network.name, strangers)
        actions += [Disconnect(network.name, one.name) for one in others]
        actions.append(RemoveNetwork(network.name, network.id))
    ours = {one.name for one in observed.volumes if "org.ragops" in one.labels}
    actions += [Remove("volume", name, name) for name in spec_volumes if name in ours]
    return Plan(tuple(actions))


def plan_purge(observed: Observed) -> Plan:
    """What takes everything of ours away, whatever stack or demo it belongs to.

    Strangers leave our networks too, running or stopped, so that each of them can be started again.
    """
    containers = [one for one in observed.containers if one.ours]
    networks = [one for one in observed.networks if one.ours]
    strangers = [
        Disconnect(network.name, one.name)
        for network in networks
        for one in observed.members(network.name)
        if not one.ours
    ]
    return Plan(
        (
            *(Remove("container", one.name, one.id) for one in containers),
            *strangers,
            *(RemoveNetwork(one.name, one.id) for one in networks),
            *(Remove("volume", one.name, one.name) for one in observed.volumes if "org.ragops" in one.labels),
        )
    )


def network_spec(network: Network) -> NetworkSpec:
    """The declared network as it is asked of the engine."""
    return NetworkSpec(network.name, network.driver, network.subnet, network.internal)


def differences(declared: Network, network: NetworkState) -> tuple[str, ...]:
    """In what a network that exists is not as declared."""
    rows = (
        ("driver", network.driver, declared.driver),
        ("internal", network.internal, declared.internal),
        ("subnet", ", ".join(network.subnets), declared.subnet),
    )
    return tuple(
        f"{what} is {has}, declared {wants}"
        for what, has, wants in rows
        if wants is not None and wants != has
    )


def moves_route(container: ContainerState, network: str, *, internal: bool) -> bool:
    """Whether joining the network would take over the container's default route.

    The engine gives it to the network whose name sorts first, internal ones left out.
    """
    names = [one.network for one in container.endpoints]
    return not internal and bool(names) and network < min(names)


def _known(container: ContainerState, stack: Stack) -> bool:
    """Whether ragops may take a container out of the network without asking."""
    return container.ours or is_ragflow(container) or container.name in stack.ragflow.containers


def _network_actions(declared: Network, network: NetworkState | None) -> Iterator[Action]:
    if network is None:
        yield CreateNetwork(network_spec(declared))
        return
    if differs := differences(declared, network):
        undo = "ragops down, then ragops up" if network.ours else f"docker network inspect {network.name}"
        raise StackError(
            f"network {network.name} exists and differs from its declaration",
            code="network-differs",
            evidence="\n".join(differs),
            hint=f"declare it as it is, or make it anew: {undo}",
        )


def _volume_actions(spec: ContainerSpec, observed: Observed) -> Iterator[Action]:
    there = {one.name for one in observed.volumes}
    for mount in spec.mounts:
        if mount.kind == "volume" and mount.source not in there:
            yield CreateVolume(mount.source)


def _reranker_actions(
    spec: ContainerSpec, image_id: str, network: NetworkState | None, observed: Observed
) -> Iterator[Action]:
    aside = observed.container(old_name(spec.name))
    if aside is not None and aside.ours:  # a replacement was killed half-way
        yield Remove("container", aside.name, aside.id)
    container = observed.container(spec.name)
    if container is None:
        yield RunContainer(spec)
        return
    if not container.ours:
        raise StackError(
            f"a container that ragops did not make is named {spec.name}",
            code="name-taken",
            evidence=f"image {container.image}, {container.status}",
            hint="remove or rename it, or set another name under [reranker]",
            container=spec.name,
        )
    if reason := _outdated(container, spec, image_id, network):
        yield ReplaceContainer(spec, reason)
        return
    if network is not None:
        yield from _joining(container, network, Connect(network.name, spec.name, aliases=spec.aliases))
    if not container.running:
        yield StartContainer(spec.name)
    elif container.health == "unhealthy":
        yield RestartContainer(spec.name, "it is unhealthy")


def _outdated(
    container: ContainerState, spec: ContainerSpec, image_id: str, network: NetworkState | None
) -> str:
    if container.config != spec.config_hash():
        return "its declaration changed"
    if container.image_id != image_id:
        return f"{spec.image} is another image now"
    if network is None:
        return "its network is gone"
    return ""


def _connect_actions(
    found: RagflowContainer, declared: Network, network: NetworkState | None
) -> Iterator[Action]:
    wanted = _connect(found, declared.name, internal=declared.internal)
    if network is not None:
        yield from _joining(found.container, network, wanted)
        return
    if found.container.endpoint(declared.name):  # it still remembers a network that is gone
        yield Disconnect(declared.name, found.name)
    yield wanted


def _connect(found: RagflowContainer, network: str, *, internal: bool) -> Connect:
    moves = moves_route(found.container, network, internal=internal)
    return Connect(network, found.name, "moves its default route: open connections break" if moves else "")


def _joining(container: ContainerState, network: NetworkState, wanted: Connect) -> Iterator[Action]:
    endpoint = container.endpoint(network.name)
    if endpoint is None:
        yield wanted
    elif endpoint.network_id not in ("", network.id):  # a network of that name that is gone
        yield Disconnect(network.name, container.name)
        yield wanted


def _notes(stack: Stack, network: NetworkState | None, members: list[RagflowContainer]) -> Iterator[str]:
    if network is not None and not network.ours:
        yield f"network {network.name} was not made by ragops: it is used, and never removed"
    if not members:
        yield "no RAGFlow container found: start RAGFlow, or a stand-in with: ragops demo up"
    for one in members:
        if one.demo:
            yield f"{one.name} is the demo client, a stand-in for RAGFlow"
    if stack.network.internal and stack.reranker.port:
        yield "the network is internal: nothing is published on this host"
