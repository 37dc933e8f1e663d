"""Docker Swarm's objects as frozen records; pure.

:class:`ServiceSpec` describes a service to create; states are what a manager of the Swarm reports, read by
``engine.py``. Ragops creates no Swarm, and joins and leaves none.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ragops.docker.objects import LABEL, LABEL_CONFIG, LABEL_IMAGE, LOG_OPTIONS, ContainerSpec

TASK = "task"
"""Role of the containers that Swarm starts and removes; that of services is the container's own."""

NODE, NODES = "RAGOPS_NODE", "RAGOPS_NODES"
"""Environment of a task: the id of its node, and what differs between nodes, as JSON by their ids."""

_SECOND = 1_000_000_000
_DELAY = 10
"""Seconds between two tasks of an update: the gateway admits a new one meanwhile."""


@dataclass(frozen=True)
class NodeState:
    """A node of the Swarm; ``memory`` in bytes."""

    id: str
    name: str
    address: str
    role: str
    availability: str
    state: str
    cpus: float
    memory: int

    @classmethod
    def from_api(cls, raw: Mapping[str, Any]) -> "NodeState":
        """From an item of ``/nodes``."""
        spec, status, description = raw["Spec"], raw["Status"], raw.get("Description") or {}
        resources = description.get("Resources") or {}
        return cls(
            id=raw["ID"],
            name=description.get("Hostname", ""),
            address=status.get("Addr", ""),
            role=spec.get("Role", ""),
            availability=spec.get("Availability", ""),
            state=status.get("State", ""),
            cpus=resources.get("NanoCPUs", 0) / 1e9,
            memory=resources.get("MemoryBytes", 0),
        )

    @property
    def ready(self) -> bool:
        """Whether Swarm may start tasks on it."""
        return self.state == "ready" and self.availability == "active"


@dataclass(frozen=True)
class ServiceSpec:
    """A service of one container on each of several nodes; found by its name, never by a virtual address."""

    container: ContainerSpec
    """Name, image, network and limits. Swarm has no CPU set and no publishing: they are left out."""
    replicas: int = 1
    """Number of nodes with a task; 0 for one that runs once on each node."""
    configs: tuple[tuple[str, str], ...] = ()
    """Files: (name of a Swarm config, path in the container)."""
    nodes: str = ""
    """Value of :data:`NODES`."""
    constraints: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the service, and of its tasks' addresses in the network."""
        return self.container.name

    def config_hash(self) -> str:
        """12 hexadecimal digits that change with everything but image, number and nodes."""
        text = json.dumps([self.container.config_hash(), self.configs])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def task_hash(self) -> str:
        """12 hexadecimal digits that change with everything that a task is started from."""
        text = json.dumps([self.config_hash(), self.container.image_id, self.nodes])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def labels(self) -> dict[str, str]:
        """The labels of the service."""
        own = {LABEL: self.container.role, LABEL_CONFIG: self.config_hash()}
        return {**own, LABEL_IMAGE: self.container.image, **dict(self.container.labels)}

    def body(self, configs: Mapping[str, str]) -> dict[str, Any]:
        """The body of the Engine API's ``POST /services/create`` (version 1.41); ids of configs by name."""
        pause = _DELAY * _SECOND
        update = {
            "Parallelism": 1,
            "Order": "stop-first",
            "Delay": pause,
            "Monitor": pause,
            "MaxFailureRatio": 0,
        }
        return {
            "Name": self.name,
            "Labels": self.labels(),
            "TaskTemplate": self._task(configs),
            "Mode": {"Replicated": {"Replicas": self.replicas}} if self.replicas else {"Global": {}},
            "UpdateConfig": {**update, "FailureAction": "rollback"} if self.replicas else None,
            "RollbackConfig": {**update, "FailureAction": "pause"} if self.replicas else None,
            "EndpointSpec": {"Mode": "dnsrr"},
        }

    def _task(self, configs: Mapping[str, str]) -> dict[str, Any]:
        spec, limits = self.container, {"Pids": self.container.pids_limit}
        memory = {"MemoryBytes": spec.memory} if spec.memory else {}
        networks = [{"Target": spec.network, "Aliases": list(spec.aliases)}] if spec.network else []
        return {
            "ContainerSpec": self._container(configs),
            "Resources": {"Limits": {**limits, **memory}, "Reservations": memory},
            "RestartPolicy": {"Condition": "any" if self.replicas else "none"},
            "Placement": {"Constraints": list(self.constraints), "MaxReplicas": 1 if self.replicas else 0},
            "Networks": networks,
            "LogDriver": {"Name": "json-file", "Options": LOG_OPTIONS},
        }

    def _container(self, configs: Mapping[str, str]) -> dict[str, Any]:
        spec, file = self.container, {"UID": "0", "GID": "0", "Mode": 0o444}
        environment = {**dict(spec.environment), NODE: "{{.Node.ID}}"}
        environment |= {NODES: self.nodes} if self.nodes else {}
        shm = [("/dev/shm", f"size={spec.shm_size}")] if spec.shm_size else []  # noqa: S108 - a mount
        in_memory = [_tmpfs(*item) for item in (*spec.tmpfs, *shm)]
        return {
            "Image": spec.image_id or spec.image,
            "Command": list(spec.entrypoint),
            "Args": list(spec.command),
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "User": spec.user,
            "Labels": {LABEL: TASK, LABEL_CONFIG: self.task_hash()},
            "Mounts": [*(mount.body() for mount in spec.mounts), *in_memory],
            "Configs": [
                {"ConfigID": configs[name], "ConfigName": name, "File": {"Name": target, **file}}
                for name, target in self.configs
            ],
            "Healthcheck": spec.health.body() if spec.health else None,
            "StopSignal": spec.stop_signal,
            "StopGracePeriod": spec.stop_timeout * _SECOND or None,
            "ReadOnly": spec.read_only,
            "Init": spec.init,
            "CapabilityDrop": ["ALL"],
            "Privileges": {"NoNewPrivileges": True},  # ignored before Docker 26
        }


def _tmpfs(target: str, options: str) -> dict[str, Any]:
    """A file system in memory; Docker mounts it without devices, programs and their rights."""
    values = dict(part.split("=") for part in options.split(",") if "=" in part)
    size, unit = re.fullmatch(r"(\d+)(m?)", values["size"]).groups()  # type: ignore[union-attr]
    settings = {"SizeBytes": int(size) << (20 if unit else 0), "Mode": int(values.get("mode", "1777"), 8)}
    return {"Type": "tmpfs", "Target": target, "TmpfsOptions": settings}


@dataclass(frozen=True)
class ServiceState:
    """An existing service."""

    id: str
    version: int
    """Number of its last change, which an update has to name."""
    name: str
    image: str
    replicas: int
    nodes: str
    configs: tuple[str, ...]
    constraints: tuple[str, ...]
    networks: tuple[str, ...]
    """Ids, or names, of those of its tasks."""
    labels: Mapping[str, str]
    update: str = ""
    """State of the last update, such as ``completed``, ``rollback_started``; empty before the first."""

    @classmethod
    def from_api(cls, raw: Mapping[str, Any]) -> "ServiceState":
        """From an item of ``/services``."""
        spec, task = raw["Spec"], raw["Spec"]["TaskTemplate"]
        container = task["ContainerSpec"]
        environment = dict(line.partition("=")[::2] for line in container.get("Env") or ())
        return cls(
            id=raw["ID"],
            version=raw["Version"]["Index"],
            name=spec["Name"],
            image=container["Image"],
            replicas=(spec["Mode"].get("Replicated") or {}).get("Replicas", 0),
            nodes=environment.get(NODES, ""),
            configs=tuple(config["ConfigName"] for config in container.get("Configs") or ()),
            constraints=tuple((task.get("Placement") or {}).get("Constraints") or ()),
            networks=tuple(network["Target"] for network in task.get("Networks") or ()),
            labels=spec.get("Labels") or {},
            update=(raw.get("UpdateStatus") or {}).get("State", ""),
        )

    @property
    def role(self) -> str:
        """``reranker`` or ``gateway`` when it is ours, else empty."""
        return self.labels.get(LABEL, "")

    @property
    def config(self) -> str:
        """:meth:`ServiceSpec.config_hash` of what it was created from."""
        return self.labels.get(LABEL_CONFIG, "")


@dataclass(frozen=True)
class TaskState:
    """A task: one container that Swarm runs, or ran, on a node."""

    id: str
    service: str
    slot: int
    node: str
    """Id of the node; empty while it waits for one."""
    state: str
    desired: str
    error: str
    """Why it does not run, in the words of Swarm or of the container's end."""
    addresses: tuple[str, ...]
    config: str = ""
    """:meth:`ServiceSpec.task_hash` of what it was started from."""
    created: str = ""

    @classmethod
    def from_api(cls, raw: Mapping[str, Any]) -> "TaskState":
        """From an item of ``/tasks``."""
        status, networks = raw["Status"], raw.get("NetworksAttachments") or ()
        container = (raw.get("Spec") or {}).get("ContainerSpec") or {}
        addresses = (address for network in networks for address in network.get("Addresses") or ())
        return cls(
            id=raw["ID"],
            service=raw.get("ServiceID", ""),
            slot=raw.get("Slot", 0),
            node=raw.get("NodeID", ""),
            state=status["State"],
            desired=raw.get("DesiredState", ""),
            error=status.get("Err") or ("" if status["State"] == "running" else status.get("Message", "")),
            addresses=tuple(address.partition("/")[0] for address in addresses),
            config=(container.get("Labels") or {}).get(LABEL_CONFIG, ""),
            created=raw.get("CreatedAt", ""),
        )


@dataclass(frozen=True)
class SwarmState:
    """What a manager reports: all nodes, and ragops' own services, tasks and configs."""

    nodes: tuple[NodeState, ...]
    services: tuple[ServiceState, ...] = ()
    tasks: tuple[TaskState, ...] = ()
    configs: Mapping[str, str] = field(default_factory=dict)
    """Ids by name."""

    def service(self, name: str) -> ServiceState | None:
        """The service of that name, if it is ours."""
        return next((service for service in self.services if service.name == name), None)

    def node(self, id_: str) -> NodeState | None:
        """The node of that id."""
        return next((node for node in self.nodes if node.id == id_), None)

    def tasks_of(self, name: str) -> tuple[TaskState, ...]:
        """The newest task of each slot of a service that it wants to run, in the order of their numbers."""
        service = self.service(name)
        own = [task for task in self.tasks if service and task.service == service.id]
        wanted = [task for task in own if task.desired in {"running", "ready", "complete"}]
        wanted.sort(key=lambda task: task.created)
        newest = {(task.slot, task.slot or task.node): task for task in wanted}
        return tuple(newest[key] for key in sorted(newest))
