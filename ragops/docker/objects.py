"""What is asked of Docker, as frozen declarations; pure.

``vllm.py`` makes a :class:`ContainerSpec`, ``planning.py`` compares it with what the
engine has, ``engine.py`` carries it out.

Which subnets are left for networks that name none; pure.

The engine takes the next subnet of its pools that overlaps neither another network nor a route or
name server of its host. Source: moby's ``libnetwork/ipamutils`` and ``libnetwork/netutils``.

What the engine has, as frozen records; pure.

``engine.py`` fills them in, ``planning.py`` compares them with ``container.py``'s declarations.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Network, ip_network
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ragops.configuration import Network

_SECOND = 1_000_000_000

LABEL = "org.ragops"
"""Label key that everything made by ragops carries; its value is the role."""

LABEL_CONFIG = "org.ragops.config"
"""Label key whose value is the hash of the declaration that made the object."""


@dataclass(frozen=True)
class Mount:
    """A folder, file or volume of the engine's host inside the container."""

    source: str
    target: str
    kind: Literal["bind", "volume"] = "bind"
    read_only: bool = False

    def argument(self) -> str:
        """The value of ``docker run --mount``."""
        tail = ",readonly" if self.read_only else ""
        return f"type={self.kind},source={self.source},target={self.target}{tail}"

    def body(self) -> dict[str, Any]:
        """The mount as the Engine API takes it."""
        return {"Type": self.kind, "Source": self.source, "Target": self.target, "ReadOnly": self.read_only}


@dataclass(frozen=True)
class HealthCheck:
    """Docker's health check; times in seconds."""

    command: tuple[str, ...]
    interval: int = 10
    timeout: int = 5
    start_period: int = 600
    retries: int = 3

    def body(self) -> dict[str, Any]:
        """The check as the Engine API takes it, times in nanoseconds."""
        return {
            "Test": ["CMD", *self.command],
            "Interval": self.interval * _SECOND,
            "Timeout": self.timeout * _SECOND,
            "StartPeriod": self.start_period * _SECOND,
            "Retries": self.retries,
        }


@dataclass(frozen=True)
class NetworkSpec:
    """A Docker network as it should be."""

    name: str
    driver: str = "bridge"
    subnet: str | None = None
    internal: bool = False

    def command(self) -> tuple[str, ...]:
        """The equivalent ``docker network create``."""
        argv = ["docker", "network", "create", "--driver", self.driver]
        if self.subnet:
            argv += ["--subnet", self.subnet]
        if self.internal:
            argv.append("--internal")
        return (*argv, "--label", f"{LABEL}=network", self.name)


@dataclass(frozen=True)
class ContainerSpec:
    """A container as it should be. Sizes in bytes; ``publish`` maps a host address to a port."""

    name: str
    image: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[tuple[str, str], ...] = ()
    network: str | None = None
    aliases: tuple[str, ...] = ()
    publish: tuple[tuple[str, int, int], ...] = ()
    """(host address, host port, container port)"""
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory: int = 0
    shm_size: int = 0
    pids_limit: int = 0
    restart: str = "no"
    health: HealthCheck | None = None
    cap_drop: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    read_only: bool = False
    init: bool = False
    role: str = "reranker"
    labels: tuple[tuple[str, str], ...] = field(default=())

    def config_hash(self) -> str:
        """12 hexadecimal digits that change when any field changes."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def all_labels(self) -> dict[str, str]:
        """Our two labels and the declared ones."""
        return {LABEL: self.role, LABEL_CONFIG: self.config_hash(), **dict(self.labels)}

    def docker_command(self) -> tuple[str, ...]:
        """The equivalent ``docker run``, to read or to paste."""
        argv = ["docker", "run", "--detach", "--name", self.name]
        for flag, value in self._flags():
            argv += [flag, value]
        argv += ["--read-only"] if self.read_only else []
        argv += ["--init"] if self.init else []
        if self.entrypoint:
            argv += ["--entrypoint", self.entrypoint[0]]
        return (*argv, self.image, *self.entrypoint[1:], *self.command)

    def body(self) -> dict[str, Any]:
        """What the Engine API's ``POST /containers/create`` takes (version 1.41)."""
        return {
            "Image": self.image,
            "Entrypoint": list(self.entrypoint) or None,
            "Cmd": list(self.command) or None,
            "Env": [f"{name}={value}" for name, value in self.environment],
            "Labels": self.all_labels(),
            "ExposedPorts": {f"{port}/tcp": {} for _, _, port in self.publish},
            "Healthcheck": self.health.body() if self.health else None,
            "HostConfig": self._host_body(),
            "NetworkingConfig": {"EndpointsConfig": self._endpoint_body()},
        }

    def _host_body(self) -> dict[str, Any]:
        policy, _, retries = self.restart.partition(":")
        return {
            "NetworkMode": self.network or "default",
            "Mounts": [mount.body() for mount in self.mounts],
            "Tmpfs": dict(self.tmpfs),
            "PortBindings": {
                f"{port}/tcp": [{"HostIp": ip, "HostPort": str(host)}] for ip, host, port in self.publish
            },
            "CpusetCpus": self.cpuset_cpus,
            "CpusetMems": self.cpuset_mems,
            "Memory": self.memory,
            "MemorySwap": self.memory,  # swap would hide a limit that is too small
            "ShmSize": self.shm_size or None,
            "PidsLimit": self.pids_limit or None,
            "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(retries or 0)},
            "CapDrop": list(self.cap_drop),
            "CapAdd": list(self.cap_add),
            "SecurityOpt": list(self.security_opt),
            "ReadonlyRootfs": self.read_only,
            "Init": self.init,
        }

    def _endpoint_body(self) -> dict[str, Any]:
        if not self.network or ":" in self.network:
            return {}
        return {self.network: {"Aliases": list(self.aliases)}}

    def _flags(self) -> list[tuple[str, str]]:
        pairs = [
            ("--network", self.network or ""),
            *(("--network-alias", alias) for alias in self.aliases),
            *(("--publish", f"{_bracketed(ip)}:{host}:{port}") for ip, host, port in self.publish),
            *(("--mount", mount.argument()) for mount in self.mounts),
            *(("--tmpfs", f"{path}:{options}") for path, options in self.tmpfs),
            *(("--env", f"{name}={value}") for name, value in self.environment),
            ("--cpuset-cpus", self.cpuset_cpus),
            ("--cpuset-mems", self.cpuset_mems),
            ("--memory", str(self.memory or "")),
            ("--shm-size", str(self.shm_size or "")),
            ("--pids-limit", str(self.pids_limit or "")),
            ("--restart", "" if self.restart == "no" else self.restart),
            *self._health_flags(),
            *(("--cap-drop", cap) for cap in self.cap_drop),
            *(("--cap-add", cap) for cap in self.cap_add),
            *(("--security-opt", option) for option in self.security_opt),
            *(("--label", f"{key}={value}") for key, value in self.all_labels().items()),
        ]
        return [(flag, value) for flag, value in pairs if value]

    def _health_flags(self) -> list[tuple[str, str]]:
        if self.health is None:
            return []
        return [
            ("--health-cmd", shlex.join(self.health.command)),
            ("--health-interval", f"{self.health.interval}s"),
            ("--health-timeout", f"{self.health.timeout}s"),
            ("--health-start-period", f"{self.health.start_period}s"),
            ("--health-retries", str(self.health.retries)),
        ]


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


Pool = tuple[str, int]
"""A range, and the prefix length of the subnets that are cut from it."""

POOLS: tuple[Pool, ...] = (
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
)
"""Those of an engine whose ``daemon.json`` has no ``default-address-pools``."""

ENOUGH = 100
"""No more are counted: pools of one's own may hold thousands."""


def free(pools: Iterable[Pool], taken: Iterable[str]) -> tuple[str, ...]:
    """Subnets that a new network could get, the first :data:`ENOUGH` of them.

    Args:
        pools: The engine's.
        taken: Subnets of networks, routes and name servers; IPv6 ones don't matter.
    """
    occupied = tuple(_v4(taken))
    found = (one for one in _subnets(pools) if not any(one.overlaps(other) for other in occupied))
    return tuple(str(one) for one in islice(found, ENOUGH))


def overlapping(subnet: str, taken: Iterable[str]) -> tuple[str, ...]:
    """Those of the subnets that overlap this one."""
    one = ip_network(subnet, strict=False)
    others = ((text, ip_network(text, strict=False)) for text in taken)
    return tuple(text for text, other in others if other.version == one.version and one.overlaps(other))


def parse_routes(text: str) -> tuple[str, ...]:
    """Subnets in ``/proc/net/route``, without the default route; numbers there are little-endian."""
    rows = (line.split() for line in text.splitlines()[1:])
    pairs = ((_number(row[1]), _number(row[7])) for row in rows if len(row) > 7)
    return tuple(str(IPv4Network((to, mask.bit_count()))) for to, mask in pairs if mask)


def parse_servers(text: str) -> tuple[str, ...]:
    """IPv4 name servers in ``/etc/resolv.conf``, as subnets of one address."""
    found = re.findall(r"^nameserver\s+(\d+\.\d+\.\d+\.\d+)\s*$", text, re.MULTILINE)
    return tuple(f"{server}/32" for server in found)


def _v4(subnets: Iterable[str]) -> Iterator[IPv4Network]:
    every = (ip_network(one, strict=False) for one in subnets)
    return (one for one in every if isinstance(one, IPv4Network))


def _subnets(pools: Iterable[Pool]) -> Iterator[IPv4Network]:
    for base, size in pools:
        for whole in _v4((base,)):
            yield from whole.subnets(new_prefix=max(size, whole.prefixlen))


def _number(little_endian: str) -> int:
    return int.from_bytes(bytes.fromhex(little_endian), "little")


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


@dataclass(frozen=True)
class Observed:
    """Networks, containers and volumes of the Docker engine at one moment."""

    networks: tuple[NetworkState, ...]
    containers: tuple[ContainerState, ...]
    volumes: tuple[VolumeState, ...]

    def network(self, name: str) -> NetworkState | None:
        """The network of that name."""
        return next((network for network in self.networks if network.name == name), None)

    def container(self, name: str) -> ContainerState | None:
        """The container of that name."""
        return next((container for container in self.containers if container.name == name), None)

    def members(self, network: str) -> tuple[ContainerState, ...]:
        """Containers that are connected to a network, running or stopped."""
        return tuple(container for container in self.containers if container.endpoint(network))


def differences(configured: Network, network: NetworkState) -> tuple[str, ...]:
    """The options of an existing network that differ from its configuration."""
    rows = (
        ("driver", network.driver, configured.driver),
        ("internal", network.internal, configured.internal),
        ("subnet", ", ".join(network.subnets), configured.subnet),
    )
    return tuple(
        f"{option} is {actual}, configured {wanted}"
        for option, actual, wanted in rows
        if wanted is not None and wanted != actual
    )


def moves_route(container: ContainerState, network: str, *, internal: bool) -> bool:
    """Whether a connection to the network would move the container's default route.

    Docker routes through the network whose name sorts first, without internal ones.
    """
    names = [endpoint.network for endpoint in container.endpoints]
    return not internal and bool(names) and network < min(names)
