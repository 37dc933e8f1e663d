"""One function for each verb of the command: plan, up, status, verify, connect, disconnect, override, down.

Each takes the configuration and a Docker engine (by default the one that is reachable), returns a record and
prints nothing; long steps are reported to :mod:`ragops.progress`. A verb opens one
:class:`~ragops.session.Session`, so that the configuration is resolved once.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ragops import configuration
from ragops.checks import Check, Report, ready, reference
from ragops.checks.connection import RUNS
from ragops.checks.questions import Expected
from ragops.checks.ready import ReplicaStatus
from ragops.checks.verify import VerifyContext, check_exposure, check_replicas, checks_for, outside_note
from ragops.compose import render
from ragops.configuration import Ragflow, Stack, Swarm, home
from ragops.docker.engine import Engine, observe
from ragops.docker.objects import ContainerSpec, ContainerState, ImageState, NetworkState, Observed
from ragops.docker.swarm import NodeState
from ragops.errors import EngineError, LaunchError, LockedError, NotFoundError, RagflowError, StackError
from ragops.progress import step
from ragops.ragflow import discovery
from ragops.ragflow.api import rerank_base
from ragops.ragflow.discovery import RagflowContainer
from ragops.ragflow.request import PLACEHOLDER_KEY
from ragops.reranker import gateway as gateways
from ragops.reranker import hub, int8, options
from ragops.reranker import image as images
from ragops.reranker import model as models
from ragops.reranker.gateway import GatewayState
from ragops.reranker.sizing import GIB
from ragops.session import Deployment, Session, create_folder, lock, reference_folder
from ragops.stack import lockfile
from ragops.stack import override as overrides
from ragops.stack import plan as plans
from ragops.stack import scale as placing
from ragops.stack.override import Override
from ragops.stack.planning import Wanted, plan_connect, plan_down, plan_purge, plan_up
from ragops.table import Column, Shown, Table


@dataclass(frozen=True, repr=False)
class Status(Shown):
    """State of the stack, and how it differs from its configuration."""

    stack: Stack
    served_name: str
    substitute: str
    """What the model is a substitute for; empty for a trained reranker."""
    network: NetworkState | None
    reranker: ContainerState | None
    """The container with the registered name: the gateway, or vLLM without one."""
    ragflow: tuple[RagflowContainer, ...]
    drift: plans.Plan
    host_url: str | None = None
    """The reranker's address for programs on this host."""
    problem: LaunchError | None = None
    """Why the first container that does not respond does not, as far as its state shows it."""
    replicas: tuple[ContainerState, ...] = ()
    """The containers of vLLM behind the gateway; empty without one."""
    gateway: GatewayState | None = None
    admission: tuple[ReplicaStatus, ...] = ()
    """Each configured replica of a gateway, and why it is not admitted."""
    nodes: tuple[NodeState, ...] = ()
    """Of the Swarm that places the replicas."""
    processors: Mapping[str, str] = field(default_factory=dict)
    """By the ids of nodes, as far as they were read."""

    @property
    def ok(self) -> bool:
        """Whether all containers run, also while they load, and nothing differs from the configuration."""
        loads = self.problem is None or self.problem.code in {"reranker-loading", "replica-checking"}
        running = self.reranker is not None and all(one.running for one in (self.reranker, *self.replicas))
        return self.drift.empty and running and loads

    def connected(self, ragflow: RagflowContainer) -> bool:
        """Whether a RAGFlow container is connected to the network."""
        return ragflow.container.endpoint(self.stack.shared_network.name) is not None

    def to_json(self) -> dict[str, Any]:
        """The stack's addresses and states, and the differences from the configuration."""
        state, problems = self.reranker, {status.name: status.problem for status in self.admission}
        reranker = state and _container_json(state)
        own = {container.name: _container_json(container) for container in self.replicas}
        away = bool(self.stack.servers or self.stack.swarm)
        elsewhere = {status.name: status.fields for status in self.admission if away}
        replicas = [
            {**fields, "admitted": not (error := problems.get(name)), "problem": error and error.to_json()}
            for name, fields in (own | elsewhere).items()
        ]
        clients = [
            {"name": item.name, "release": item.release, "demo": item.demo, "connected": self.connected(item)}
            for item in self.ragflow
        ]
        return {
            "ok": self.ok,
            "network": self.network and self.network.name,
            "reranker": reranker,
            "gateway": self.gateway,
            "replicas": replicas,
            "nodes": self.nodes,
            "served_name": self.served_name,
            "substitute": self.substitute,
            "internal_url": self.stack.internal_url,
            "host_url": self.host_url,
            "ragflow": clients,
            "drift": self.drift,
            "problem": self.problem and self.problem.to_json(),
        }

    def table(self) -> Table:
        """Network, reranker, RAGFlow, addresses; then the drift."""
        network, front = self.stack.shared_network.name, "gateway" if self.stack.gateway_used else "reranker"
        front = self.reranker.role if self.reranker else front  # vLLM has the name until up
        name, health = self.stack.reranker.name, self.reranker and self.reranker.condition
        rows = [
            ("network", network if self.network else f"{network} is missing"),
            (front, f"{name}: {health or 'missing'}" + (f"\n{self.gateway.summary}" if self.gateway else "")),
            *(("node", self._node(node)) for node in self.nodes),
            *(("replica", self._replica(status)) for status in self.admission),
        ]
        if self.problem:
            rows.append(("cause", f"{self.problem.message}\nhint: {self.problem.hint}"))
        for ragflow in self.ragflow:
            client = "the demo client, " if ragflow.demo else ""
            connection = "connected" if self.connected(ragflow) else "not connected"
            stopped = "" if ragflow.container.running else f", {ragflow.container.status}"
            rows.append(("RAGFlow", f"{ragflow.name}: {client}{connection}{stopped}"))
        rows += [
            ("model", self.served_name + (f" ({self.substitute})" if self.substitute else "")),
            ("in the network", self.stack.internal_url),
            ("on this host", self.host_url or "no address"),
        ]
        return Table((Column("part"), Column("state")), tuple(rows), below=(self.drift.table(),))

    def _replica(self, status: ReplicaStatus) -> str:
        present = {container.name: container.condition for container in self.replicas}
        missing = "" if self.stack.servers else "missing"
        condition = status.condition or present.get(status.name, missing)
        admitted = f"not admitted: {status.problem.message}" if status.problem else "admitted"
        return f"{status.name}: {', '.join(filter(None, (condition, admitted)))}"

    def _node(self, node: NodeState) -> str:
        processor = self.processors.get(node.id, "")
        size = f"{node.cpus:g} CPUs, {node.memory / GIB:.0f} GiB"
        return ", ".join(filter(None, (f"{node.name}: {node.state}, {node.availability}", processor, size)))


def _container_json(container: ContainerState) -> dict[str, str]:
    return {"name": container.name, "status": container.status, "health": container.health}


def plan(stack: Stack, engine: Engine | None = None) -> plans.Plan:
    """The actions of :func:`up`; changes nothing."""
    session, source = Session.open(stack, engine), models.hub_source(stack)
    if source and not hub.folder(*source).exists():
        action = plans.FetchModel(hub.listing(*source))
        return plans.Plan((action,), ("ragops up plans the other changes from the model's files",))
    return _plan(session, _images(session), session.observed)


def up(stack: Stack, engine: Engine | None = None) -> Status:
    """Create the network, start the reranker, connect RAGFlow, and wait for the first response. Idempotent.

    Raises:
        RagopsError: Of any kind; completed actions stay, and the next call continues after them.
    """
    session = Session.open(stack, engine)
    engine, name, timeout = session.engine, stack.reranker.name, stack.reranker.ready_timeout
    with lock(session.state.id, name):
        models.fetch(stack)
        create_folder(stack, session.state)
        deployment = session.deployment  # an error in it comes before an image is pulled or built
        if stack.swarm:
            placing.manager(session)
        missing = None in _images(session)[: 2 if deployment.gateway else 1]
        image = images.ensure(engine, stack.reranker.image, home())
        front = gateways.ensure(engine, image.id, home()) if deployment.gateway else None
        if stack.swarm and placing.probe(session, image):
            session = Session.open(stack, engine)
            deployment = session.deployment
        deployment.write_template()
        begin, observed = time.monotonic(), observe(engine) if missing else session.observed
        changes = _plan(session, (image, front), observed)
        plans.apply(changes, engine)
    replaced = any(isinstance(action, plans.ReplaceContainer) for action in changes.actions)
    served = changes.empty and all(one.health == "healthy" for one in observed.stack(name))
    if deployment.gateway:
        for spec in _unchecked(changes):
            ready.wait(engine, spec.name, spec.served_name, timeout, begin=begin)
        placed = partial(placing.current, engine, stack) if stack.swarm else None
        ready.wait_admitted(engine, name, stack.replica_names, timeout, stack.servers, placed=placed)
    elif not replaced and not served:  # a replaced one has responded
        ready.wait(engine, name, deployment.spec.served_name, timeout, begin=begin)
    lockfile.write(stack, deployment.spec, image)
    return _status(session, (image, front), observed if served else observe(engine))


def _unchecked(changes: plans.Plan) -> list[ContainerSpec]:
    """The replicas that were started, and that no score check has waited for."""
    checked = [action.spec for action in changes.actions if isinstance(action, plans.CheckScores)]
    started = [action.spec for action in changes.actions if isinstance(action, plans.RunContainer)]
    return [spec for spec in started if spec.served_name and spec not in checked]


def scale(
    replicas: int, file: Path | str | None = None, engine: Engine | None = None, *, swarm: bool = False
) -> Status:
    """Write the number of replicas into the configuration file, which may be new, then apply it: :func:`up`.

    Args:
        replicas: Containers of vLLM behind the gateway.
        file: As for :func:`~ragops.configuration.load`.
        engine: The Docker engine; connected when left out.
        swarm: Place the replicas on the nodes of the engine's Swarm; it stays so for later calls.

    Raises:
        StackError: This machine, or the Swarm, has no place for so many; then nothing is written.
        LockedError: Another ragops process changes the stack; the file is as before.
        RagopsError: As for :func:`up`.
    """
    path, settings = configuration.configuration_file(file), {"replicas": replicas}
    configuration.load(file)  # a file that was named has to exist
    text = configuration.edited(path, settings, swarm=swarm)
    session = Session.open(configuration.parse(text, path), engine)
    if session.stack.swarm:
        placing.manager(session)
    _ = session.deployment  # raises an error where the replicas have no place
    if not path.exists():
        step(f"{path} is created")
    before = path.read_bytes() if path.exists() else None
    configuration.write_settings(path, settings, swarm=swarm)
    step(f"{path}: reranker.replicas = {replicas}")
    try:
        return up(configuration.load(path), session.engine)
    except LockedError:  # ragops watch would apply it later
        path.unlink() if before is None else path.write_bytes(before)
        raise


def status(stack: Stack, engine: Engine | None = None) -> Status:
    """State of the stack and its differences from the configuration; changes nothing."""
    session = Session.open(stack, engine)
    return _status(session, _images(session), session.observed)


def verify(
    stack: Stack,
    engine: Engine | None = None,
    *,
    full: bool = False,
    budget: bool = True,
    address: str = "",
) -> Report:
    """Verify connection, scores and response time from inside each RAGFlow container.

    Args:
        stack: The configuration.
        engine: The Docker engine; connected when left out.
        full: Run the whole golden set and all timed calls without a time limit, not a fixed part of them.
        budget: Time RAGFlow's calls, which takes less than a minute.
        address: The reranker's address for a RAGFlow that is no container of this engine; this host sends
            what that RAGFlow would send, and the notes name what it can't show.

    Raises:
        NotFoundError: The reranker does not exist.
        RagflowError: No RAGFlow container was found.
        StackError: The address is not valid.
    """
    address = address and rerank_base(address)
    session = Session.open(stack, engine)
    engine, deployment, name = session.engine, session.deployment, stack.reranker.name
    if (reranker := engine.container(name)) is None:
        message = f"no reranker {name}"
        raise NotFoundError(message, code="reranker-missing", hint="ragops up", container=name)
    if address:
        containers: tuple[RagflowContainer, ...] = (discovery.outside(stack.ragflow.release),)
    elif not (containers := discovery.find(engine.containers(), stack.ragflow)):
        hint = "start RAGFlow, or: ragops demo up; if it is no container here: ragops verify --address URL"
        raise RagflowError("no RAGFlow container was found", code="ragflow-missing", hint=hint)
    title = f"verify {address or stack.internal_url}"
    notes, is_gateway = tuple(_model_notes(deployment)), reranker.role == gateways.ROLE
    state = gateways.read_state(engine, name) if is_gateway else None
    error = None if state else ready.problem(engine, name, reranker)
    if error and error.code != "reranker-hangs":  # a health check may be older than the last unpause
        return Report(title, (Check(RUNS, "fail", error.message, error.hint),), notes)
    names = _replica_names(stack, observe(engine)) if is_gateway else ()
    admitted = check_replicas(_admission(session, names, state))
    if any(check.status == "fail" for check in admitted):
        return Report(title, tuple(admitted), notes)
    replicas = tuple(filter(None, map(engine.container, names)))
    key = gateways.read_key(stack).get_secret_value() or PLACEHOLDER_KEY
    context = VerifyContext(engine, deployment, reranker, full, budget, address, replicas, state, key)
    with ThreadPoolExecutor(1) as parallel:  # it mostly waits for connection timeouts
        exposed = parallel.submit(check_exposure, engine, (reranker, *replicas), context.image)
        rows = ((ragflow, check) for ragflow in containers for check in checks_for(ragflow, context))
        inside = [replace(check, where=ragflow.name) for ragflow, check in rows]
        outside = [*admitted, *exposed.result()]
    demos = [f"{ragflow.name} is the demo client, not RAGFlow" for ragflow in containers if ragflow.demo]
    elsewhere = [outside_note(address, reranker)] if address else []
    return Report(title, (*inside, *outside), (*elsewhere, *notes, *demos))


def connect(stack: Stack, container: str, engine: Engine | None = None) -> plans.Plan:
    """Connect a container to the network; returns the applied plan, empty if it was connected.

    Raises:
        NotFoundError: The network does not exist.
        RagflowError: The container does not exist, or Docker cannot connect it.
    """
    engine = Session.open(stack, engine).engine
    with lock(engine.state().id, stack.reranker.name):
        ragflow = discovery.find(engine.containers(), Ragflow(containers=(container,)))[0]
        network = engine.network(stack.shared_network.name)
        if network is None:
            message = f"there is no network {stack.shared_network.name}"
            raise NotFoundError(message, code="network-missing", hint="ragops up creates it")
        changes = plan_connect(ragflow, network)
        plans.apply(changes, engine)
    return changes


def disconnect(stack: Stack, container: str, engine: Engine | None = None) -> plans.Plan:
    """Disconnect a container from the network; returns the applied plan, empty if it was not connected."""
    engine = Session.open(stack, engine).engine
    with lock(engine.state().id, stack.reranker.name, unwatched=True):
        ragflow = discovery.find(engine.containers(), Ragflow(containers=(container,)))[0]
        endpoint = ragflow.container.endpoint(stack.shared_network.name)
        changes = plans.Plan((plans.Disconnect(stack.shared_network.name, ragflow.name),) if endpoint else ())
        plans.apply(changes, engine)
    return changes


def override(stack: Stack, engine: Engine | None = None) -> Override:
    """The compose file that keeps the connection when compose recreates RAGFlow's container.

    Changes nothing; ``ragops compose override --write`` writes it beside RAGFlow's own files.

    Raises:
        RagflowError: No RAGFlow container was found, or compose cannot connect its service to a network.
    """
    engine = Session.open(stack, engine).engine
    containers = discovery.find(engine.containers(), stack.ragflow)
    return overrides.override(containers, stack.shared_network, engine.networks())


def stack_file(stack: Stack, engine: Engine | None = None) -> str:
    """The services of Swarm mode as a file for ``docker stack deploy``, this machine's gateway among them.

    Raises:
        RagopsError: The configuration cannot be resolved.
    """
    if stack.gateway is False or stack.servers:
        message, hint = "Swarm's services are a gateway and its replicas", "leave that out of ragops.toml"
        setting = "gateway.replicas" if stack.servers else "gateway = false"
        raise StackError(message, code="stack-refused", evidence=f"configured: {setting}", hint=hint)
    swarm = stack.swarm or Swarm()
    more = swarm.model_copy(update={"gateways": swarm.gateways + 1})  # without this machine's container
    session = Session.open(stack.model_copy(update={"swarm": more}), engine)
    create_folder(session.stack, session.state)
    session.deployment.write_template()
    placed = _wanted(session.deployment, _images(session), "").placed
    files = {file.name: file.file for item in placed for file in item.files}
    network = plans.network_spec(options.closed(session.stack, session.state).shared_network)
    return render.stack_file([replace(item.spec, constraints=()) for item in placed], files, network)


def logs(stack: Stack, container: str = "", engine: Engine | None = None, tail: int = 20) -> dict[str, str]:
    """The last lines of the logs of the stack's containers by their names, or of one of them.

    Health checks are left out.

    Raises:
        NotFoundError: The stack has no such container.
    """
    engine = Session.open(stack, engine).engine
    observed = observe(engine)
    names = [member.name for member in observed.stack(stack.reranker.name)]
    names.sort(key=lambda name: (len(name), name))  # the gateway first, and the tenth replica last
    placement = placing.Placement(stack, observed, engine.swarm(needed=False), "")
    services = [service.name for service in placement.present]
    if container not in {"", *names, *services} or not names:
        message = f"the stack has no container {container or stack.reranker.name}"
        hint = f"it has {', '.join(names)}" if names else "ragops up"
        raise NotFoundError(message, code="reranker-missing", hint=hint, container=container)
    readers = dict.fromkeys(names, engine.logs) | dict.fromkeys(services, engine.service_logs)
    return {name: read(name, tail=tail) for name, read in readers.items() if container in {"", name}}


def down(stack: Stack, engine: Engine | None = None) -> plans.Plan:
    """Remove the objects with the ragops label, and disconnect RAGFlow's containers.

    Raises:
        InUseError: A container that is neither RAGFlow's nor ours is connected to the network.
        LockedError: ``ragops watch`` runs.
    """
    engine = Session.open(stack, engine).engine
    with lock((state := engine.state()).id, stack.reranker.name, unwatched=True):
        observed = observe(engine)
        changes = plan_down(stack, observed, engine.swarm(needed=bool(stack.swarm)))
        plans.apply(changes, engine)
        shutil.rmtree(reference_folder(stack, state), ignore_errors=True)
    files = overrides.applied(observed.containers, stack.shared_network.name)
    notes = [f"{file} still names the network: compose cannot start RAGFlow without it" for file in files]
    return plans.Plan(changes.actions, tuple(notes))


def purge(engine: Engine | None = None) -> plans.Plan:
    """Remove every stack, demo client and image that ragops created, built or pulled."""
    engine = Session.open(Stack(), engine).engine
    with lock((state := engine.state()).id):
        prefix = reference_folder(Stack(), state).name.partition("-")[0]
        folders = list((home() / "gateway").glob(f"{prefix}-*"))  # of each stack of this engine
        stacks = [folder.name.partition("-")[2] for folder in folders]
        changes = plan_purge(observe(engine), engine.swarm(needed=False), stacks)
        plans.apply(changes, engine)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        notes = images.remove_recorded(engine, home())
    return plans.Plan(changes.actions, notes)


@dataclass(frozen=True)
class NextStep:
    """The state of the stack in one line, and the command to run next."""

    state: str
    command: str
    purpose: str

    def __str__(self) -> str:
        return f"{self.state}\nnext: {self.command}  ({self.purpose})"


def next_step(stack: Stack, engine: Engine | None = None) -> NextStep:
    """The command to run next on this machine; changes nothing.

    Raises:
        RagopsError: The configuration cannot be resolved; its hint is the next step then.
    """
    try:
        session = Session.open(stack, engine)
    except EngineError as error:
        return NextStep(error.message, "ragops doctor", "shows how to start one")
    states = _images(session)
    if states[0] is None:
        return NextStep(f"image {stack.reranker.image} is missing", "ragops image", "pulls or builds it")
    return _next_step(_status(session, states, session.observed))


def _next_step(status: Status) -> NextStep:
    reranker = status.reranker
    if reranker is None:
        return NextStep("there is no reranker", "ragops plan", "shows what ragops up would do")
    if not status.drift.empty:
        state = f"the stack differs from its configuration:\n{status.drift}"
        return NextStep(state, "ragops up", "applies it")
    if status.problem or (status.gateway is None and reranker.health != "healthy"):
        running = f"the reranker is {reranker.condition}"
        state = status.problem.message if status.problem else running
        return NextStep(state, "ragops up", "waits for its first response, or shows why there is none")
    if not status.ragflow:
        purpose = "starts the demo client; or start RAGFlow"
        return NextStep("the reranker runs, and there is no RAGFlow", "ragops demo up", purpose)
    names = ", ".join(ragflow.name for ragflow in status.ragflow)
    purpose = "verifies connection, scores and response time; ragops bench measures"
    return NextStep(f"the reranker runs, connected to {names}", "ragops verify", purpose)


_Images = tuple[ImageState | None, ImageState | None]
"""Of vLLM and of the gateway; None for one that is missing or not needed."""


def _images(session: Session) -> _Images:
    stack, engine = session.stack, session.engine
    return engine.image(stack.reranker.image), engine.image(gateways.tag()) if stack.gateway_used else None


def _plan(session: Session, states: _Images, observed: Observed) -> plans.Plan:
    stack, deployment, (image, front) = session.stack, session.deployment, states
    if stack.swarm:
        placing.manager(session)
    wanted = _wanted(deployment, states, session.state.node)
    network, closed = observed.network(stack.shared_network.name), options.closed(stack, session.state)
    new, node = stack if network else closed, session.state.node
    swarm = session.engine.swarm(needed=bool(stack.swarm))
    changes = plan_up(new, wanted, observed, 0, swarm, node)
    moves = placing.Placement(stack, observed, swarm, node, wanted.placed).moves
    if moves or any(isinstance(action, plans.ReplaceContainer) for action in changes.actions):
        changes = plan_up(new, wanted, observed, _free_memory(session, changes, observed), swarm, node)
    notes = (*changes.notes, *_model_notes(deployment), *placing.notes(session))
    reached = "other machines with a route to it may reach the reranker on Docker before 28"
    if network and closed.network.internal and not network.internal:
        change = "ragops down, then ragops up, makes it internal" if network.ours else "use an internal one"
        notes = (*notes, f"network {network.name}: {reached}; {change}")
    if stack.servers and not (closed.network.internal or session.state.keeps_others_out):
        out = f"network {stack.network.name} has a way out, to the replicas: {reached}"
        notes = (*notes, f"{out}; set key_file under [gateway]")
    reasons = {action.reason for action in changes.actions if isinstance(action, plans.ReplaceContainer)}
    moved = lockfile.changes(stack, deployment.spec, image)
    notes = (*notes, *(note for note in moved if note not in reasons))
    if image is None:
        notes = (f"image {stack.reranker.image} is missing: ragops up pulls or builds it", *notes)
    elif deployment.gateway and front is None:
        notes = (f"image {deployment.gateway.image} is missing: ragops up builds it", *notes)
    return plans.Plan(changes.actions, notes)


def _wanted(deployment: Deployment, states: _Images, node: str) -> Wanted:
    """The containers with the ids of their images, and the score check if it is needed."""
    image, front = (state.id if state else "" for state in states)
    same = "" if deployment.stack.servers or deployment.stack.swarm else image
    replicas = tuple(replace(spec, image_id=image) for spec in deployment.replicas)
    if deployment.gateway is None:
        return Wanted(replicas)
    file = Path(deployment.gateway.mounts[0].source, "reference.json")
    check = plans.ScoreCheck(Expected.of(deployment), reference.score_id(deployment, same), file)
    gateway, due = replace(deployment.gateway, image_id=front), None if check.known else check
    if deployment.stack.swarm:
        return Wanted((), gateway, None, placing.services(deployment, *states, node, check))
    return Wanted(replicas, gateway, due)


def _free_memory(session: Session, changes: plans.Plan, observed: Observed) -> int:
    """Memory in bytes for one more container of vLLM; those that run or start may take all of their limits.

    0 where it is unknown: on the host of a remote engine, and in a container with a limit.
    """
    host = session.deployment.host
    if session.state.socket is None or host.memory_limit or not host.available:
        return 0
    starting = [action.spec.memory for action in changes.actions if isinstance(action, plans.RunContainer)]
    running = [one for one in observed.rerankers(session.stack.reranker.name) if one.running]
    unused = [max(0, one.memory - session.engine.stats(one.id).memory_bytes) for one in running]
    return max(0, host.available - sum(unused) - sum(starting))


def _status(session: Session, states: _Images, observed: Observed) -> Status:
    stack, deployment = session.stack, session.deployment
    reranker = observed.container(stack.reranker.name)
    behind = reranker is not None and reranker.role == gateways.ROLE
    names = _replica_names(stack, observed) if behind or stack.gateway_used else ()
    state = gateways.read_state(session.engine, stack.reranker.name) if behind else None
    admission = _admission(session, names, state) if behind else ()
    own = ready.problem(session.engine, reranker.name, reranker) if reranker and not state else None
    return Status(
        stack=stack,
        served_name=deployment.spec.served_name,
        substitute=deployment.model.substitute,
        network=observed.network(stack.shared_network.name),
        reranker=reranker,
        replicas=tuple(filter(None, map(observed.container, names))),
        ragflow=discovery.find(observed.containers, stack.ragflow),
        drift=_plan(session, states, observed),
        host_url=session.host_url(reranker),
        gateway=state,
        admission=admission,
        nodes=session.swarm.nodes if stack.swarm and session.swarm else (),
        processors={record.node: record.host.cpu_model for record in session.records if stack.swarm},
        problem=next(filter(None, (own, *(status.problem for status in admission))), None),
    )


def _admission(
    session: Session, names: tuple[str, ...], state: GatewayState | None
) -> tuple[ReplicaStatus, ...]:
    """Each replica, here or elsewhere, and why the gateway does not send it requests."""
    if session.stack.swarm:
        return placing.current(session.engine, session.stack, state)
    if servers := session.stack.servers:
        return ready.server_states(servers, state)
    return ready.replica_states(session.engine, names, state)


def _replica_names(stack: Stack, observed: Observed) -> tuple[str, ...]:
    """The replicas behind the gateway: the configured ones, or those of one that is to be removed."""
    if stack.gateway_used:
        return stack.replica_names
    return tuple(replica.name for replica in observed.rerankers(stack.reranker.name))


def _model_notes(deployment: Deployment) -> Iterator[str]:
    model = deployment.model
    if models.named_folder(deployment.stack) is None:
        yield f"no model is configured: the reranker's own is kept, {model.folder}"
    if deployment.host.note:
        yield deployment.host.note
    if model.substitute:
        yield f"{model.name} is a substitute model: {model.substitute}"
    if model.int8_bytes and (reason := int8.unfit(deployment.host)):
        yield f"{model.name}: {reason}"
    if deployment.gateway and deployment.stack.gateway and deployment.stack.gateway.key_file:
        yield "RAGFlow sends the key that it was registered with: after a change of key_file, ragops register"
