"""One function for each verb: what the command and the notebooks call.

Each takes a :class:`~ragops.configuration.Stack` and an :class:`~ragops.docker.engine.Engine` (connected when
left out), gives back a record, and prints nothing; long steps are reported to :mod:`ragops.progress`.

What to do next, for the state that is found; what ``ragops`` alone says.

:func:`step` is pure; :func:`look` asks the engine first, and changes nothing.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ragops.checks import Report, exposure, ready
from ragops.checks.verify import Look
from ragops.configuration import Ragflow, Stack, home
from ragops.docker.engine import connect as connect_engine
from ragops.docker.engine import observe
from ragops.errors import EngineError, NotFoundError, RagflowError
from ragops.ragflow import discovery
from ragops.reranker import host, int8
from ragops.reranker import image as images
from ragops.session import Deployment, lock, refuse_while_watched
from ragops.stack import override as files
from ragops.stack import plan as planning
from ragops.stack.plan import Disconnect
from ragops.table import Column, Shown, Table

if TYPE_CHECKING:
    from ragops.docker.engine import Engine
    from ragops.docker.objects import ContainerState, NetworkState
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.reranker.model import Model
    from ragops.stack.override import Override


@dataclass(frozen=True, repr=False)
class Status(Shown):
    """State of the stack, and how it differs from its configuration."""

    stack: Stack
    served: str
    stand_in: str
    network: NetworkState | None
    reranker: ContainerState | None
    ragflow: tuple[RagflowContainer, ...]
    drift: planning.Plan

    @property
    def ok(self) -> bool:
        """Whether the reranker runs and nothing differs from the configuration."""
        return self.drift.empty and self.reranker is not None and self.reranker.running

    def to_json(self) -> dict[str, Any]:
        """The stack's addresses and states, and the differences from the configuration."""
        reranker = self.reranker
        return {
            "ok": self.ok,
            "network": self.network.name if self.network else None,
            "reranker": {"name": reranker.name, "status": reranker.status, "health": reranker.health}
            if reranker
            else None,
            "served": self.served,
            "stand_in": self.stand_in,
            "internal_url": self.stack.internal_url,
            "host_url": self.stack.host_url,
            "ragflow": [
                {"name": one.name, "release": one.release, "demo": one.demo, "connected": self.connected(one)}
                for one in self.ragflow
            ],
            "drift": self.drift,
        }

    def connected(self, one: RagflowContainer) -> bool:
        """Whether a RAGFlow container is connected to the network."""
        return one.container.endpoint(self.stack.network.name) is not None

    def table(self) -> Table:
        """Network, reranker, RAGFlow, addresses; then the drift."""
        reranker, network = self.reranker, self.stack.network.name
        health = f"{reranker.status} {reranker.health}".strip() if reranker else "missing"
        rows = (
            ("network", network if self.network else f"{network} is missing"),
            ("reranker", f"{self.stack.reranker.name}: {health}"),
            *(("RAGFlow", f"{container.name}: {self._connection(container)}") for container in self.ragflow),
            ("model", self.served + (f" ({self.stand_in})" if self.stand_in else "")),
            ("in the network", self.stack.internal_url),
            ("on this host", self.stack.host_url or "not published"),
        )
        return Table((Column("part"), Column("state")), rows, below=(self.drift.table(),))

    def _connection(self, ragflow: RagflowContainer) -> str:
        client = "the demo client, " if ragflow.demo else ""
        stopped = "" if ragflow.container.running else f", {ragflow.container.status}"
        return client + ("connected" if self.connected(ragflow) else "not connected") + stopped


def plan(stack: Stack, engine: Engine | None = None) -> planning.Plan:
    """The actions of :func:`up`; changes nothing."""
    engine = engine or connect_engine()
    wanted = Deployment.resolve(stack)
    image = engine.image(stack.reranker.image)
    found = planning.plan_up(stack, wanted.spec, image.id if image else "", observe(engine))
    missing = () if image else (f"image {stack.reranker.image} is missing: ragops up pulls or builds it",)
    return planning.Plan(found.actions, (*missing, *found.notes, *_stand_in(wanted.model)))


def up(stack: Stack, engine: Engine | None = None) -> Status:
    """Make it so: network, reranker, attachments; wait for the first answer. Idempotent.

    Raises:
        RagopsError: Any of its kinds; what was done stays, and the next call goes on from there.
    """
    engine = engine or connect_engine()
    with lock(engine.state().address, stack.reranker.name):
        wanted = Deployment.resolve(stack)
        image = images.ensure(engine, stack.reranker.image, home())
        todo = planning.plan_up(stack, wanted.spec, image.id, observe(engine))
        planning.apply(todo, engine)
    if not (todo.empty and _healthy(engine, stack.reranker.name)):
        ready.wait(
            engine,
            stack.reranker.name,
            wanted.served_name,
            stack.reranker.ready_timeout,
        )
    return status(stack, engine)


def status(stack: Stack, engine: Engine | None = None) -> Status:
    """State of the stack and its differences from the configuration; changes nothing."""
    engine = engine or connect_engine()
    wanted = Deployment.resolve(stack)
    return Status(
        stack=stack,
        served=wanted.served_name,
        stand_in=wanted.model.stand_in,
        network=engine.network(stack.network.name),
        reranker=engine.container(stack.reranker.name),
        ragflow=discovery.find(engine.containers(), stack.ragflow),
        drift=plan(stack, engine),
    )


def connect(stack: Stack, container: str, engine: Engine | None = None) -> planning.Plan:
    """Connect a container to the network; returns the applied plan, empty if it was connected.

    Raises:
        NotFoundError: The network does not exist yet.
        RagflowError: The container does not exist, or Docker cannot connect it.
    """
    engine = engine or connect_engine()
    with lock(engine.state().address, stack.reranker.name):
        ragflow = discovery.find(engine.containers(), Ragflow(containers=(container,)))[0]
        changes = planning.plan_connect(ragflow, _network(stack, engine))
        planning.apply(changes, engine)
    return changes


def override(stack: Stack, engine: Engine | None = None) -> Override:
    """The compose file that keeps the connection when compose recreates RAGFlow's container.

    Changes nothing; ``ragops compose override --write`` writes it beside RAGFlow's own files.

    Raises:
        RagflowError: No RAGFlow container was found, or compose cannot connect its service to a network.
    """
    engine = engine or connect_engine()
    return files.override(
        discovery.find(engine.containers(), stack.ragflow), stack.network, engine.networks()
    )


def disconnect(stack: Stack, container: str, engine: Engine | None = None) -> planning.Plan:
    """Disconnect a container from the network; returns the applied plan, empty if it was not connected."""
    engine = engine or connect_engine()
    with lock(engine.state().address, stack.reranker.name):
        refuse_while_watched(engine.state().address, stack.reranker.name)
        ragflow = discovery.find(engine.containers(), Ragflow(containers=(container,)))[0]
        endpoint = ragflow.container.endpoint(stack.network.name)
        changes = planning.Plan((Disconnect(stack.network.name, ragflow.name),) if endpoint else ())
        planning.apply(changes, engine)
    return changes


def verify(
    stack: Stack,
    engine: Engine | None = None,
    *,
    full: bool = False,
    budget: bool = True,
) -> Report:
    """Prove connection, scores and time from inside each attached RAGFlow container.

    Args:
        stack: The declaration.
        engine: The engine; connected when left out.
        full: The whole golden set and all calls of the budget, however long they take, instead of a
            fixed part of them.
        budget: Send RAGFlow's calls and see whether they end in time, which takes less than a minute.

    Raises:
        NotFoundError: The reranker does not run.
        RagflowError: No RAGFlow container is there to ask from.
    """
    engine = engine or connect_engine()
    wanted = Deployment.resolve(stack)
    reranker = engine.container(stack.reranker.name)
    if reranker is None:
        raise NotFoundError(
            f"no reranker {stack.reranker.name}",
            code="reranker-missing",
            hint="ragops up",
            container=stack.reranker.name,
        )
    found = discovery.find(engine.containers(), stack.ragflow)
    if not found:
        raise RagflowError(
            "no RAGFlow container to verify from",
            code="ragflow-missing",
            hint="start RAGFlow, or: ragops demo up",
        )
    look = Look(engine, wanted, reranker, full=full, budget=budget)
    with ThreadPoolExecutor(1) as beside:  # it waits for what does not answer, as it should
        asked = beside.submit(exposure.check, engine, reranker, stack.network.name, reranker.image)
        inside = [check for one in found for check in look.inside(one)]
        outside = asked.result()
    demos = [f"{one.name} is the demo client, a stand-in" for one in found if one.demo]
    notes = (*_stand_in(wanted.model), *demos)
    return Report(f"verify {stack.internal_url}", (*inside, *outside), notes)


def down(stack: Stack, engine: Engine | None = None) -> planning.Plan:
    """Remove the objects with the ragops label, and disconnect RAGFlow's containers.

    Raises:
        InUseError: A container that is neither RAGFlow's nor ours is connected to the network.
        LockedError: ``ragops watch`` runs.
    """
    engine = engine or connect_engine()
    with lock(engine.state().address, stack.reranker.name):
        refuse_while_watched(engine.state().address, stack.reranker.name)
        observed = observe(engine)
        names = (stack.reranker.name, f"{stack.reranker.name}-tune-a", f"{stack.reranker.name}-tune-b")
        changes = planning.plan_down(stack, tuple(f"{name}-cache" for name in names), observed)
        planning.apply(changes, engine)
    lasting = files.applied(observed.containers, stack.network.name)
    notes = [f"{file} still names the network: without it compose can't start RAGFlow" for file in lasting]
    return planning.Plan(changes.actions, tuple(notes))


def purge(engine: Engine | None = None) -> planning.Plan:
    """Remove every stack, demo client and image that ragops created, built or pulled."""
    engine = engine or connect_engine()
    with lock(engine.state().address, "*"):
        observed = observe(engine)
        for container in observed.containers:
            if container.role == "reranker":
                refuse_while_watched(engine.state().address, container.name)
        changes = planning.plan_purge(observed)
        planning.apply(changes, engine)
        images.remove_ours(engine, home())
    return changes


def _healthy(engine: Engine, name: str) -> bool:
    container = engine.container(name)
    return container is not None and container.health == "healthy"


def _network(stack: Stack, engine: Engine) -> NetworkState:
    network = engine.network(stack.network.name)
    if network is None:
        raise NotFoundError(
            f"there is no network {stack.network.name} yet", code="network-missing", hint="ragops up makes it"
        )
    return network


def _stand_in(model: Model) -> tuple[str, ...]:
    stand_in = (f"{model.name} is a stand-in: {model.stand_in}",) if model.stand_in else ()
    note = (f"{model.name}: {model.note}",) if model.note else ()
    wrong = int8.unfit(host.read_host()) if model.int8_bytes else ""
    return (*stand_in, *note, *((f"{model.name}: {wrong}",) if wrong else ()))


@dataclass(frozen=True)
class Step:
    """What is, and the command that comes next."""

    found: str
    command: str
    does: str

    def __str__(self) -> str:
        """Two lines."""
        return f"{self.found}\nnext: {self.command}  ({self.does})"


def look(stack: Stack, engine: Engine | None = None) -> Step:
    """The next step on this machine.

    Raises:
        RagopsError: The declaration can't be worked out; its hint is the next step then.
    """
    try:
        engine = engine or connect_engine()
    except EngineError as error:
        return Step(error.message, "ragops engine start", "uses or starts one; see also: ragops doctor")
    image = stack.reranker.image
    return step(status(stack, engine), image=image, image_there=engine.image(image) is not None)


def step(status: Status, *, image: str, image_there: bool) -> Step:
    """The next step for a state.

    Args:
        status: What the engine has, beside what is declared.
        image: Name of the image that serves.
        image_there: Whether the engine has it.
    """
    if not image_there:
        return Step(f"the engine has no image {image}", "ragops image", "pulls or builds it")
    if status.reranker is None:
        return Step("no reranker runs here yet", "ragops plan", "shows what ragops up would do")
    if not status.drift.empty:
        return Step(f"something differs from its declaration:\n{status.drift}", "ragops up", "mends it")
    if status.reranker.health != "healthy":
        state = f"{status.reranker.status} {status.reranker.health}".strip()
        return Step(f"the reranker is {state}", "ragops up", "waits for its first answer, or says why not")
    if not status.ragflow:
        return Step(
            "the reranker runs, and there is no RAGFlow", "ragops demo up", "a stand-in; or start RAGFlow"
        )
    names = ", ".join(one.name for one in status.ragflow)
    does = "proves connection, scores and time; then ragops bench measures"
    return Step(f"the reranker runs, connected to {names}", "ragops verify", does)
