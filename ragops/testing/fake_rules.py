"""What Docker engine 20.10 allows and what it says when it refuses; pure, for ``fake_engine.py``."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ragops import addresses, hints
from ragops.errors import EngineError, NotFoundError
from ragops.state import ContainerState, Endpoint, NetworkState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ragops.container import ContainerSpec, NetworkSpec

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


def refused(what: str, said: str, container: str = "") -> EngineError:
    """The error that ``engine.py`` raises for such an answer."""
    kind = NotFoundError if _MISSING.search(said) else EngineError
    hint = hints.for_engine(said)
    return kind(
        f"the Docker engine could not {what}",
        code=hint.code,
        evidence=said,
        hint=hint.remedy,
        container=container,
    )


def tagged(image: str) -> str:
    """An image's name with its tag; ``latest`` where none is written."""
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def predefined(ids: Iterator[str]) -> dict[str, NetworkState]:
    """The networks of a new engine, by id."""
    subnets = {"bridge": ("172.17.0.0/16",)}
    found = {}
    for name in PREDEFINED:
        driver = "null" if name == "none" else name
        number = next(ids)
        found[number] = NetworkState(number, name, driver, False, subnets.get(name, ()), {})
    return found


def new_network(spec: NetworkSpec, networks: Iterable[NetworkState]) -> str:
    """Why a network can't be made; empty when it can."""
    there = tuple(networks)
    if spec.name in PREDEFINED:
        return f"operation is not permitted on predefined {spec.name} network "
    if any(one.name == spec.name for one in there):
        return f"network with name {spec.name} already exists"
    if spec.driver == "overlay":
        return NO_MANAGER
    if spec.driver != "bridge":
        return f'plugin "{spec.driver}" not found'
    if spec.subnet and addresses.overlapping(spec.subnet, _subnets(there)):
        return "Pool overlaps with other one on this address space"
    return "" if spec.subnet or free_subnet(there) else NO_POOL


def free_subnet(networks: Iterable[NetworkState]) -> str:
    """The subnet that a network gets when it names none; empty when the pools are used up."""
    return next(iter(addresses.free(addresses.POOLS, _subnets(networks))), "")


def joining(box: ContainerState, network: NetworkState) -> str:
    """Why a container can't be connected to a network; empty when it can."""
    if box.network_mode == "host" or (box.running and box.network_mode.startswith("container:")):
        return SHARED
    if box.network_mode == "none":
        return PRIVATE
    if box.running and box.endpoint(network.name):
        return f"endpoint with name {box.name} already exists in network {network.name}"
    return ""


def placed(place: Endpoint, network: NetworkState, boxes: Iterable[ContainerState]) -> Endpoint:
    """An endpoint with the network's id and the first address that nobody has."""
    taken = {end.address for box in boxes for end in box.endpoints if end.network_id == network.id}
    hosts = ipaddress.ip_network(network.subnets[0], strict=False).hosts() if network.subnets else iter(())
    next(hosts, None)  # the gateway's
    free = (str(one) for one in hosts if str(one) not in taken)
    return replace(place, network_id=network.id, address=next(free, ""))


def new_container(spec: ContainerSpec, boxes: Iterable[ContainerState]) -> str:
    """Why a container can't be made; empty when it can."""
    if not _NAME.fullmatch(spec.name):
        return f"Invalid container name ({spec.name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    return new_name(spec.name, boxes)


def new_name(name: str, boxes: Iterable[ContainerState]) -> str:
    """Why a container can't have a name; empty when it can."""
    holder = next((one for one in boxes if one.name == name), None)
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
    )


def volumes(spec: ContainerSpec) -> tuple[str, ...]:
    """The volumes that a container mounts."""
    return tuple(mount.source for mount in spec.mounts if mount.kind == "volume")


def aliases(network: str, wanted: tuple[str, ...], number: str) -> tuple[str, ...]:
    """The names of a container in a network: those asked for, and the beginning of its id."""
    return () if network in PREDEFINED else tuple(dict.fromkeys((*wanted, number[:12])))


def publishing(
    wanted: tuple[tuple[str, int, int], ...], boxes: Iterable[ContainerState], host_ports: set[int]
) -> str:
    """Why ports can't be published; empty when they can."""
    held = {(ip, port) for box in boxes for ip, port, _ in box.published}
    everywhere = {"", "0.0.0.0", "::"}
    for ip, port, _ in wanted:
        if port in host_ports:
            return f"Error starting userland proxy: listen tcp4 {ip}:{port}: bind: address already in use"
        if any(port == other and (ip == at or {ip, at} & everywhere) for at, other in held):
            return f"Bind for {ip}:{port} failed: port is already allocated"
    return ""


def executing(box: ContainerState) -> str:
    """Why no program can be run in a container; empty when one can."""
    if box.status == "running":
        return ""
    return f"Container {box.id} {_CANT_EXECUTE.get(box.status, 'is not running')}"


def pausing(box: ContainerState) -> str:
    """Why a container can't be paused; empty when it can."""
    if box.status == "paused":
        return f"Container {box.id} is already paused"
    return "" if box.status == "running" else f"Container {box.id} is not running"


def _subnets(networks: Iterable[NetworkState]) -> list[str]:
    return [subnet for one in networks for subnet in one.subnets]
