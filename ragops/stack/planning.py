"""The changes of ``up``, ``connect`` and ``down``: the configuration against the observed state; pure.

:func:`plan_up` compares each configured name with the container that has it. The order of its actions keeps
RAGFlow's calls served: what is new starts first, then one container after another is replaced, and what is
left over is removed at the end.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from ragops.configuration import SharedNetwork, Stack
from ragops.docker import objects
from ragops.docker.swarm import TASK, SwarmState
from ragops.errors import StackError
from ragops.ragflow.discovery import RagflowContainer, check_connectable, find, is_ragflow
from ragops.reranker.gateway import ROLE
from ragops.reranker.options import PORT
from ragops.stack import plan
from ragops.stack.scale import Placement, PlaceService


@dataclass(frozen=True)
class Wanted:
    """The containers of a stack."""

    replicas: tuple[objects.ContainerSpec, ...]
    """Of vLLM; without a gateway the one that has the stack's name."""
    gateway: objects.ContainerSpec | None = None
    check: plan.ScoreCheck | None = None
    """Of the scores behind a gateway; None where they are known."""
    placed: tuple[PlaceService, ...] = ()
    """Services of Docker Swarm, which has the replicas then."""

    @property
    def front(self) -> objects.ContainerSpec:
        """The container that has the stack's name."""
        return self.gateway or self.replicas[0]

    @property
    def slots(self) -> tuple[objects.ContainerSpec, ...]:
        """All containers, the front first."""
        return (self.gateway, *self.replicas) if self.gateway else self.replicas


def plan_up(
    stack: Stack,
    wanted: Wanted,
    observed: objects.Observed,
    free_memory: int = 0,
    swarm: SwarmState | None = None,
    node: str = "",
) -> plan.Plan:
    """The actions after which the reranker runs and RAGFlow reaches it.

    ``free_memory`` in bytes is what another container of vLLM may take while the present ones run. ``node``
    is the engine's id in the ``swarm``, if it manages one.

    Raises:
        StackError: A name belongs to an object that ragops did not create, or the network exists and
            differs from its configuration.
        RagflowError: RAGFlow's container is missing, ambiguous, or can't join a network.
    """
    network = observed.network(stack.shared_network.name)
    servers = [check_connectable(ragflow) for ragflow in find(observed.containers, stack.ragflow)]
    volumes = {volume.name for volume in observed.volumes}
    mounts = [mount for spec in wanted.slots for mount in spec.mounts if mount.kind == "volume"]
    actions = list(_network_actions(stack.shared_network, network))
    missing = dict.fromkeys(mount.source for mount in mounts if mount.source not in volumes)
    actions += map(plan.CreateVolume, missing)
    internal = network.internal if network else bool(stack.network.internal)
    connections = [
        action
        for ragflow in servers
        for action in _ragflow_actions(ragflow, stack.shared_network.name, network, internal=internal)
    ]
    placement = Placement(stack, observed, swarm, node, wanted.placed, free_memory)
    actions += (first := tuple(placement.before(wanted.replicas)))
    gone = {action.id for action in first if isinstance(action, plan.Remove)}
    observed = replace(observed, containers=tuple(one for one in observed.containers if one.id not in gone))
    changes = _Changes(stack, wanted, observed, free_memory, reached=bool(wanted.gateway or not connections))
    actions += changes.before()
    actions += connections if wanted.gateway else []
    actions += placement.services()
    actions += changes.replacements()
    actions += [] if wanted.gateway else connections
    actions += changes.removals()
    actions += placement.after()
    actions += _leave(stack, observed, servers)
    # A container may be removed early, and also as no longer needed.
    actions = [a for n, a in enumerate(actions) if not isinstance(a, plan.Remove) or a not in actions[:n]]
    return plan.Plan(tuple(actions), tuple(_notes(stack, wanted.front, network, servers)))


def plan_connect(ragflow: RagflowContainer, network: objects.NetworkState) -> plan.Plan:
    """The actions that connect a container to an existing network; empty if it is connected.

    Raises:
        RagflowError: Docker can't connect it to any network.
    """
    check_connectable(ragflow)
    return plan.Plan(tuple(_ragflow_actions(ragflow, network.name, network, internal=network.internal)))


def _leave(
    stack: Stack, observed: objects.Observed, servers: Sequence[RagflowContainer]
) -> Iterator[plan.Action]:
    """The end of the stack's other network, after a move to a Swarm or from it, if nothing else is in it."""
    name = stack.network.name if stack.swarm else stack.overlay
    network = observed.network(name)
    names = {server.name for server in servers}
    own = {container.name for container in observed.stack(stack.reranker.name)}
    members = [member for member in observed.members(name) if member.role != TASK]
    if network is None or not network.ours or any(member.name not in names | own for member in members):
        return
    yield from (plan.Disconnect(name, member.name) for member in members if member.name in names)
    yield plan.Remove("network", name, network.id, released=True)


def plan_down(stack: Stack, observed: objects.Observed, swarm: SwarmState | None = None) -> plan.Plan:
    """The actions that remove the stack: objects with the ragops label, and RAGFlow's connections.

    RAGFlow's containers are disconnected also when they are stopped: Docker cannot start a container
    whose network is gone.

    Raises:
        InUseError: Containers that are neither RAGFlow's nor ours are connected, running or stopped.
    """
    own = stack.reranker.name
    names = (own, f"{own}-tune-a", f"{own}-tune-b")
    tuned = [container for container in map(observed.container, names[1:]) if container and container.ours]
    rerankers = [*observed.stack(own), *tuned]
    networks = [item for item in observed.networks if item.name in _networks(stack, observed) and item.ours]
    shared = {  # with another stack, which keeps RAGFlow in it
        end.network
        for one in observed.containers
        for end in one.endpoints
        if one.ours and one.labels.get(objects.LABEL_STACK, own) != own
    }
    networks = [network for network in networks if network.name not in shared]
    for network in networks:
        foreign = [
            member.name
            for member in observed.members(network.name)
            if not (member.ours or is_ragflow(member) or member.name in stack.ragflow.containers)
        ]
        if foreign:
            raise plan.in_use(network.name, foreign)
    caches = {f"{name}-{kind}" for name in names for kind in ("compiled", "cache")}
    volumes = [volume for volume in observed.volumes if volume.name in caches]
    placement = Placement(stack, observed, swarm, "")
    return _removal(observed, rerankers, networks, volumes, tuple(placement.after()))


def _networks(stack: Stack, observed: objects.Observed) -> set[str]:
    """Networks of a stack: the other one is of an interrupted move to a Swarm or from it."""
    other = stack.network.name if stack.swarm else stack.overlay
    used = any(container.endpoint(other) for container in observed.stack(stack.reranker.name))
    return {stack.shared_network.name, *([other] if used else [])}


def plan_purge(
    observed: objects.Observed, swarm: SwarmState | None = None, stacks: Collection[str] = ()
) -> plan.Plan:
    """The actions that remove every object with the ragops label, of all stacks and demos.

    Other containers are disconnected from these networks, running or stopped, so that they can start again.
    Services in a Swarm are of ``stacks``, or of stacks with a container here: others are another manager's.
    """
    containers = [container for container in observed.containers if container.ours and container.role != TASK]
    own = {*stacks, *(container.labels.get(objects.LABEL_STACK) for container in containers)}
    present = swarm.services if swarm else ()
    others = [service for service in present if service.labels.get(objects.LABEL_STACK) not in own]
    used = {name for service in others for name in (*service.networks, *service.configs)}
    networks = [item for item in observed.networks if item.ours and not {item.id, item.name} & used]
    services = [plan.Remove("service", item.name, item.id) for item in present if item not in others]
    files = swarm.configs.items() if swarm else ()
    configs = [plan.Remove("config", *file) for file in files if file[0] not in used]
    return _removal(observed, containers, networks, observed.volumes, (*services, *configs))


def _removal(
    observed: objects.Observed,
    containers: Sequence[objects.ContainerState],
    networks: Sequence[objects.NetworkState],
    volumes: Sequence[objects.VolumeState],
    placed: Sequence[plan.Action],
) -> plan.Plan:
    """Remove containers, networks and own volumes; disconnect the other containers of the networks first."""
    actions = list(placed)
    actions += [plan.Remove("container", container.name, container.id) for container in containers]
    for network in networks:
        others = [member for member in observed.members(network.name) if member not in containers]
        others = [member for member in others if member.role != TASK]
        actions += [plan.Disconnect(network.name, member.name) for member in others]
    released, own = bool(placed), [volume.name for volume in volumes if volume.ours]
    actions += [plan.Remove("network", network.name, network.id, released=released) for network in networks]
    actions += [plan.Remove("volume", name, name, released=released) for name in own]
    return plan.Plan(tuple(actions))


def _network_actions(
    configured: SharedNetwork, network: objects.NetworkState | None
) -> Iterator[plan.Action]:
    if network is None:
        yield plan.CreateNetwork(plan.network_spec(configured))
        return
    if differing := objects.differences(configured, network):
        undo = "ragops down, then ragops up" if network.ours else f"docker network inspect {network.name}"
        raise StackError(
            f"network {network.name} exists and differs from its configuration",
            code="network-differs",
            evidence="\n".join(differing),
            hint=f"configure it as it is, or recreate it: {undo}",
        )


@dataclass(frozen=True)
class _Slot:
    """A configured container, and what has its name or is left of an interrupted change."""

    spec: objects.ContainerSpec
    container: objects.ContainerState | None
    """The one that has the name, or gets it back."""
    kept: bool
    """Whether the container was renamed, and gets its name back."""
    left: tuple[objects.ContainerState, ...]
    """Of an interrupted change."""

    @classmethod
    def of(cls, spec: objects.ContainerSpec, stack: Stack, observed: objects.Observed) -> "_Slot":
        name, members = spec.name, observed.stack(stack.reranker.name)
        holder = observed.container(name)
        if holder is not None and holder not in members:
            raise StackError(
                f"container {name} was not created by ragops for this stack",
                code="name-taken",
                evidence=f"image {holder.image}, {holder.status}",
                hint="remove or rename it, or set another name under [reranker]",
                container=name,
            )
        others = [other for other in members if other.name != name and _slot_name(other, stack) == name]
        kept = _kept(holder, name, others)
        left = (holder, *others) if kept else others
        temporary = [one for one in left if one and one is not kept and _is_temporary(one.name, name)]
        return cls(spec, kept or holder, kept is not None, tuple(temporary))

    @property
    def migrates(self) -> bool:
        """Whether vLLM takes the place of a gateway, or a gateway that of vLLM."""
        return self.container is not None and self.container.role != self.spec.role


class _Changes:
    """The actions for the containers of a stack, in the order in which they are to run."""

    def __init__(
        self, stack: Stack, wanted: Wanted, observed: objects.Observed, free_memory: int, *, reached: bool
    ) -> None:
        self._stack, self._wanted, self._free, self._reached = stack, wanted, free_memory, reached
        self._network = observed.network(stack.shared_network.name)
        own = (stack.network.name, stack.overlay)
        self._networks = {"", *(item.id for item in observed.networks if item.name in own)}
        slots = [_Slot.of(spec, stack, observed) for spec in wanted.slots]
        self._front, self._replicas = slots[0], slots[1:] if wanted.gateway else slots
        self._migrates = wanted.gateway is not None and self._front.migrates
        self._late = self._replicas[1:] if self._migrates else []
        """Replicas that start when the gateway has replaced vLLM, which has their CPUs."""
        names = {spec.name for spec in wanted.slots}
        members = observed.stack(stack.reranker.name)
        self._extra = [one for one in members if _slot_name(one, stack) not in names]
        self._no_room = bool(self._migrates and self._replicas) and self._has_no_room(self._replicas[0])

    def before(self) -> Iterator[plan.Action]:
        """What interrupts nothing: leftovers are removed, containers start and are connected."""
        for slot in self._replicas if self._wanted.gateway is None else (*self._replicas, self._front):
            yield from (plan.Remove("container", other.name, other.id) for other in slot.left)
            if slot in self._late:
                continue
            if self._no_room and slot is self._replicas[0]:
                if slot.container is not None:
                    yield plan.Remove("container", slot.container.name, slot.container.id)
                continue
            yield from self._present(slot)

    def replacements(self) -> Iterator[plan.Action]:
        """One container after another; scores are checked before the gateway needs them."""
        present = [] if self._no_room else [slot for slot in self._replicas if slot not in self._late]
        current = [slot.spec for slot in present if self._stays(slot)]
        if self._wanted.check and current:
            yield plan.CheckScores(current[0], self._wanted.check, self._stack.reranker.ready_timeout)
        servers = self._stack.servers
        if self._wanted.check and servers and self._stays(self._front):
            timeout = self._stack.reranker.ready_timeout
            yield plan.CheckScores(self._front.spec, self._wanted.check, timeout, servers)
        front = [self._front] if self._wanted.gateway else []
        serves = self._front.container is not None and self._front.container.serves
        for slot in (*present, *front) if serves else (*front, *present):
            if slot.container is not None and not self._stays(slot):
                yield self._replacement(slot, slot.container, [spec.name for spec in current])
                current += [slot.spec] if slot is not self._front else []
        for slot in self._late:
            yield from self._present(slot)
            if slot.container is not None and not self._stays(slot):
                yield self._replacement(slot, slot.container, [self._replicas[0].spec.name])

    def removals(self) -> Iterator[plan.Action]:
        """Containers that are no longer configured."""
        return (plan.Remove("container", extra.name, extra.id) for extra in self._extra)

    def _has_no_room(self, first: _Slot) -> bool:
        """Whether vLLM has to stop before the first replica of the gateway that replaces it can run."""
        old, running = self._front.container, first.container is not None and first.container.running
        if old is None or not (old.running or self._front.kept) or self._is_proved(first):
            return False
        if running and self._stays(first) and not self._front.kept:
            return False  # both run already
        needed = first.spec.memory + (0 if old.running else old.memory)
        return needed > self._free

    def _is_proved(self, first: _Slot) -> bool:
        """Whether the first replica responds, and its scores are known."""
        container = first.container
        serves = container is not None and container.running and container.health == "healthy"
        return serves and self._stays(first) and self._wanted.check is None

    def _reason(self, slot: _Slot) -> str:
        """Why a container has to be replaced; empty when it need not."""
        if slot.container is None:
            return ""
        if slot.migrates:
            return "the gateway takes its place" if self._wanted.gateway else "vLLM takes the gateway's place"
        return outdated(slot.container, slot.spec) or ("" if self._network else "its network is gone")

    def _stays(self, slot: _Slot) -> bool:
        return not self._reason(slot)

    def _restarts(self, slot: _Slot, container: objects.ContainerState) -> bool:
        """Whether a container that gets its name back is started: not where its replica has its memory."""
        is_replaced = self._migrates and slot is self._front and bool(self._replicas)
        is_replaced = is_replaced and self._is_proved(self._replicas[0])
        return container.running or not is_replaced or container.memory <= self._free

    def _present(self, slot: _Slot) -> Iterator[plan.Action]:
        """The actions for a container that is not replaced; of one that is, its name is restored."""
        spec, container, network = slot.spec, slot.container, self._network
        if container is None:
            yield plan.RunContainer(spec)
            return
        if slot.kept:
            yield plan.RestoreContainer(container, spec.name, start=self._restarts(slot, container))
        if not self._stays(slot):
            return
        if network is not None:
            connect = plan.Connect(network.name, spec.name, aliases=spec.aliases)
            yield from _connection_actions(container, connect, network)
        others = (endpoint.network for endpoint in container.endpoints if endpoint.network != spec.network)
        yield from (plan.Disconnect(name, spec.name) for name in others)
        if not (container.running or slot.kept):
            yield plan.StartContainer(spec.name)
        elif container.health == "unhealthy":
            yield plan.RestartContainer(spec.name, "it is unhealthy", spec.served_name)

    def _replacement(
        self, slot: _Slot, old: objects.ContainerState, current: Sequence[str]
    ) -> plan.ReplaceContainer:
        """The replacement of a container; ``current`` are the replicas that are as configured by then."""
        timeout, check = self._stack.reranker.ready_timeout, self._wanted.check
        restarted = slot.kept and self._restarts(slot, old)
        made = plan.ReplaceContainer(
            slot.spec,
            replace(old, status="running") if restarted else old,
            self._reason(slot),
            _obstacle(old, slot.spec, self._free),
            plan.Proof(timeout),
            self._reached and any(end.network_id in self._networks for end in old.endpoints),
            overlay=self._stack.swarm is not None or old.endpoint(self._stack.overlay) is not None,
        )
        if slot is self._front and self._wanted.gateway:
            names = tuple(slot.spec.name for slot in self._replicas if slot not in self._late)
            made = replace(
                made,
                proof=plan.Proof(
                    timeout,
                    check,
                    replicas=names if self._migrates or old.serves else (),
                    servers=self._stack.servers
                    or ((f"{self._stack.replicas_alias}:{PORT}",) if self._stack.swarm else ()),
                ),
            )
            if not self._replicas:
                return made
            first = self._replicas[0].spec
            return replace(made, first=first, obstacle=_short(first, self._free)) if self._no_room else made
        if self._wanted.gateway:
            gateway = "" if self._migrates and slot not in self._late else self._stack.reranker.name
            others = self._others(slot, current) if gateway and made.obstacle else ()
            return replace(made, proof=plan.Proof(timeout, check, gateway), others=others)
        stopped = self._extra if slot.migrates and slot.spec.memory > self._free else []
        return replace(made, stopped=tuple(stopped))

    def _others(self, slot: _Slot, current: Sequence[str]) -> tuple[str, ...]:
        """The replicas that respond while one is replaced; none without scores to admit them by."""
        check = self._wanted.check
        if current or (check and not check.file.exists()):
            return tuple(current)
        present = [one.container for one in self._replicas if one is not slot] + self._extra
        return tuple(one.name for one in present if one and one.serves)


def _short(spec: objects.ContainerSpec, free_memory: int) -> str:
    return f"the new container may take {spec.memory >> 20} MiB, {free_memory >> 20} are free"


def _slot_name(container: objects.ContainerState, stack: Stack) -> str:
    """The configured name of a container, which may have another while it is replaced."""
    return container.labels.get(objects.LABEL_NAME, stack.reranker.name)


def _is_temporary(container: str, name: str) -> bool:
    return container == name or container.startswith((f"{name}-old", f"{name}-new-"))


def _kept(
    container: objects.ContainerState | None, name: str, others: Sequence[objects.ContainerState]
) -> objects.ContainerState | None:
    """What an interrupted replacement kept, if the new one is not healthy; else a renamed reranker."""
    kept = [other for other in others if other.name.startswith(f"{name}-old")]
    if container is None:
        kept += [other for other in others if not _is_temporary(other.name, name)]
    healthy = container and container.running and container.health == "healthy"
    return kept[0] if kept and not healthy else None


def outdated(container: objects.ContainerState, spec: objects.ContainerSpec) -> str:
    """Why a container has to be replaced; empty when it need not."""
    if container.image_id != spec.image_id:
        return plan.moved_image(spec.image, container.image_id, spec.image_id)
    if change := plan.model_change(container.labels, dict(spec.labels)):
        return change
    if container.config != spec.config_hash():
        return "its configuration changed"
    if changed := spec.updated(container):
        return f"docker update changed {', '.join(changed)}"
    return ""


def _obstacle(old: objects.ContainerState, spec: objects.ContainerSpec, free_memory: int) -> str:
    """Why a new container cannot run beside the old one; empty when it can."""
    if old.status != "running" or old.health == "unhealthy":
        return f"the old container is {old.health if old.running else old.status}"
    ports = {port for _, port, _ in old.published} & {port for _, port, _ in spec.publish}
    if ports:
        return f"both publish port {min(ports)}"
    if spec.role != ROLE and spec.memory > free_memory:
        return _short(spec, free_memory)
    return ""


def _ragflow_actions(
    ragflow: RagflowContainer, name: str, network: objects.NetworkState | None, *, internal: bool
) -> Iterator[plan.Action]:
    moves = objects.moves_route(ragflow.container, name, internal=internal)
    return _connection_actions(ragflow.container, plan.Connect(name, ragflow.name, moves), network)


def _connection_actions(
    container: objects.ContainerState, connect: plan.Connect, network: objects.NetworkState | None
) -> Iterator[plan.Action]:
    endpoint = container.endpoint(connect.network)
    ids = ("", network.id) if network else ()  # a stopped one may not have it yet
    if endpoint and endpoint.network_id in ids and set(connect.aliases) <= set(endpoint.aliases):
        return
    if endpoint:  # it is of a removed network, or lacks an alias
        yield plan.Disconnect(connect.network, container.name)
    yield connect


def _notes(
    stack: Stack,
    spec: objects.ContainerSpec,
    network: objects.NetworkState | None,
    servers: list[RagflowContainer],
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
