"""Replicas on the nodes of a Docker Swarm: their services, the actions that change them, and their state.

Swarm starts, restarts and updates the tasks: one on each node, one after another, undone where a new one has
wrong scores. :func:`services` is pure; :class:`PlaceService` waits until Swarm has done it.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ragops.checks import ready
from ragops.checks.ready import ReplicaStatus
from ragops.configuration import Stack
from ragops.docker import hints, objects
from ragops.docker.engine import Engine, sidecar
from ragops.docker.objects import ContainerSpec, ContainerState, ImageState, Observed
from ragops.docker.swarm import TASK, NodeState, ServiceSpec, ServiceState, SwarmState, TaskState
from ragops.errors import EngineError, LaunchError, StackError, file_errors
from ragops.progress import step
from ragops.reranker import options
from ragops.reranker.gateway import REFERENCE, GatewayState
from ragops.reranker.host import format_cpu_list, parse_probe
from ragops.session import Deployment, Session
from ragops.stack import plan

_OWN = {"VLLM_CPU_OMP_THREADS_BIND", "TORCHINDUCTOR_COMPILE_THREADS"}
"""Variables that differ between nodes."""
_PROBE_SECONDS = 300.0
_PLACE_SECONDS = 15.0
"""Until a task without a node is taken for one that gets none."""
_PENDING_SECONDS = 60.0
"""Until it is an error that no task has a node: one that ended may still have had the memory."""
_ENDED = {"complete", "failed", "rejected", "shutdown", "orphaned", "remove"}
_JOIN = "docker swarm init here; then on each other machine the command of: docker swarm join-token worker"


def manager(session: Session) -> SwarmState:
    """The state of the Swarm that this engine manages.

    Raises:
        StackError: It manages none, or the Swarm has fewer nodes than replicas or gateways.
    """
    swarm, stack, engine = session.swarm, session.stack, session.state.swarm
    if swarm is None:
        worker = engine == "worker"
        raise StackError(
            f"this Docker engine {'is a worker of a Swarm' if worker else f'manages no Swarm: {engine}'}",
            code="swarm-missing",
            hint="run ragops on a manager; or here, after on one: docker node promote" if worker else _JOIN,
        )
    needed = {"replicas": stack.reranker.replicas, "gateways": stack.swarm.gateways if stack.swarm else 1}
    for what, count in needed.items():
        if count <= len(swarm.nodes):
            continue
        raise StackError(
            f"{count} {what} need {count} nodes, the Swarm has {len(swarm.nodes)}",
            code="nodes-few",
            evidence=", ".join(node.name for node in swarm.nodes),
            hint="on another machine the command of: docker swarm join-token worker",
        )
    return swarm


def probe(session: Session, image: ImageState) -> bool:
    """Read processor and model of each new node; returns whether there was one.

    Raises:
        StackError: A node has no such model or image, or another one.
        EngineError: A node printed no record.
    """
    model, engine, nodes = session.deployment.model, session.engine, unprobed(session)
    if not nodes:
        return False
    step(f"reading {', '.join(node.name for node in nodes)}")
    mount = next(mount for mount in session.deployment.spec.mounts if mount.source == str(model.folder))
    container = ContainerSpec(
        name=session.stack.derived_name("probe"),
        image=session.stack.reranker.image,
        image_id=_image(image),
        entrypoint=options.task("node", mount.target),
        mounts=(mount,),
        user=session.deployment.spec.user,
        role="probe",
        labels=((objects.LABEL_STACK, session.stack.reranker.name),),
    )
    names = {node.id: node.name for node in nodes}
    lines = _run_once(engine, ServiceSpec(container, replicas=0), names, model.folder)
    for record in map(parse_probe, lines):
        if record.node in names and record.fingerprint != model.fingerprint:
            evidence = record.error or f"its files have {record.fingerprint[:12]}"
            raise _unfit(names[record.node], evidence, model.folder)
    file, hint = session.probe_file, "make it writable for this user, or name another folder: RAGOPS_HOME"
    with file_errors(StackError, f"can't write {file}", file, code="home-unusable", hint=hint):
        before = file.read_text().splitlines() if file.exists() else []
        known = {record.node for record in session.records} - names.keys()
        lines += [line for line in before if any(f'"{node}"' in line for node in known)]
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return True


def unprobed(session: Session) -> list[NodeState]:
    """Nodes that may get a replica, and whose processor and model are not known."""
    known = {r.node for r in session.records if r.fingerprint == session.deployment.model.fingerprint}
    return [node for node in manager(session).nodes if node.ready and node.id not in known]


def _run_once(engine: Engine, spec: ServiceSpec, nodes: dict[str, str], folder: Path) -> list[str]:
    """What a service of one task on each of these nodes prints: a line each."""
    deadline = time.monotonic() + _PROBE_SECONDS
    _discard(engine, spec.name)
    engine.create_service(spec, {})
    try:
        while True:
            swarm = _state(engine)
            service = swarm.service(spec.name)
            for task in swarm.tasks if service else ():
                failed = task.state in _ENDED - {"complete", "shutdown"}
                if service and task.service == service.id and task.node in nodes and failed:
                    raise _unfit(nodes[task.node], task.error, folder)
            lines = [line for line in engine.service_logs(spec.name).splitlines() if line.startswith("{")]
            if {json.loads(line)["node"] for line in lines} >= set(nodes):
                return [line for line in lines if json.loads(line)["node"] in nodes]
            if time.monotonic() > deadline:
                left = ", ".join(sorted(set(nodes.values())))
                raise EngineError(f"{left} printed no record", code="probe-silent", hint="docker node ls")
            time.sleep(0.5)
    finally:
        _discard(engine, spec.name)


def _unfit(node: str, evidence: str, folder: Path) -> StackError:
    if "No such image" in evidence:
        message, hint = f"node {node} lacks the image", f"docker save IMAGE | ssh {node} docker load"
        return StackError(message, code="node-image", evidence=evidence, hint=hint)
    return StackError(
        f"node {node} does not have the model in {folder}",
        code="node-model",
        evidence=evidence,
        hint=f"rsync -a --delete {folder}/ {node}:{folder}/",
    )


def services(
    deployment: Deployment,
    image: ImageState | None,
    front: ImageState | None,
    node: str,
    check: plan.ScoreCheck,
) -> tuple["PlaceService", ...]:
    """The services of a stack: the replicas, and further gateways on other nodes than this one."""
    stack, task, sizings = deployment.stack, deployment.spec, deployment.sizings
    needed = max(sizing.memory.required for sizing in sizings)
    table = {
        name: {
            "cores": format_cpu_list(core.cpu for core in sizing.cores),
            "environment": {
                setting.name: setting.value
                for setting in options.environment(stack, deployment.model, sizing)
                if setting.name in _OWN
            },
        }
        for name, sizing in zip(deployment.nodes, sizings, strict=False)
    }
    timeout = stack.reranker.ready_timeout
    health = objects.HealthCheck(options.task("health"), interval=5, timeout=120, retries=12)
    files = [mount for mount in task.mounts if mount.target.startswith("/templates/")]
    container = replace(
        task,
        image_id=_image(image),
        entrypoint=options.task("start"),
        command=(*task.entrypoint, *task.command),
        environment=tuple(item for item in task.environment if item[0] not in _OWN),
        mounts=tuple(mount for mount in task.mounts if mount not in files),
        memory=max(min(sizing.memory_limit for sizing in sizings), needed),
        aliases=(),
        cpuset_cpus="",
        cpuset_mems="",
        health=replace(health, start_period=timeout),
    )
    reference_file = ConfigFile(_prefix(stack, "reference"), check.file, "/reference.json")
    templates = [ConfigFile(_prefix(stack, "template"), Path(m.source), m.target) for m in files]
    spec = ServiceSpec(container, stack.reranker.replicas, nodes=json.dumps(table, sort_keys=True))
    due, name = None if check.known else check, stack.derived_name("check")
    placed = PlaceService(spec, (reference_file, *templates), timeout, check=due, check_name=name)
    further = stack.swarm.gateways - 1 if stack.swarm else 0
    if not (further and deployment.gateway):
        return (placed,)
    gateway = replace(
        deployment.gateway,
        name=stack.derived_name("gateway"),
        image_id=_image(front),
        aliases=(stack.reranker.name,),
        environment=tuple(item for item in deployment.gateway.environment if item[0] != "GATEWAY_FOLDER"),
        mounts=(),
        publish=(),
    )
    target = f"{REFERENCE}/reference.json"
    fronts = ServiceSpec(gateway, further, constraints=(f"node.id!={node}",))
    more = PlaceService(fronts, (replace(reference_file, target=target),), timeout)
    return (replace(placed, gateways=(more,)), more)


def _image(image: ImageState | None) -> str:
    """The image by digest; by its id where no registry has it, which has to be the same on each node."""
    return (*image.digests, image.id)[0] if image else ""


def _prefix(stack: Stack, kind: str) -> str:
    return stack.derived_name(f"{kind}-{'0' * 12}")[:-13]


@dataclass(frozen=True)
class ConfigFile:
    """A file of this host that the tasks get as a Swarm config."""

    prefix: str
    file: Path
    target: str

    @property
    def name(self) -> str:
        """Its name as a config, which changes with its content."""
        content = self.file.read_bytes() if self.file.exists() else b""
        return f"{self.prefix}-{hashlib.sha256(content).hexdigest()[:12]}"


@dataclass(frozen=True)
class PlaceService(plan.Action):
    """Create or update a service, and wait until Swarm has done it; scores of a new model come first."""

    placed: ServiceSpec
    files: tuple[ConfigFile, ...]
    timeout: float
    reason: str = ""
    """Why it is updated; empty for a new one."""
    check: plan.ScoreCheck | None = None
    """Of the scores; None where they are known."""
    check_name: str = ""
    gateways: tuple["PlaceService", ...] = ()
    """Services that get its reference as soon as there is a replica of the new model."""

    @property
    def spec(self) -> ServiceSpec:
        """The service with the names of its configs."""
        return replace(self.placed, configs=tuple((file.name, file.target) for file in self.files))

    def describe(self) -> str:
        number = f"{self.placed.replicas} of {self.placed.container.image}, each on a node of its own"
        if not self.reason:
            return f"+ create service {self.placed.name}: {number}"
        return f"~ update service {self.placed.name}: {self.reason} (one task after another)"

    def commands(self) -> tuple[plan.Command, ...]:
        return ()

    def apply(self, engine: Engine) -> None:
        check = self.check
        stored = check.file.read_bytes() if check and check.file.exists() else None
        former = _state(engine).service(self.placed.name)
        try:
            if check:
                self._check_scores(engine, check)
            self.place(engine)
            self._remove_unused(engine)
        except LaunchError:
            if check:
                check.store(stored)  # the gateway would reject the former tasks
            if check and former:
                engine.change_service(former, replicas=former.replicas)
                self._update_gateways(engine)
            raise

    def _update_gateways(self, engine: Engine) -> None:
        """Give further gateways the present reference, as far as they run; a failure is met again later."""
        for gateway in self.gateways if self.check else ():
            if _state(engine).service(gateway.placed.name):
                with suppress(LaunchError):
                    gateway.place(engine)

    def place(self, engine: Engine) -> None:
        """Create the service, or update it where it differs; without checking scores."""
        spec, swarm = self.spec, _state(engine)
        for config in self.files:
            if config.name not in swarm.configs:
                engine.create_config(config.name, config.file.read_bytes())
        swarm = _state(engine)
        service = swarm.service(spec.name)
        if service is None:
            engine.create_service(spec, swarm.configs)
        elif difference(service, spec):
            engine.update_service(service, spec, swarm.configs)
        if service is None or difference(service, spec):  # else its update is a former one
            self._settle(engine, spec)

    def _remove_unused(self, engine: Engine) -> None:
        """Remove former files, which Swarm needs to undo an update."""
        swarm = _state(engine)
        used = {name for item in swarm.services for name in item.configs}
        prefixes = tuple(f"{file.prefix}-" for file in self.files)
        for name, number in swarm.configs.items():
            if name[:-12] in prefixes and name not in used:
                engine.remove_config(number)

    def _settle(self, engine: Engine, spec: ServiceSpec) -> None:
        """Wait until Swarm has started all tasks that have a node; an error if it has undone the update."""
        begin, shown = time.monotonic(), -1
        former = {task.id for task in _state(engine).tasks if task.state in _ENDED}
        while True:
            swarm = _state(engine)
            service, tasks = swarm.service(spec.name), swarm.tasks_of(spec.name)
            current = [task for task in tasks if task.config == spec.task_hash()]
            running = sum(task.state == "running" for task in current)
            waiting = sum(task.state == "pending" for task in current)
            passed = time.monotonic() - begin
            update = service.update if service else ""
            if update in {"paused", "rollback_completed", "rollback_paused"}:
                raise _failure(engine, swarm, spec, f"Swarm has undone the update of {spec.name}")
            if running != shown:
                shown = running
                step(f"{spec.name}: {running} of {spec.replicas} tasks run")
                if running and spec.name == self.placed.name:
                    self._update_gateways(engine)  # before the last replica of the former model ends
            done = running + waiting == len(tasks) == spec.replicas and update in {"", "completed"}
            if done and (not waiting or (running and passed > _PLACE_SECONDS)):
                return
            ended = [task for task in swarm.tasks if task.id not in former]
            failed = [task for task in ended if service and task.service == service.id]
            failed = [task for task in failed if task.config == spec.task_hash() and task.state in _ENDED]
            pending = waiting == spec.replicas and passed > _PENDING_SECONDS
            ending = len(failed) > 2 * spec.replicas and not update
            if pending or ending or passed > self.timeout * max(1, spec.replicas):
                raise _failure(engine, swarm, spec, f"{spec.name}: {running} of {spec.replicas} tasks run")
            time.sleep(1)

    def _check_scores(self, engine: Engine, check: plan.ScoreCheck) -> None:
        """Start one more replica, and check its scores from inside the network."""
        container = replace(self.placed.container, name=self.check_name, aliases=())
        configs = [(file.name, file.target) for file in self.files if file.target != "/reference.json"]
        spec = replace(self.placed, container=container, replicas=1, configs=tuple(configs))
        for config in self.files[1:]:
            if config.name not in _state(engine).configs:
                engine.create_config(config.name, config.file.read_bytes())
        _discard(engine, spec.name)
        engine.create_service(spec, _state(engine).configs)
        try:
            self._make_room(engine, spec.name)
            self._settle(engine, spec)
            task = _state(engine).tasks_of(spec.name)[0]
            with sidecar(engine, str(container.network), container.image_id, python=True) as client:
                check.run(engine, client, container.image_id, f"{task.addresses[0]}:{options.PORT}")
        finally:
            _discard(engine, spec.name)

    def _make_room(self, engine: Engine, name: str) -> None:
        """Stop one of the former replicas where no node has the memory for one more."""
        deadline = time.monotonic() + _PLACE_SECONDS
        while any(task.state == "pending" for task in _state(engine).tasks_of(name)):
            service = _state(engine).service(self.placed.name)
            if time.monotonic() > deadline:
                if service and service.replicas > 0:
                    step(f"{service.name}: one replica less during the score check")
                    engine.change_service(service, replicas=service.replicas - 1)
                return
            time.sleep(1)


@dataclass(frozen=True)
class ExcludeNode(plan.Action):
    """Keep the tasks of a service off a node, whose memory is needed; those of other nodes run on."""

    service: ServiceState
    node: str
    replicas: int
    change = "~ update service {service.name}: none on this node, whose memory is needed"

    def commands(self) -> tuple[plan.Command, ...]:
        words = ("--constraint-add", f"node.id!={self.node}", "--replicas", str(self.replicas))
        return (("docker", "service", "update", *words, self.service.name),)

    def apply(self, engine: Engine) -> None:
        constraints = (f"node.id!={self.node}",)
        engine.change_service(self.service, replicas=self.replicas, constraints=constraints)
        deadline = time.monotonic() + _PLACE_SECONDS
        while any(one.role == TASK and one.running for one in engine.containers()):
            if time.monotonic() > deadline:
                return
            time.sleep(1)


@dataclass(frozen=True)
class Placement:
    """The Swarm's part of a plan; pure."""

    stack: Stack
    observed: Observed
    swarm: SwarmState | None
    node: str
    """Id of this engine's node."""
    wanted: tuple[PlaceService, ...] = ()
    """Empty where all replicas are to run on this machine."""
    free: int = 0
    """Memory in bytes for another container of vLLM."""

    @property
    def present(self) -> list[ServiceState]:
        """The services of the stack that exist."""
        services = self.swarm.services if self.swarm else ()
        name = self.stack.reranker.name
        return [item for item in services if item.labels.get(objects.LABEL_STACK) == name]

    @property
    def moves(self) -> bool:
        """Whether replicas are moved to the Swarm or from it, so that memory counts."""
        local = self.observed.rerankers(self.stack.reranker.name)
        return bool(local) if self.wanted else any(self._is_here(item) for item in self.present)

    def before(self, specs: tuple[ContainerSpec, ...]) -> Iterator[plan.Action]:
        """Where both have no place on this node: its task makes way for containers, or they for it."""
        passing = {self.stack.derived_name("check"), self.stack.derived_name("probe")}
        left = [service for service in self.present if service.name in passing]
        yield from (plan.Remove("service", service.name, service.id) for service in left)
        if crowded := self._crowded:
            if not self._others:
                yield from (plan.Remove("container", one.name, one.id) for one in crowded)
            return
        if self.wanted or not specs or self.free:  # what is free beside those that start
            return
        for service in filter(self._is_here, self.present):
            if others := self._others:
                yield ExcludeNode(service, self.node, min(service.replicas, len(others)))
            else:
                yield plan.Remove("service", service.name, service.id)

    def services(self) -> Iterator[plan.Action]:
        """Before a gateway is replaced; on this node only where there is memory beside former containers."""
        for item in self.wanted[:1]:
            if self._crowded and self._others:
                count = min(item.placed.replicas, len(self._others))
                spec = replace(item.placed, replicas=count, constraints=(f"node.id!={self.node}",))
                yield from self._changed(replace(item, placed=spec))
                return
            yield from self._changed(item)

    def after(self) -> Iterator[plan.Action]:
        """When nothing of the former stack is needed any more."""
        first = [action for action in self.services() if isinstance(action, PlaceService)]
        for number, item in enumerate(self.wanted):
            if number or (first and first[0].placed.constraints):
                yield from self._changed(replace(item, check=None), checked=bool(first and first[0].check))
        names = {item.placed.name for item in self.wanted}
        left = [service for service in self.present if service.name not in names]
        yield from (plan.Remove("service", service.name, service.id) for service in left)
        if not self.wanted and self.swarm:
            prefixes = (f"{_prefix(self.stack, 'reference')}-", f"{_prefix(self.stack, 'template')}-")
            configs = self.swarm.configs.items()
            yield from (plan.Remove("config", name, id_) for name, id_ in configs if name[:-12] in prefixes)

    def _changed(self, item: PlaceService, *, checked: bool = False) -> Iterator[PlaceService]:
        """The action for a service if it is missing or differs; nodes that joined change no other's tasks.

        One for which scores are ``checked`` gets another reference.
        """
        service, spec = self.swarm.service(item.placed.name) if self.swarm else None, item.spec
        if service is None:
            yield item
            return
        if service.config == spec.config_hash() and agree(service.nodes, spec.nodes):
            item = replace(item, placed=replace(item.placed, nodes=service.nodes))
        reason = difference(service, item.spec) or ("its scores are checked" if item.check or checked else "")
        if reason:
            yield replace(item, reason=reason)

    @property
    def _crowded(self) -> list[ContainerState]:
        """Running containers of vLLM beside which a task has no place on this node."""
        local = [one for one in self.observed.rerankers(self.stack.reranker.name) if one.running]
        return local if self.wanted and self.wanted[0].placed.container.memory > self.free else []

    @property
    def _others(self) -> list[NodeState]:
        nodes = self.swarm.nodes if self.swarm else ()
        return [node for node in nodes if node.ready and node.id != self.node]

    def _is_here(self, service: ServiceState) -> bool:
        tasks = self.swarm.tasks_of(service.name) if self.swarm and service.role == "reranker" else ()
        return any(task.node == self.node for task in tasks)


def agree(present: str, wanted: str) -> bool:
    """Whether two tables have the same CPUs for the nodes that both have."""
    old, new = (json.loads(text or "{}") for text in (present, wanted))
    return all(old[node] == new[node] for node in old.keys() & new.keys())


def difference(service: ServiceState, spec: ServiceSpec) -> str:
    """Why a service has to be updated; empty when it need not."""
    if service.image != (image := spec.container.image_id):
        return plan.moved_image(spec.container.image, service.image, image)
    if change := plan.model_change(service.labels, dict(spec.container.labels)):
        return change
    if service.config != spec.config_hash():
        return "its configuration changed"
    if service.nodes != spec.nodes:
        return "the CPUs of its nodes changed"
    if service.replicas != spec.replicas:
        return f"{service.replicas} → {spec.replicas} tasks"
    return "" if service.constraints == spec.constraints else "its nodes changed"


@dataclass(frozen=True)
class TaskStatus(ReplicaStatus):
    """A replica that Swarm has placed."""

    task: TaskState
    node: str

    @property
    def condition(self) -> str:
        """Its state and place in words."""
        place = f" on {self.node}" if self.node else ""
        return f"{self.task.state}{place}{f' ({self.task.addresses[0]})' if self.task.addresses else ''}"

    @property
    def fields(self) -> dict[str, str]:
        addresses = ", ".join(self.task.addresses)
        return {"name": self.name, "status": self.task.state, "node": self.node, "address": addresses}


def current(engine: Engine, stack: Stack, state: GatewayState | None) -> tuple[TaskStatus, ...]:
    """Each task of the replicas, and why the gateway, whose state this is, does not send it requests."""
    rows = {row.address.rpartition(":")[0]: row for row in state.replicas} if state else {}
    swarm, result = engine.swarm(), []
    for task in swarm.tasks_of(stack.replicas_alias) if swarm else ():
        node = swarm.node(task.node) if swarm else None
        name, place = f"{stack.replicas_alias}.{task.slot}", node.name if node else ""
        row = next((rows[address] for address in task.addresses if address in rows), None)
        error = ready.refusal(name, row, state)
        if task.state != "running":
            code = "task-waiting" if task.state == "pending" else "reranker-loading"
            hint = "docker service ps --no-trunc " + stack.replicas_alias
            error = LaunchError(f"{name} is {task.state}: {task.error}", code=code, hint=hint, container=name)
        result.append(TaskStatus(name, error, task, place))
    return tuple(result)


def _failure(engine: Engine, swarm: SwarmState, spec: ServiceSpec, message: str) -> LaunchError:
    """Why tasks did not start, by Swarm's errors and the end of their log."""
    service = swarm.service(spec.name)
    tasks = [task for task in swarm.tasks if service and task.service == service.id and task.error]
    nodes = {node.id: node.name for node in swarm.nodes}
    errors = dict.fromkeys(f"{nodes.get(task.node, 'no node')}: {task.error}" for task in tasks)
    log = engine.service_logs(spec.name, tail=50) if service else ""
    evidence = "\n".join([*errors, hints.relevant_lines(log)])
    wrong = "scores differ" in log
    known = hints.for_engine("\n".join(errors)) if errors else hints.UNKNOWN
    return LaunchError(
        message,
        code="scores-wrong" if wrong else known.code or "start-failed",
        evidence=evidence.strip(),
        hint=known.remedy or f"docker service ps --no-trunc {spec.name}",
        container=spec.name,
    )


def _state(engine: Engine) -> SwarmState:
    state = engine.swarm()
    if state is None:
        raise EngineError("this Docker engine manages no Swarm any more", code="swarm-missing", hint=_JOIN)
    return state


def _discard(engine: Engine, name: str) -> None:
    if service := _state(engine).service(name):
        engine.remove_service(service.id)


def notes(session: Session) -> Iterator[str]:
    """What ``ragops up`` does with nodes before it places replicas."""
    if session.stack.swarm and (nodes := unprobed(session)):
        yield f"ragops up reads processor and model of {', '.join(node.name for node in nodes)} first"
