"""Docker's objects as frozen records, and facts about networks; pure.

Specifications (:class:`NetworkSpec`, :class:`ContainerSpec`) describe what to create; states are what the
Docker engine has, read by ``engine.py``.
"""

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

from ragops.configuration import SharedNetwork

LABEL = "org.ragops"
"""Label of every object that ragops creates; its value is the role, such as ``reranker``."""

LABEL_CONFIG = "org.ragops.config"
"""Label with :meth:`ContainerSpec.config_hash`."""

LABEL_NAME = "org.ragops.name"
"""Label with the configured name of a container, which may have another while it is replaced."""

LABEL_STACK = "org.ragops.stack"
"""Label of a gateway and its replicas with the configured name of the reranker: they belong together."""

LABEL_IMAGE = "org.ragops.image"
"""Label with the configured name of the image: the container is created from the id."""

LABEL_MODEL, LABEL_FINGERPRINT = "org.ragops.model", "org.ragops.model-fingerprint"
"""Labels with the model folder of a reranker, and with the fingerprint of its files."""

COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_SERVICE = "com.docker.compose.service"

IMAGE_ROLES = frozenset({"base", "image-build", "image", "demo-image", "gateway-image"})
"""Roles in the labels of images, which every container of the image inherits."""

OLDEST_API = "1.41"
"""The API version that ragops uses and is tested with: Docker 20.10."""

SNAP = "Docker's snap sees only folders below /home, /media and /mnt, and none that begins with a dot"

UNPRIVILEGED = 65532
"""User id of containers that need no other one; it owns nothing on the Docker host."""

LOG_OPTIONS = {"max-size": "10m", "max-file": "3"}
"""Rotation of a container's log; without it Docker keeps every line for ever."""

_UPDATABLE = (
    *("Memory", "MemorySwap", "NanoCpus", "CpuShares", "CpuQuota", "CpusetCpus", "PidsLimit"),
    "RestartPolicy",
)
"""Keys of ``HostConfig`` that ``docker update`` changes; compose sets them all, but not ``CpusetMems``."""

_SECOND = 1_000_000_000
_IDENTITY = {"name", "image", "image_id"}
_LATER = {"aliases", "stop_timeout"}
"""Fields that came later: while they are empty, containers of earlier versions have the right hash."""


@dataclass(frozen=True)
class Mount:
    """A folder, file or volume of the Docker host inside the container."""

    source: str
    target: str
    kind: Literal["bind", "volume"] = "bind"
    read_only: bool = False

    def argument(self) -> str:
        """The value of ``docker run --mount``."""
        tail = ",readonly" if self.read_only else ""
        return f"type={self.kind},source={self.source},target={self.target}{tail}"

    def body(self) -> dict[str, Any]:
        """The mount for the Engine API."""
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
        """The health check for the Engine API, times in nanoseconds."""
        return {
            "Test": ["CMD", *self.command],
            "Interval": self.interval * _SECOND,
            "Timeout": self.timeout * _SECOND,
            "StartPeriod": self.start_period * _SECOND,
            "Retries": self.retries,
        }


@dataclass(frozen=True)
class NetworkSpec:
    """A Docker network to create."""

    name: str
    driver: str = "bridge"
    subnet: str | None = None
    internal: bool = False
    encrypted: bool = False
    """Of an overlay network: what the nodes send each other."""

    def command(self) -> tuple[str, ...]:
        """The equivalent ``docker network create``."""
        argv = ["docker", "network", "create", "--driver", self.driver]
        if self.subnet:
            argv += ["--subnet", self.subnet]
        if self.internal:
            argv.append("--internal")
        argv += ["--attachable"] if self.driver == "overlay" else []
        argv += ["--opt", "encrypted"] if self.encrypted else []
        return (*argv, "--label", f"{LABEL}=network", self.name)


@dataclass(frozen=True)
class ContainerSpec:
    """A container to create, without capabilities or new privileges; sizes in bytes."""

    name: str
    image: str
    """Name as configured; :attr:`image_id` is what the container is created from, if it is known."""
    image_id: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[tuple[str, str], ...] = ()
    network: str | None = None
    aliases: tuple[str, ...] = ()
    """Further names in :attr:`network`, which several containers may share."""
    publish: tuple[tuple[str, int, int], ...] = ()
    """(host address, host port, container port)"""
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory: int = 0
    shm_size: int = 0
    pids_limit: int = 4096
    """Threads count too; enough for the compiler on many cores."""
    restart: str = "no"
    health: HealthCheck | None = None
    read_only: bool = False
    init: bool = False
    user: str = ""
    """User and group id, such as ``1000:1000``; the image's when empty."""
    stop_signal: str = ""
    stop_timeout: int = 0
    """Seconds between this signal and SIGKILL; Docker's 10 when 0."""
    role: str = "reranker"
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def served_name(self) -> str:
        """Served model name of a reranker; empty for other containers."""
        return option_value(self.command, "--served-model-name")

    def config_hash(self) -> str:
        """12 hexadecimal digits that change when any field but name and image changes."""
        ignored = _IDENTITY | {key for key in _LATER if not getattr(self, key)}
        fields = {key: value for key, value in asdict(self).items() if key not in ignored}
        text = json.dumps(fields, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def all_labels(self) -> dict[str, str]:
        """The four ragops labels and :attr:`labels`."""
        own = {LABEL: self.role, LABEL_CONFIG: self.config_hash(), LABEL_NAME: self.name}
        return {**own, LABEL_IMAGE: self.image, **dict(self.labels)}

    def docker_command(self) -> tuple[str, ...]:
        """The equivalent ``docker run`` command."""
        argv = ["docker", "run", "--detach", "--name", self.name]
        argv += [part for option in self._flags() for part in option]
        argv += ["--read-only"] if self.read_only else []
        argv += ["--init"] if self.init else []
        if self.entrypoint:
            argv += ["--entrypoint", self.entrypoint[0]]
        return (*argv, self.image_id or self.image, *self.entrypoint[1:], *self.command)

    def body(self) -> dict[str, Any]:
        """The body of the Engine API's ``POST /containers/create`` (version 1.41)."""
        named = self.network and ":" not in self.network
        endpoint = {"Aliases": list(self.aliases)} if self.aliases else {}
        endpoints: dict[str, Any] = {str(self.network): endpoint} if named else {}
        return {
            "Image": self.image_id or self.image,
            "Entrypoint": list(self.entrypoint) or None,
            "Cmd": list(self.command) or None,
            "Env": [f"{name}={value}" for name, value in self.environment],
            "User": self.user,
            "StopSignal": self.stop_signal,
            "StopTimeout": self.stop_timeout or None,
            "Labels": self.all_labels(),
            "ExposedPorts": {f"{port}/tcp": {} for _, _, port in self.publish},
            "Healthcheck": self.health.body() if self.health else None,
            "HostConfig": self._host_body(),
            "NetworkingConfig": {"EndpointsConfig": endpoints},
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
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": self.read_only,
            "Init": self.init,
            "LogConfig": {"Type": "json-file", "Config": LOG_OPTIONS},
        }

    def updated(self, container: "ContainerState") -> tuple[str, ...]:
        """Limits and restart policy that ``docker update`` changed, as the Engine API names them."""
        wanted = self._host_body()
        return tuple(key for key in _UPDATABLE if (container.limits.get(key) or 0) != (wanted.get(key) or 0))

    def _flags(self) -> list[tuple[str, str]]:
        flags = [("--network", self.network or "")]
        flags += [("--network-alias", alias) for alias in self.aliases]
        for address, host, port in self.publish:
            flags.append(("--publish", f"{f'[{address}]' if ':' in address else address}:{host}:{port}"))
        flags += [("--mount", mount.argument()) for mount in self.mounts]
        flags += [("--tmpfs", f"{path}:{options}") for path, options in self.tmpfs]
        flags += [("--env", f"{name}={value}") for name, value in self.environment]
        flags += [("--cpuset-cpus", self.cpuset_cpus), ("--cpuset-mems", self.cpuset_mems)]
        flags += [("--memory", str(self.memory or "")), ("--shm-size", str(self.shm_size or ""))]
        flags += [("--pids-limit", str(self.pids_limit or ""))]
        flags += [("--restart", "" if self.restart == "no" else self.restart)]
        if self.health is not None:
            flags += [
                ("--health-cmd", shlex.join(self.health.command)),
                ("--health-interval", f"{self.health.interval}s"),
                ("--health-timeout", f"{self.health.timeout}s"),
                ("--health-start-period", f"{self.health.start_period}s"),
                ("--health-retries", str(self.health.retries)),
            ]
        flags += [("--cap-drop", "ALL"), ("--security-opt", "no-new-privileges")]
        flags += [("--user", self.user), ("--stop-signal", self.stop_signal)]
        flags += [("--stop-timeout", str(self.stop_timeout or "")), ("--log-driver", "json-file")]
        flags += [("--log-opt", f"{key}={value}") for key, value in LOG_OPTIONS.items()]
        flags += [("--label", f"{key}={value}") for key, value in self.all_labels().items()]
        return [(flag, value) for flag, value in flags if value]


@dataclass(frozen=True)
class EngineState:
    """A Docker engine; ``root`` is its data folder."""

    id: str
    """The same for all of its addresses."""
    address: str
    version: str
    api: str
    root: str
    kernel: str
    cgroup_driver: str = "cgroupfs"
    isolated: bool = False
    """Whether its networks are not of this host, but of a virtual machine (Docker Desktop) or rootless."""
    product: str = "Docker"
    """``Podman`` for an engine that only has Docker's API."""
    swarm: str = "inactive"
    """``manager``, ``worker``, or the state of its membership in a Swarm, such as ``inactive``."""
    node: str = ""
    """Its id as a node of a Swarm."""
    firewall: str = ""
    """How it sets rules, from Docker 29 on: ``iptables`` or ``nftables``."""
    live_restore: bool = False
    """Whether its containers run on while it is stopped."""

    @classmethod
    def from_api(cls, info: Mapping[str, Any], version: Mapping[str, Any], address: str) -> "EngineState":
        """From the responses to ``/info`` and ``/version``."""
        swarm = info.get("Swarm") or {}
        active = "manager" if swarm.get("ControlAvailable") else "worker"
        membership = swarm.get("LocalNodeState") or "inactive"
        return cls(
            id=info.get("ID") or address,
            address=address,
            version=version["Version"],
            api=version["ApiVersion"],
            root=info.get("DockerRootDir", ""),
            kernel=info.get("KernelVersion", ""),
            cgroup_driver=info.get("CgroupDriver", ""),
            isolated=info.get("OperatingSystem") == "Docker Desktop"
            or "name=rootless" in (info.get("SecurityOptions") or ()),
            product="Podman" if "Podman" in str(version.get("Components")) else "Docker",
            swarm=active if membership == "active" else membership,
            node=swarm.get("NodeID", ""),
            firewall=(info.get("FirewallBackend") or {}).get("Driver", ""),
            live_restore=bool(info.get("LiveRestoreEnabled")),
        )

    @property
    def release(self) -> int:
        """The first number of Docker's version; 0 for another product or a development version."""
        major = self.version.partition(".")[0]
        return int(major) if self.product == "Docker" and major.isdigit() else 0

    def hides(self, folder: Path) -> bool:
        """Whether it is Docker's snap, and this folder is empty for it: see :data:`SNAP`."""
        place, *below = folder.resolve().parts[1:] or ("",)
        hidden = any(name.startswith(".") for name in below)
        return self.root.startswith("/var/snap/") and (hidden or place not in {"home", "media", "mnt"})

    @property
    def keeps_others_out(self) -> bool:
        """Whether a port that is published on 127.0.0.1 is closed to other machines.

        Before Docker 28 they reach it by a route to the container's own address (moby pull request 49325).
        """
        return self.isolated or self.release >= 28

    @property
    def too_old(self) -> bool:
        """Whether its API is older than :data:`OLDEST_API`."""
        api, oldest = (tuple(map(int, version.split("."))) for version in (self.api, OLDEST_API))
        return api < oldest

    @property
    def socket(self) -> Path | None:
        """Its socket, if the address is one of this machine."""
        path = self.address.removeprefix("unix://")
        return Path(path) if path != self.address else None

    @property
    def cgroup_parent(self) -> str:
        """The parent cgroup of its containers, unless ``daemon.json`` sets another."""
        return "system.slice" if self.cgroup_driver == "systemd" else "docker"


@dataclass(frozen=True)
class NetworkState:
    """An existing network."""

    id: str
    name: str
    driver: str
    internal: bool
    subnets: tuple[str, ...]
    labels: Mapping[str, str]
    encrypted: bool = False

    @classmethod
    def from_api(cls, raw: Mapping[str, Any]) -> "NetworkState":
        """From an item of ``/networks``."""
        configs = (raw.get("IPAM") or {}).get("Config") or []
        subnets = tuple(config["Subnet"] for config in configs if "Subnet" in config)
        internal, labels = bool(raw.get("Internal")), raw.get("Labels") or {}
        encrypted = "encrypted" in (raw.get("Options") or {})
        return cls(raw["Id"], raw["Name"], raw["Driver"], internal, subnets, labels, encrypted)

    @property
    def ours(self) -> bool:
        """Whether ragops created it."""
        return LABEL in self.labels


@dataclass(frozen=True)
class Endpoint:
    """A container's connection to a network; without an address while the container is stopped."""

    network: str
    network_id: str
    address: str
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class ContainerState:
    """An existing container, running or stopped."""

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
    memory: int = 0
    """Memory limit in bytes; 0 without one."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """The part of ``HostConfig`` that ``docker update`` changes."""
    mounts: Mapping[str, str] = field(default_factory=dict)
    """Folders of the Docker host, by their path in the container."""

    @classmethod
    def from_api(cls, raw: Mapping[str, Any]) -> "ContainerState":
        """From the response to ``/containers/ID/json``."""
        state, config, settings = raw["State"], raw["Config"], raw["NetworkSettings"]
        networks, ports = settings.get("Networks") or {}, settings.get("Ports") or {}
        labels = config.get("Labels") or {}
        return cls(
            id=raw["Id"],
            name=raw["Name"].lstrip("/"),
            image=labels.get(LABEL_IMAGE) or config["Image"],
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
                Endpoint(name, entry["NetworkID"], entry["IPAddress"], tuple(entry.get("Aliases") or ()))
                for name, entry in sorted(networks.items())
            ),
            published=tuple(
                (binding["HostIp"], int(binding["HostPort"]), int(port.partition("/")[0]))
                for port, bindings in sorted(ports.items())
                for binding in bindings or ()
            ),
            labels=labels,
            command=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
            environment=tuple(config.get("Env") or ()),
            memory=raw["HostConfig"].get("Memory") or 0,
            limits={key: raw["HostConfig"].get(key) for key in _UPDATABLE},
            mounts={
                mount["Destination"]: mount["Source"]
                for mount in raw.get("Mounts") or ()
                if mount["Type"] == "bind"
            },
        )

    @property
    def running(self) -> bool:
        """Whether the main process exists: the container is running or paused, not restarting."""
        return self.status in {"running", "paused"}

    @property
    def condition(self) -> str:
        """Status and health in words."""
        return f"{self.status} {self.health}".strip()

    @property
    def serves(self) -> bool:
        """Whether it runs and its health check, if it has one, succeeds."""
        return self.status == "running" and self.health not in {"starting", "unhealthy"}

    @property
    def ours(self) -> bool:
        """Whether ragops created it; a user's container of our image has only the image's label."""
        return self.role not in {"", *IMAGE_ROLES}

    @property
    def role(self) -> str:
        """``reranker``, ``demo`` … when it is ours, else empty."""
        return self.labels.get(LABEL, "")

    @property
    def config(self) -> str:
        """Hash of the configuration that it was created from, else empty."""
        return self.labels.get(LABEL_CONFIG, "")

    @property
    def model(self) -> Path | None:
        """Model folder of a reranker, as recorded, else as mounted; None for other containers."""
        folder = self.labels.get(LABEL_MODEL) or self.mounts.get(option_value(self.command, "--model"))
        return Path(folder) if folder and self.role == "reranker" else None

    def host_url(self, *ports: int) -> str | None:
        """Where its host reaches it: the first port that is published, else the first at its own address."""
        published = {inside: (address, port) for address, port, inside in self.published}
        for inside in ports:
            if inside in published:
                address, port = published[inside]
                address = "127.0.0.1" if address in {"", "0.0.0.0", "::"} else address
                return f"http://{f'[{address}]' if ':' in address else address}:{port}"
        addresses = [endpoint.address for endpoint in self.endpoints if endpoint.address]
        return f"http://{addresses[0]}:{ports[0]}" if addresses else None

    def endpoint(self, network: str) -> Endpoint | None:
        """Its connection to the network of that name."""
        return next((endpoint for endpoint in self.endpoints if endpoint.network == network), None)


@dataclass(frozen=True)
class ImageState:
    """An existing image; ``size`` in bytes."""

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    size: int
    labels: Mapping[str, str]
    architecture: str
    layers: tuple[str, ...] = ()
    """Digests; those of an image that is built from this one begin with them."""

    @classmethod
    def from_api(cls, raw: Mapping[str, Any]) -> "ImageState":
        """From the response to ``/images/NAME/json``."""
        layers = tuple((raw.get("RootFS") or {}).get("Layers") or ())
        tags, digests = tuple(raw.get("RepoTags") or ()), tuple(raw.get("RepoDigests") or ())
        labels = (raw.get("Config") or {}).get("Labels") or {}
        return cls(raw["Id"], tags, digests, raw["Size"], labels, raw.get("Architecture", ""), layers)

    @property
    def names(self) -> tuple[str, ...]:
        """Its tags and digests."""
        return self.tags + self.digests


@dataclass(frozen=True)
class VolumeState:
    """An existing volume."""

    name: str
    labels: Mapping[str, str]

    @property
    def ours(self) -> bool:
        """Whether ragops created it."""
        return LABEL in self.labels


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

    def stack(self, name: str) -> tuple[ContainerState, ...]:
        """Gateway and replicas, also under another name: renamed, or left by an interrupted replacement.

        A stack without a gateway has no label of its own; before :data:`LABEL_NAME` there was an alias.
        """
        own = []
        for container in self.containers:
            aliases = (alias for endpoint in container.endpoints for alias in endpoint.aliases)
            names = {container.name, container.labels.get(LABEL_NAME), *aliases}
            if LABEL_STACK in container.labels:
                names = {container.labels[LABEL_STACK]}
            if container.role in {"reranker", "gateway"} and name in names:
                own.append(container)
        return tuple(own)

    def rerankers(self, name: str) -> tuple[ContainerState, ...]:
        """The containers of vLLM in a stack, as in :meth:`stack`."""
        return tuple(container for container in self.stack(name) if container.role == "reranker")

    def members(self, network: str) -> tuple[ContainerState, ...]:
        """Containers that are connected to a network, running or stopped."""
        return tuple(container for container in self.containers if container.endpoint(network))


@dataclass(frozen=True)
class StatsState:
    """CPU time in nanoseconds and memory in bytes that a container has used since its start."""

    cpu_ns: int
    throttled_ns: int
    memory_bytes: int
    """Without page cache that the kernel can reclaim."""

    @classmethod
    def from_api(cls, raw: Mapping[str, Any]) -> "StatsState":
        """From the response to ``/containers/ID/stats``."""
        cpu, memory = raw["cpu_stats"], raw["memory_stats"]
        throttling, details = cpu.get("throttling_data") or {}, memory.get("stats") or {}
        cached = details.get("total_inactive_file", details.get("inactive_file", 0))
        return cls(
            cpu_ns=cpu["cpu_usage"]["total_usage"],
            throttled_ns=throttling.get("throttled_time", 0),
            memory_bytes=max(0, memory.get("usage", 0) - cached),
        )


@dataclass(frozen=True)
class ExecResult:
    """Result of a command inside a container."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class EventState:
    """An event such as ``container start`` or ``network disconnect``; ``name`` is the object's."""

    kind: str
    action: str
    name: str
    exit_code: int = 0
    """Of ``container die``."""
    signal: int = 0
    """Of ``container kill``."""

    @classmethod
    def from_api(cls, raw: Mapping[str, Any]) -> "EventState":
        """From a line of ``/events``."""
        attributes = (raw.get("Actor") or {}).get("Attributes") or {}
        code, signal = int(attributes.get("exitCode", 0)), int(attributes.get("signal", 0))
        return cls(raw.get("Type", ""), raw.get("Action", ""), attributes.get("name", ""), code, signal)


def option_value(command: tuple[str, ...], option: str) -> str:
    """The word after an option in a command; empty without it."""
    return command[command.index(option) + 1] if option in command[:-1] else ""


def differences(configured: SharedNetwork, network: NetworkState) -> tuple[str, ...]:
    """The options of an existing network that differ from its configuration."""
    rows = (
        ("driver", network.driver, configured.driver),
        ("internal", network.internal, configured.internal),
        ("subnet", ", ".join(network.subnets), configured.subnet),
        ("encrypted", network.encrypted, configured.encrypted),
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


def overlapping_subnets(subnet: str, others: Iterable[str]) -> tuple[str, ...]:
    """Those of the other subnets that overlap this one."""
    network = ip_network(subnet, strict=False)
    return tuple(other for other in others if ip_network(other, strict=False).overlaps(network))
