"""A Swarm in memory, for ``fake_engine.py``: tasks run as soon as they have a node."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ragops.docker.swarm import NodeState, ServiceState, SwarmState, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ragops.docker.swarm import ServiceSpec

GIB = 1 << 30
NO_NODE = "no suitable node (max replicas per node limit exceed)"


class FakeSwarm:
    """The part of a fake engine that is a manager of a Swarm, while :attr:`nodes` is not empty."""

    _called: Callable[[str], str]
    _allow: Callable[[str, str], None]
    _ids: Iterator[str]

    def __init__(self) -> None:
        self.nodes: list[NodeState] = []
        self.service_output: dict[str, str] = {}
        """What the tasks of a service of that name have logged."""
        self.updates: dict[str, str] = {}
        """State of the update that the service of that name gets next."""
        self.task_state = ("running", "")
        """State and error of a task that has a node."""
        self.leaderless = False
        """Whether fewer than half of the managers run."""
        self._services: dict[str, ServiceState] = {}
        self._tasks: list[TaskState] = []
        self._configs: dict[str, str] = {}
        self._hashes: dict[str, str] = {}
        self.config_data: dict[str, bytes] = {}

    def join(self, *names: str, cpus: float = 4, memory: int = 64 * GIB) -> None:
        """Nodes of a Swarm, the first of which is the engine itself."""
        for name in names:
            role, number = ("worker" if self.nodes else "manager"), len(self.nodes) + 1
            address = f"10.200.0.{number}"
            self.nodes.append(NodeState(f"{name}-id", name, address, role, "active", "ready", cpus, memory))

    def change_node(self, name: str, **fields: Any) -> None:
        """Set fields of a node, such as ``state="down"``."""
        self.nodes = [replace(node, **fields) if node.name == name else node for node in self.nodes]
        for service in self._services.values():
            self._place(service)

    def change_update(self, service: str, state: str) -> None:
        """Set the state of a service's update."""
        self._services[service] = replace(self._services[service], update=state)

    def change_task(self, service: str, slot: int, **fields: Any) -> None:
        """Set fields of a task."""
        own = self._services[service].id
        self._tasks = [
            replace(task, **fields) if (task.service, task.slot) == (own, slot) else task
            for task in self._tasks
        ]

    def swarm(self, *, needed: bool = True) -> SwarmState | None:
        """None while there are no nodes."""
        if not self.nodes:
            return None
        if self.leaderless:
            if not needed:
                return None
            self._allow("list the nodes of its Swarm", "rpc error: desc = The swarm does not have a leader.")
        services = tuple(self._services.values())
        return SwarmState(tuple(self.nodes), services, tuple(self._tasks), dict(self._configs))

    def create_service(self, spec: ServiceSpec, configs: Mapping[str, str]) -> None:
        """Refuses names that are there."""
        what = self._called(f"create service {spec.name}")
        if spec.name in self._services:
            message = (
                f"rpc error: code = AlreadyExists desc = name conflicts with an existing object: {spec.name}"
            )
            self._allow(what, message)
        self._set(spec, configs, ServiceState(next(self._ids), 1, "", "", 0, "", (), (), (), {}))

    def update_service(self, service: ServiceState, spec: ServiceSpec, configs: Mapping[str, str]) -> None:
        """Refuses a version that is not the last."""
        what = self._called(f"update service {spec.name}")
        if self._services[spec.name].version != service.version:
            self._allow(what, "rpc error: code = Unknown desc = update out of sequence")
        state = self.updates.pop(spec.name, "completed")
        changed = replace(service, version=service.version + 1, update=state)
        if state.startswith("rollback"):
            self._services[spec.name] = changed
        else:
            self._set(spec, configs, changed)

    def change_service(
        self,
        service: ServiceState,
        *,
        replicas: int | None = None,
        constraints: tuple[str, ...] | None = None,
    ) -> None:
        """Tasks that may stay do."""
        self._called(f"update service {service.name}")
        state = self._services[service.name]
        changed = replace(
            state,
            version=state.version + 1,
            replicas=state.replicas if replicas is None else replicas,
            constraints=state.constraints if constraints is None else constraints,
        )
        self._services[service.name] = changed
        self._place(changed)

    def remove_service(self, service: str) -> None:
        """By name or id."""
        name = next(s.name for s in self._services.values() if service in {s.id, s.name})
        self._called(f"remove service {name}")
        own = self._services.pop(name).id
        self._tasks = [task for task in self._tasks if task.service != own]

    def service_logs(self, service: str, *, tail: int = 1000) -> str:
        """What :attr:`service_output` has."""
        name = next(s.name for s in self._services.values() if service in {s.id, s.name})
        return "\n".join(self.service_output.get(name, "").splitlines()[-tail:])

    def create_config(self, name: str, data: bytes) -> None:
        """Kept by name."""
        self._called(f"create config {name}")
        self._configs[name] = next(self._ids)
        self.config_data[name] = data

    def remove_config(self, config: str) -> None:
        """Refused while a service has it."""
        name = next(name for name, number in self._configs.items() if config in {name, number})
        what = self._called(f"remove config {name}")
        if users := [service.name for service in self._services.values() if name in service.configs]:
            self._allow(what, f"rpc error: code = InvalidArgument desc = config is in use by: {users[0]}")
        del self._configs[name]

    def _set(self, spec: ServiceSpec, configs: Mapping[str, str], before: ServiceState) -> None:
        """A service as the Engine API reports what it was created with."""
        body = spec.body(configs)
        raw = {"ID": before.id, "Version": {"Index": before.version}, "Spec": body}
        state = replace(ServiceState.from_api(raw), update=before.update)
        self._services[spec.name] = state
        self._hashes[spec.name] = spec.task_hash()
        self._place(state)

    def _place(self, service: ServiceState) -> None:
        """One task on each node that may have one; further tasks are pending."""
        others = [task for task in self._tasks if task.service != service.id]
        nodes = [node for node in self.nodes if node.ready and self._allows(service, node)]
        count = service.replicas or len(nodes)
        tasks = []
        for slot in range(1, count + 1):
            node = nodes[slot - 1] if slot <= len(nodes) else None
            state, error = self.task_state if node else ("pending", NO_NODE)
            number, address = next(self._ids), f"10.0.9.{10 * len(self._services) + slot}"
            tasks.append(
                TaskState(
                    id=number,
                    service=service.id,
                    slot=slot if service.replicas else 0,
                    node=node.id if node else "",
                    state=state if service.replicas else "complete",
                    desired="running" if service.replicas else "complete",
                    error=error,
                    addresses=(address,) if node else (),
                    config=self._hashes[service.name],
                )
            )
        self._tasks = [*others, *tasks]

    @staticmethod
    def _allows(service: ServiceState, node: NodeState) -> bool:
        return f"node.id!={node.id}" not in [text.replace(" ", "") for text in service.constraints]
