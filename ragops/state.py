"""What the engine has, as frozen records; pure.

``engine.py`` fills them in, ``planning.py`` compares them with ``container.py``'s declarations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops.addresses import POOLS, Pool
from ragops.container import LABEL, LABEL_CONFIG

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_SERVICE = "com.docker.compose.service"

IMAGE_ROLES = frozenset({"base", "image-build", "image", "demo-image"})
"""Roles in the labels of images. Every container that is made from an image inherits them."""

OLDEST_API = "1.41"
"""What ragops sends, and is tested with: that of Docker 20.10."""


@dataclass(frozen=True)
class EngineState:
    """The engine itself; ``memory`` in bytes, ``root`` is its data folder."""

    address: str
    version: str
    api: str
    root: str
    cpus: int
    memory: int
    kernel: str
    swarm: bool
    cgroup_driver: str = "cgroupfs"
    pools: tuple[Pool, ...] = POOLS
    """What subnets of networks that name none are cut from."""

    @property
    def too_old(self) -> bool:
        """Whether its API is older than :data:`OLDEST_API`."""
        return _numbers(self.api) < _numbers(OLDEST_API)

    @property
    def socket(self) -> Path | None:
        """Its socket, if it is on this machine as far as its address tells."""
        path = self.address.removeprefix("unix://")
        return Path(path) if path != self.address else None

    @property
    def cgroup_parent(self) -> str:
        """The cgroup that its containers' are in, unless ``daemon.json`` names another."""
        return "system.slice" if self.cgroup_driver == "systemd" else "docker"


@dataclass(frozen=True)
class NetworkState:
    """A network that exists."""

    id: str
    name: str
    driver: str
    internal: bool
    subnets: tuple[str, ...]
    labels: Mapping[str, str]

    @property
    def ours(self) -> bool:
        """Whether ragops made it."""
        return LABEL in self.labels


@dataclass(frozen=True)
class Endpoint:
    """One container's place in one network; no address while it is stopped."""

    network: str
    network_id: str
    address: str
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class ContainerState:
    """A container that exists, running or not."""

    id: str
    name: str
    image: str
    image_id: str
    status: str
    exit_code: int
    oom_killed: bool
    error: str
    started_at: str
    restart_count: int
    health: str
    network_mode: str
    endpoints: tuple[Endpoint, ...]
    published: tuple[tuple[str, int, int], ...]
    """(host address, host port, container port)"""
    labels: Mapping[str, str]
    command: tuple[str, ...]
    environment: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        """Whether its main process runs now (a restarting one does not)."""
        return self.status in {"running", "paused"}

    @property
    def ours(self) -> bool:
        """Whether ragops made it; a container that somebody made from our image has the image's label."""
        return self.role not in {"", *IMAGE_ROLES}

    @property
    def role(self) -> str:
        """``reranker``, ``demo`` … when it is ours, else empty."""
        return self.labels.get(LABEL, "")

    @property
    def config(self) -> str:
        """Hash of the declaration that made it, else empty."""
        return self.labels.get(LABEL_CONFIG, "")

    def endpoint(self, network: str) -> Endpoint | None:
        """Its place in the network of that name."""
        return next((one for one in self.endpoints if one.network == network), None)


@dataclass(frozen=True)
class ImageState:
    """An image that the engine has; ``size`` in bytes."""

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    size: int
    labels: Mapping[str, str]
    architecture: str


@dataclass(frozen=True)
class VolumeState:
    """A volume that exists."""

    name: str
    labels: Mapping[str, str]

    @property
    def ours(self) -> bool:
        """Whether ragops made it."""
        return LABEL in self.labels


@dataclass(frozen=True)
class StatsState:
    """What a container has used since it started: nanoseconds, counts and bytes."""

    cpu_ns: int
    throttled_ns: int
    throttled_periods: int
    memory_bytes: int


@dataclass(frozen=True)
class ExecResult:
    """How a command inside a container ended."""

    exit_code: int
    stdout: str
    stderr: str


def engine_of(info: Mapping[str, Any], version: Mapping[str, Any], address: str) -> EngineState:
    """The engine, from its answers to info and version."""
    own = tuple((one["Base"], one["Size"]) for one in info.get("DefaultAddressPools") or ())
    return EngineState(
        address=address,
        version=version["Version"],
        api=version["ApiVersion"],
        root=info.get("DockerRootDir", ""),
        cpus=info.get("NCPU", 0),
        memory=info.get("MemTotal", 0),
        kernel=info.get("KernelVersion", ""),
        swarm=info.get("Swarm", {}).get("LocalNodeState") == "active",
        cgroup_driver=info.get("CgroupDriver", ""),
        pools=own or POOLS,
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@dataclass(frozen=True)
class EventState:
    """Something that happened: ``container start``, ``network disconnect`` …; ``name`` is the object's."""

    kind: str
    action: str
    name: str


def network_of(raw: Mapping[str, Any]) -> NetworkState:
    """A network, from the engine's answer."""
    pools = (raw.get("IPAM") or {}).get("Config") or []
    return NetworkState(
        id=raw["Id"],
        name=raw["Name"],
        driver=raw["Driver"],
        internal=bool(raw.get("Internal")),
        subnets=tuple(pool["Subnet"] for pool in pools if "Subnet" in pool),
        labels=raw.get("Labels") or {},
    )


def container_of(raw: Mapping[str, Any]) -> ContainerState:
    """A container, from the engine's answer to inspect."""
    state, config, settings = raw["State"], raw["Config"], raw["NetworkSettings"]
    return ContainerState(
        id=raw["Id"],
        name=raw["Name"].lstrip("/"),
        image=config["Image"],
        image_id=raw["Image"],
        status=state["Status"],
        exit_code=state["ExitCode"],
        oom_killed=bool(state.get("OOMKilled")),
        error=state.get("Error", ""),
        started_at=state.get("StartedAt", ""),
        restart_count=raw.get("RestartCount", 0),
        health=(state.get("Health") or {}).get("Status", ""),
        network_mode=raw["HostConfig"].get("NetworkMode", ""),
        endpoints=tuple(
            Endpoint(name, one["NetworkID"], one["IPAddress"], tuple(one.get("Aliases") or ()))
            for name, one in sorted((settings.get("Networks") or {}).items())
        ),
        published=_published(settings.get("Ports") or {}),
        labels=config.get("Labels") or {},
        command=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
        environment=tuple(config.get("Env") or ()),
    )


def _published(ports: Mapping[str, Any]) -> tuple[tuple[str, int, int], ...]:
    return tuple(
        (one["HostIp"], int(one["HostPort"]), int(port.partition("/")[0]))
        for port, bound in sorted(ports.items())
        for one in bound or ()
    )


def event_of(raw: Mapping[str, Any]) -> EventState:
    """An event, from the engine's stream of them."""
    about = raw.get("Actor") or {}
    name = (about.get("Attributes") or {}).get("name", "")
    return EventState(raw.get("Type", ""), raw.get("Action", ""), name)


def image_of(raw: Mapping[str, Any]) -> ImageState:
    """An image, from the engine's answer to inspect."""
    return ImageState(
        id=raw["Id"],
        tags=tuple(raw.get("RepoTags") or ()),
        digests=tuple(raw.get("RepoDigests") or ()),
        size=raw["Size"],
        labels=(raw.get("Config") or {}).get("Labels") or {},
        architecture=raw.get("Architecture", ""),
    )


def stats_of(raw: Mapping[str, Any]) -> StatsState:
    """What a container used, from the engine's answer; page cache that can be dropped is left out."""
    cpu, memory = raw["cpu_stats"], raw["memory_stats"]
    throttling, details = cpu.get("throttling_data") or {}, memory.get("stats") or {}
    cached = details.get("total_inactive_file", details.get("inactive_file", 0))
    return StatsState(
        cpu_ns=cpu["cpu_usage"]["total_usage"],
        throttled_ns=throttling.get("throttled_time", 0),
        throttled_periods=throttling.get("throttled_periods", 0),
        memory_bytes=max(0, memory.get("usage", 0) - cached),
    )
