"""What Docker engine 20.10 allows and what it says when it refuses; pure, for ``fake_engine.py``.

What a fake engine has: records in memory, and the ways to set a scene. See ``fake_engine.py``.

A Docker engine in memory, with the methods of :class:`~ragops.docker.engine.Engine`.

For tests, and for trying ragops where there is no Docker. It refuses what engine 20.10 refuses, in
the same words; ``tests/live/test_engine_contract.py`` holds it against a real one. Programs inside
containers don't run: :attr:`FakeEngine.respond` and :attr:`FakeEngine.output` say what they say.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import re
import secrets
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ragops.docker import hints, objects
from ragops.docker.engine import TIMEOUT, Engine
from ragops.docker.objects import (
    LABEL,
    ContainerSpec,
    ContainerState,
    Endpoint,
    EngineState,
    EventState,
    ExecResult,
    ImageState,
    NetworkSpec,
    NetworkState,
    StatsState,
    VolumeState,
)
from ragops.errors import EngineError, NotFoundError
from ragops.reranker import gateway
from tests.support.fake_swarm import FakeSwarm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

GATEWAY = gateway.tag()
PREDEFINED = ("bridge", "host", "none")
"""Networks that every engine has; they can be neither made nor removed."""

SHARED = (
    "container sharing network namespace with another container or host "
    "cannot be connected to any other network"
)
PRIVATE = "container cannot be connected to multiple networks with one of the networks in private (none) mode"
AMBIGUOUS = "network {name} is ambiguous ({count} matches found on name)"
AMBIGUOUS_TO_REMOVE = "network {name} is ambiguous ({count} matches found based on name)"
NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
    "to connect this node to swarm and try again."
)

NO_POOL = "could not find an available, non-overlapping IPv4 address pool"
"""The engine goes on: "among the defaults to assign to the network"."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_MISSING = re.compile(r"^No such |not found$|no such volume$|manifest unknown$|^plugin |^could not find ")
_CANT_EXECUTE = {
    "paused": "is paused, unpause the container before exec",
    "restarting": "is restarting, wait until the container is running",
}


def refused(what: str, message: str, container: str = "") -> EngineError:
    """The error that ``engine.py`` raises for such an answer."""
    kind = NotFoundError if _MISSING.search(message) else EngineError
    hint = hints.for_engine(message)
    return kind(
        f"the Docker engine could not {what}",
        code=hint.code,
        evidence=message,
        hint=hint.remedy,
        container=container,
    )


def tagged(image: str) -> str:
    """An image's name with its tag; ``latest`` where none is written."""
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def predefined(ids: Iterator[str]) -> dict[str, NetworkState]:
    """The networks of a new engine, by id."""
    subnets = {"bridge": ("172.17.0.0/16",)}
    result = {}
    for name in PREDEFINED:
        driver = "null" if name == "none" else name
        number = next(ids)
        result[number] = NetworkState(number, name, driver, False, subnets.get(name, ()), {})
    return result


def new_network(spec: NetworkSpec, networks: Iterable[NetworkState]) -> str:
    """Why a network can't be made; empty when it can."""
    there = tuple(networks)
    if spec.name in PREDEFINED:
        return f"operation is not permitted on predefined {spec.name} network "
    if any(item.name == spec.name for item in there):
        return f"network with name {spec.name} already exists"
    if spec.driver == "overlay":
        return NO_MANAGER
    if spec.driver != "bridge":
        return f'plugin "{spec.driver}" not found'
    if spec.subnet and objects.overlapping_subnets(spec.subnet, _subnets(there)):
        return "Pool overlaps with other one on this address space"
    return "" if spec.subnet or free_subnet(there) else NO_POOL


def free_subnet(networks: Iterable[NetworkState]) -> str:
    """The subnet that a network gets when it names none; empty when the pools are used up."""
    pools = [(f"172.{number}.0.0/16", 16) for number in range(17, 32)] + [("192.168.0.0/16", 20)]
    candidates = (net for base, size in pools for net in ipaddress.ip_network(base).subnets(new_prefix=size))
    taken = _subnets(networks)
    return next((str(net) for net in candidates if not objects.overlapping_subnets(str(net), taken)), "")


def joining(state: ContainerState, network: NetworkState) -> str:
    """Why a container can't be connected to a network; empty when it can."""
    if state.network_mode == "host" or (state.running and state.network_mode.startswith("container:")):
        return SHARED
    if state.network_mode == "none":
        return PRIVATE
    if state.running and state.endpoint(network.name):
        return f"endpoint with name {state.name} already exists in network {network.name}"
    return ""


def placed(place: Endpoint, network: NetworkState, containers: Iterable[ContainerState]) -> Endpoint:
    """An endpoint with the network's id and the first address that nobody has."""
    taken = {end.address for state in containers for end in state.endpoints if end.network_id == network.id}
    hosts = ipaddress.ip_network(network.subnets[0], strict=False).hosts() if network.subnets else iter(())
    next(hosts, None)  # the gateway's
    free = (str(item) for item in hosts if str(item) not in taken)
    return replace(place, network_id=network.id, address=next(free, ""))


def new_container(name: str, containers: Iterable[ContainerState]) -> str:
    """Why a container can't be made; empty when it can."""
    if not _NAME.fullmatch(name):
        return f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    return new_name(name, containers)


def new_name(name: str, containers: Iterable[ContainerState]) -> str:
    """Why a container can't have a name; empty when it can."""
    holder = next((item for item in containers if item.name == name), None)
    if holder is None:
        return ""
    return (
        f'Conflict. The container name "/{name}" is already in use by container "{holder.id}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )


def created(spec: ContainerSpec, number: str, image_id: str, shares: str) -> ContainerState:
    """A new container that has not been started.

    Args:
        spec: How it was asked for.
        number: Its id.
        image_id: The id of its image.
        shares: The id of the container whose network it shares, or empty.
    """
    mode = f"container:{shares}" if shares else spec.network or "default"
    network = "bridge" if mode == "default" else mode
    return ContainerState(
        id=number,
        name=spec.name,
        image=spec.image,
        image_id=image_id,
        status="created",
        exit_code=0,
        oom_killed=False,
        error="",
        started_at="0001-01-01T00:00:00Z",
        restart_count=0,
        health="",
        network_mode=mode,
        endpoints=() if ":" in mode else (Endpoint(network, "", "", spec.aliases),),
        published=(),
        labels=spec.all_labels(),
        command=(*spec.entrypoint, *spec.command),
        environment=tuple(f"{name}={value}" for name, value in spec.environment),
        memory=spec.memory,
        limits=spec.body()["HostConfig"],
        mounts={mount.target: mount.source for mount in spec.mounts if mount.kind == "bind"},
    )


def volumes(spec: ContainerSpec) -> tuple[str, ...]:
    """The volumes that a container mounts."""
    return tuple(mount.source for mount in spec.mounts if mount.kind == "volume")


def endpoint_aliases(network: str, number: str) -> tuple[str, ...]:
    """The aliases of a container in a network: the beginning of its id."""
    return () if network in PREDEFINED else (number[:12],)


def publishing(
    wanted: tuple[tuple[str, int, int], ...], containers: Iterable[ContainerState], host_ports: set[int]
) -> str:
    """Why ports can't be published; empty when they can."""
    held = {(ip, port) for state in containers for ip, port, _ in state.published}
    everywhere = {"", "0.0.0.0", "::"}
    for ip, port, _ in wanted:
        if port in host_ports:
            return f"Error starting userland proxy: listen tcp4 {ip}:{port}: bind: address already in use"
        if any(port == other and (ip == at or {ip, at} & everywhere) for at, other in held):
            return f"Bind for {ip}:{port} failed: port is already allocated"
    return ""


def executing(state: ContainerState) -> str:
    """Why no program can be run in a container; empty when one can."""
    if state.status == "running":
        return ""
    return f"Container {state.id} {_CANT_EXECUTE.get(state.status, 'is not running')}"


def pausing(state: ContainerState) -> str:
    """Why a container can't be paused; empty when it can."""
    if state.status == "paused":
        return f"Container {state.id} is already paused"
    return "" if state.status == "running" else f"Container {state.id} is not running"


def _subnets(networks: Iterable[NetworkState]) -> list[str]:
    return [subnet for item in networks for subnet in item.subnets]


Respond = Callable[[ContainerState, tuple[str, ...], str], ExecResult | None]
"""Plays a program: container, arguments and standard input in; None where there is no such program."""


class ServerState(FakeSwarm):
    """Networks, containers, images and volumes; :class:`~tests.support.fake_engine.FakeEngine` acts on it.

    Args:
        images: Names of the images that are there; ``vllm-cpu:latest`` and the gateway's when left out.
    """

    def __init__(self, *images: str) -> None:
        super().__init__()
        self.id = secrets.token_hex(6)
        """Of the engine: no two have the same."""
        self.calls: list[str] = []
        """Every call that would change something, refused ones too: ``start ragflow-server`` …"""
        self.respond: Respond = lambda _container, _argv, _stdin: None
        """What programs in containers answer."""
        self.output: dict[str, str] = defaultdict(str)
        """What a container of that name has logged."""
        self.used: dict[str, StatsState] = {}
        """What a container of that name has used."""
        self.host_ports: set[int] = set()
        """Ports on which processes of the host listen."""
        self.hidden: set[str] = set()
        """Folders of the host that are empty for the engine."""
        self.registry: set[str] = set()
        """Images that can be pulled; while it is empty no registry answers."""
        self.version = _STATE.version
        """Of the engine; from 28 on it keeps other machines out of published ports."""
        self.build_output: tuple[str, ...] = ()
        """Lines that a build prints."""
        self.history: list[EventState] = []
        """All events."""
        self._ids = (hashlib.sha256(str(number).encode()).hexdigest() for number in itertools.count())
        self._networks = predefined(self._ids)
        self._containers: dict[str, ContainerState] = {}
        self._specs: dict[str, ContainerSpec] = {}
        self._images: dict[str, ImageState] = {}
        self._volumes: dict[str, VolumeState] = {}
        self._refusals: dict[str, str] = {}
        self._ears: list[SimpleQueue[EventState | None]] = []
        for name in images or ("vllm-cpu:latest", GATEWAY):
            self.add_image(name)

    # -- setting the scene: none of it counts as a call ------------------------------------

    def add_network(self, name: str, *, subnet: str | None = None, internal: bool = False) -> str:
        """A network that someone else made, even beside one of the same name; gives back its id."""
        return self._make_network(NetworkSpec(name, subnet=subnet, internal=internal), {})

    def add_container(
        self,
        name: str,
        *,
        network: str = "bridge",
        image: str = "busybox:latest",
        labels: Mapping[str, str] | None = None,
        publish: tuple[tuple[str, int, int], ...] = (),
    ) -> str:
        """A running container that someone else made; its network and image are made if missing."""
        if ":" not in network and network not in {item.name for item in self.networks()}:
            self.add_network(network)
        if self.image(image) is None:
            self.add_image(image)
        made = self._make_container(ContainerSpec(name, image, network=network, publish=publish))
        inherited = result.labels if (result := self.image(image)) else {}
        self._run(self.change(made, labels={**inherited, **(labels or {})}))
        return made

    def add_image(self, name: str, **fields: Any) -> ImageState:
        """An image; the fields are those of :class:`~ragops.docker.objects.ImageState`."""
        number = f"sha256:{next(self._ids)}"
        made = ImageState(number, (tagged(name),), (), size=1_000_000, labels={}, architecture="amd64")
        self._images[number] = replace(made, **{"layers": (number,), **fields})
        return self._images[number]

    def change_image(self, number: str, **fields: Any) -> ImageState:
        """Set fields of an image."""
        self._images[number] = replace(self._images[number], **fields)
        return self._images[number]

    def change(self, container: str, **fields: Any) -> ContainerState:
        """Set fields of a container's state, such as ``status="paused"`` or ``health="healthy"``."""
        state = self._found(container, "change it")
        now = self._containers[state.id] = replace(state, **fields)
        if now.health not in ("", "starting", state.health):
            self._tell("container", f"health_status: {now.health}", now.name)
        if now.status != state.status and now.status in {"running", "exited"}:
            self._tell_of_places(now, "connect" if now.running else "disconnect")
        return now

    def end_events(self) -> None:
        """Whoever follows the events hears no more, as when the engine ends."""
        for ear in self._ears:
            ear.put(None)

    def refuse(self, call: str, message: str) -> None:
        """Refuse the next call that begins with these words, as if the engine had said so."""
        self._refusals[call] = message

    # -- what there is ---------------------------------------------------------------------

    def networks(self) -> tuple[NetworkState, ...]:
        """All networks, Docker's own three too."""
        return tuple(self._networks.values())

    def containers(self) -> tuple[ContainerState, ...]:
        """All containers, the newest first."""
        return tuple(reversed(self._containers.values()))

    def container(self, name: str) -> ContainerState | None:
        """By id, name or the beginning of the id, in this order."""
        named = (item for item in self._containers.values() if item.name == name.removeprefix("/"))
        short = (item for item in self._containers.values() if name and item.id.startswith(name))
        return self._containers.get(name) or next(itertools.chain(named, short), None)

    def image(self, name: str) -> ImageState | None:
        """By id, the beginning of the id, tag or digest."""
        number, tag = name.removeprefix("sha256:"), tagged(name)
        result = (
            item
            for item in self._images.values()
            if tag in item.tags or name in item.digests or item.id.removeprefix("sha256:").startswith(number)
        )
        return next(result, None)

    def images(self) -> tuple[ImageState, ...]:
        """All images."""
        return tuple(self._images.values())

    def volumes(self) -> tuple[VolumeState, ...]:
        """All volumes."""
        return tuple(self._volumes.values())

    # -- how it is kept --------------------------------------------------------------------

    def _called(self, what: str) -> str:
        self.calls.append(what)
        for words in [item for item in self._refusals if what.startswith(item)]:
            self._allow(what, self._refusals.pop(words))
        return what

    def _tell(self, kind: str, action: str, name: str, exit_code: int = 0) -> None:
        self.history.append(EventState(kind, action, name, exit_code))
        for ear in self._ears:
            ear.put(self.history[-1])

    def _tell_of_places(self, state: ContainerState, action: str) -> None:
        """That a container joined or left its networks, because it started or ended."""
        if not state.running:
            self._tell("container", "die", state.name, state.exit_code)
        for place in state.endpoints:
            self._tell("network", action, place.network)
        if state.running:
            self._tell("container", "start", state.name)

    def _allow(self, what: str, objection: str, container: str = "") -> None:
        if objection:
            raise refused(what, objection, container)

    def _name(self, container: str) -> str:
        result = self.container(container)
        return result.name if result else container

    def _network_name(self, network: str) -> str:
        return self._networks[network].name if network in self._networks else network

    def _found(self, container: str, what: str) -> ContainerState:
        result = self.container(container)
        if result is None:
            raise refused(what, f"No such container: {container}", container)
        return result

    def _image(self, image: str, what: str) -> ImageState:
        result = self.image(image)
        if result is None:
            raise refused(what, f"No such image: {image}")
        return result

    def _network(self, network: str, what: str, *, many: str = AMBIGUOUS) -> NetworkState:
        named = [item for item in self._networks.values() if item.name == network]
        if len(named) > 1:
            raise refused(what, many.format(count=len(named), name=network))
        if not named and network not in self._networks:
            raise refused(what, f"network {network} not found")
        return self._networks.get(network) or named[0]

    def _make_network(self, spec: NetworkSpec, labels: Mapping[str, str]) -> str:
        number = next(self._ids)
        subnet = spec.subnet or free_subnet(self.networks())
        made = NetworkState(number, spec.name, spec.driver, spec.internal, (subnet,), labels, spec.encrypted)
        self._networks[number] = made
        self._tell("network", "create", spec.name)
        return number

    def _make_container(self, spec: ContainerSpec) -> str:
        number, image = next(self._ids), self.image(spec.image_id or spec.image)
        other = (spec.network or "").removeprefix("container:")
        shares = self.container(other) if other != (spec.network or "") else None
        for volume in volumes(spec):
            self._volumes.setdefault(volume, VolumeState(volume, {}))
        self._specs[number] = spec
        self._containers[number] = created(
            spec, number, image.id if image else "", shares.id if shares else ""
        )
        self._tell("container", "create", spec.name)
        return number

    def _hindrance(self, state: ContainerState) -> str:
        """Why a container can't start; empty when it can."""
        if state.network_mode.startswith("container:"):
            number = state.network_mode.removeprefix("container:")
            other = self.container(number)
            if other is None:
                return f"No such container: {number}"
            return "" if other.running else f"cannot join network of a non running container: {other.id}"
        names = {item.name for item in self.networks()}
        for place in state.endpoints:
            known = self._networks if place.network_id else names
            if (wanted := place.network_id or place.network) not in known:
                return f"network {wanted} not found"
        message = publishing(self._specs[state.id].publish, self.containers(), self.host_ports)
        endpoint = f"driver failed programming external connectivity on endpoint {state.name} ({state.id})"
        return message and f"{endpoint}: {message}"

    def _run(self, state: ContainerState) -> None:
        spec = self._specs[state.id]
        places = []
        for place in state.endpoints:
            net = self._network(place.network_id or place.network, f"start {state.name}")
            own = endpoint_aliases(net.name, state.id)
            named = replace(place, aliases=(*(alias for alias in place.aliases if alias not in own), *own))
            places.append(placed(named, net, self.containers()))
        inside = all(self._networks[place.network_id].internal for place in places)
        self.change(
            state.id,
            status="running",
            exit_code=0,
            error="",
            started_at="2026-01-01T00:00:00Z",
            health="starting" if spec.health else "",
            endpoints=tuple(places),
            published=() if inside else spec.publish,
        )

    def _untag(self, name: str) -> None:
        for number, item in self._images.items():
            left = tuple(tag for tag in item.tags if tag != tagged(name))
            self._images[number] = replace(item, tags=left)


_UNUSED = StatsState(cpu_ns=0, throttled_ns=0, memory_bytes=0)
_NO_PROGRAM = (
    "OCI runtime exec failed: exec failed: unable to start container process: "
    'exec: "{}": executable file not found in $PATH: unknown\r\n'
)
_STATE = EngineState(
    id="",
    address="unix:///fake/docker.sock",
    version="20.10.24",
    api="1.41",
    root="/fake/docker",
    kernel="6.1.0",
)


class FakeEngine(ServerState, Engine):
    """An engine in memory.

    ::

        engine = FakeEngine()
        engine.add_container("ragflow-server", network="docker_ragflow")
        ragops.plan(stack, engine)
        assert engine.calls == []

    Args:
        images: Names of the images that it has; ``vllm-cpu:latest`` and the gateway's when left out.
    """

    # -- looking ---------------------------------------------------------------------------

    def close(self) -> None:
        """Nothing is open."""

    def state(self) -> EngineState:
        """A small engine."""
        own = self.nodes[0] if self.nodes else None
        member = {"swarm": own.role, "node": own.id} if own else {}
        return replace(_STATE, id=self.id, version=self.version, **member)

    def logs(self, container: str, *, tail: int = 20) -> str:
        """The end of :attr:`output`."""
        state = self._found(container, f"read the log of {container}")
        return "\n".join(self.output[state.name].splitlines()[-tail:])

    def stats(self, container: str) -> StatsState:
        """What :attr:`used` says; nothing for a container that does not run."""
        state = self._found(container, f"measure {container}")
        return self.used.get(state.name, _UNUSED) if state.running else _UNUSED

    def ends(self, container: str) -> tuple[EventState, ...]:
        """Out of :attr:`history`."""
        name = self._found(container, f"list the events of {container}").name
        known = {"start", "die", "kill", "oom"}
        events = (event for event in self.history if event.kind == "container" and event.name == name)
        return tuple(event for event in events if event.action in known)

    @contextmanager
    def events(self) -> Iterator[Iterator[EventState]]:
        """Until :meth:`end_events`."""
        ear: SimpleQueue[EventState | None] = SimpleQueue()
        self._ears.append(ear)
        try:
            yield iter(ear.get, None)
        finally:
            self._ears.remove(ear)
            ear.put(None)

    # -- changing --------------------------------------------------------------------------

    def create_network(self, spec: NetworkSpec) -> str:
        """Refuses names that are there, unknown drivers and overlapping subnets."""
        what = self._called(f"create network {spec.name}")
        bridge = replace(spec, driver="bridge") if spec.driver == "overlay" and self.nodes else spec
        self._allow(what, new_network(bridge, self.networks()))
        return self._make_network(spec, {LABEL: "network"})

    def remove_network(self, network: str) -> None:
        """Refused while something runs in it; what is stopped keeps its place in a network that is gone."""
        what = self._called(f"remove network {self._network_name(network)}")
        net = self._network(network, what, many=AMBIGUOUS_TO_REMOVE)
        if net.name in PREDEFINED:
            self._allow(what, f"{net.name} is a pre-defined network and cannot be removed")
        places = (place for state in self.containers() if state.running for place in state.endpoints)
        if any(place.network_id == net.id for place in places):
            message = f"error while removing network: network {net.name} id {net.id} has active endpoints"
            self._allow(what, message)
        del self._networks[net.id]
        self._tell("network", "destroy", net.name)

    def connect(self, network: str, container: str, aliases: tuple[str, ...] = ()) -> None:
        """A container that does not run gets its address when it starts."""
        what = self._called(f"connect {self._name(container)} to {network}")
        state, net = self._found(container, what), self._network(network, what)
        self._allow(what, joining(state, net), container)
        place = Endpoint(net.name, "", "", (*aliases, *endpoint_aliases(net.name, state.id)))
        place = placed(place, net, self.containers()) if state.running else place
        others = (item for item in state.endpoints if item.network != net.name)
        self.change(state.id, endpoints=tuple(sorted((*others, place), key=lambda item: item.network)))
        if state.running:
            self._tell("network", "connect", net.name)

    def disconnect(self, network: str, container: str) -> None:
        """Also out of a network that is gone, as long as the container does not run."""
        what = self._called(f"disconnect {self._name(container)} from {network}")
        state = self._found(container, what)
        remembered = not state.running and state.endpoint(network)
        name = network if remembered else self._network(network, what).name
        if state.endpoint(name) is None:
            the = "" if state.running else "the "
            self._allow(what, f"container {state.id} is not connected to {the}network {name}")
        self.change(state.id, endpoints=tuple(item for item in state.endpoints if item.network != name))
        if state.running:
            self._tell("network", "disconnect", name)

    def create_volume(self, name: str, *, role: str) -> None:
        """A volume that is there stays as it is."""
        self._called(f"create volume {name}")
        self._volumes.setdefault(name, VolumeState(name, {LABEL: role}))

    def remove_volume(self, name: str) -> None:
        """Refused while a container, running or not, mounts it."""
        what = self._called(f"remove volume {name}")
        if name not in self._volumes:
            self._allow(what, f"get {name}: no such volume")
        if users := [number for number, spec in self._specs.items() if name in volumes(spec)]:
            self._allow(what, f"remove {name}: volume is in use - [{', '.join(users)}]")
        del self._volumes[name]

    def create_container(self, spec: ContainerSpec, name: str = "") -> str:
        """Refuses missing images and names that are taken; a missing network shows when it is started."""
        name = name or spec.name
        what = self._called(f"create container {name}")
        if self.image(spec.image_id or spec.image) is None:
            self._allow(what, f"No such image: {spec.image_id or spec.image}", name)
        self._allow(what, new_container(name, self.containers()), name)
        number = self._make_container(spec)
        self._containers[number] = replace(self._containers[number], name=name)
        return number

    def has_file(self, container: str, path: str) -> bool:
        """In a mounted folder, except those that :attr:`hidden` names."""
        mounts = self._found(container, f"read {path}").mounts.items()
        folders = [source for target, source in mounts if path.startswith(f"{target}/")]
        return bool(folders) and not self.hidden.intersection(folders)

    def start(self, container: str) -> None:
        """One that can't start keeps its status, and the reason in its ``error``."""
        what = self._called(f"start {self._name(container)}")
        state = self._found(container, what)
        if not state.running and (message := self._hindrance(state)):
            self.change(
                state.id, error=message, exit_code=128 if state.status == "created" else state.exit_code
            )
            self._allow(what, message, container)
        if not state.running:
            self._run(state)

    def stop(self, container: str, *, timeout: int = 10) -> None:
        """Ends with the exit code of SIGTERM; one that does not run stays as it is."""
        del timeout
        state = self._found(container, self._called(f"stop {self._name(container)}"))
        if state.status in {"running", "paused", "restarting"}:
            self.history.append(EventState("container", "kill", state.name, signal=15))
            left = tuple(replace(item, address="") for item in state.endpoints)
            self.change(state.id, status="exited", exit_code=143, endpoints=left, published=())
            self._tell("container", "stop", state.name)

    def pause(self, container: str) -> None:
        """Refused unless it runs."""
        state = self._found(container, what := self._called(f"pause {self._name(container)}"))
        self._allow(what, pausing(state), container)
        self.change(state.id, status="paused")
        self._tell("container", "pause", state.name)

    def unpause(self, container: str) -> None:
        """Refused unless it is paused."""
        state = self._found(container, what := self._called(f"unpause {self._name(container)}"))
        self._allow(
            what, "" if state.status == "paused" else f"Container {state.id} is not paused", container
        )
        self.change(state.id, status="running")
        self._tell("container", "unpause", state.name)

    def rename(self, container: str, name: str) -> None:
        """Refused when the name is taken."""
        what = self._called(f"rename {self._name(container)} to {name}")
        state = self._found(container, what)
        if message := new_name(name, self.containers()):
            self._allow(what, f"Error when allocating new name: {message}", container)
        self.change(state.id, name=name)
        self._tell("container", "rename", name)

    def remove_container(self, container: str) -> None:
        """Running or not."""
        state = self._found(container, self._called(f"remove container {self._name(container)}"))
        if state.running:
            self.change(state.id, status="exited")
        del self._containers[state.id], self._specs[state.id]
        self._tell("container", "destroy", state.name)

    def execute(
        self, container: str, argv: tuple[str, ...], *, stdin: str = "", timeout: float = TIMEOUT
    ) -> ExecResult:
        """What :attr:`respond` answers; refused unless the container runs."""
        del timeout
        what = f"run {argv[0]} in {container}"
        state = self._found(container, what)
        self._allow(what, executing(state), container)
        return self.respond(state, argv, stdin) or ExecResult(126, _NO_PROGRAM.format(argv[0]), "")

    # -- images ----------------------------------------------------------------------------

    def pull(self, name: str) -> None:
        """From :attr:`registry`."""
        what = self._called(f"pull {name}")
        if name not in self.registry:
            self._allow(what, "manifest unknown" if self.registry else "dial tcp: lookup: no such host")
        self.add_image(name, **({"tags": (), "digests": (name,)} if "@" in name else {}))

    def tag(self, image: str, name: str) -> None:
        """Takes the name away from the image that had it."""
        result = self._image(image, self._called(f"tag {name}"))
        self._untag(name)
        result = self._images[result.id]
        self._images[result.id] = replace(result, tags=(*result.tags, tagged(name)))

    def import_image(self, tar: Path, name: str, *, role: str) -> None:
        """The file is not looked at."""
        del tar
        self._called(f"import {name}")
        self._untag(name)
        self.add_image(name, labels={LABEL: role})

    def build(self, folder: Path, name: str, *, arguments: Mapping[str, str]) -> Iterator[str]:
        """Prints :attr:`build_output`; the folder is not looked at."""
        del folder, arguments
        try:
            self._called(f"build {name}")
        except EngineError as error:
            raise EngineError(f"building {name} failed", evidence=error.evidence) from None
        yield from self.build_output
        self._untag(name)
        self.add_image(name, labels={LABEL: "image"})

    def remove_image(self, image: str) -> None:
        """One of several names is only taken off; refused while a container uses the last."""
        what = self._called(f"remove image {image}")
        result = self._image(image, what)
        conflict = f"conflict: unable to delete {result.id[7:19]} (must be forced) - image is "
        if len(result.names) > 1 and (tagged(image) in result.tags or image in result.digests):
            digests = tuple(digest for digest in result.digests if digest != image)
            self._images[result.id] = replace(result, digests=digests)
            self._untag(image)
        elif len({name.partition("@")[0].rpartition(":")[0] for name in result.names}) > 1:
            self._allow(what, f"{conflict}referenced in multiple repositories")
        elif user := next((item for item in self.containers() if item.image_id == result.id), None):
            self._allow(what, f"{conflict}being used by stopped container {user.id[:12]}")
        else:
            del self._images[result.id]


CALLS = (
    *("create_container", "start", "stop", "rename", "remove_container"),
    *("connect", "disconnect", "create_volume", "create_network", "remove_network"),
    *("create_service", "update_service", "change_service", "remove_service"),
    *("create_config", "remove_config"),
)
"""Changing calls that :func:`kill_at` counts."""


class Stop(BaseException):
    """As SIGKILL: nothing after it runs."""


def kill_at(engine, number, moment):
    """Raise :class:`Stop` before or after the changing call of that number; None ends it."""
    for name in CALLS:
        vars(engine).pop(name, None)
        if number is None:
            continue

        def call(*args, name=name, **options):
            count = len(engine.calls)
            if moment == "before" and count == number:
                raise Stop
            result = getattr(FakeEngine, name)(engine, *args, **options)
            if moment == "after" and count == number:
                raise Stop
            return result

        setattr(engine, name, call)
