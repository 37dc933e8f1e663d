"""What is asked of Docker, as frozen declarations; pure.

``vllm.py`` makes a :class:`ContainerSpec`, ``planning.py`` compares it with what the
engine has, ``engine.py`` carries it out.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

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
