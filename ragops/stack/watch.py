"""The loop of ``ragops watch``: it follows the events of the Docker engine and repairs the stack.

:class:`WatchState` is pure and decides: each event, response and check gives a new state, and
:meth:`WatchState.repairs` the actions to run now. :class:`Watcher` is the loop around it. Two threads only
listen, so that neither delays a repair: one to the engine's events, one to the reranker's response, which may
take a minute. :func:`systemd_unit` starts the loop with the machine.
"""

import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Literal

from ragops.checks import ready
from ragops.configuration import Stack, configuration_file, home, load
from ragops.docker import engine as docker_engine
from ragops.docker.engine import Engine
from ragops.docker.objects import ContainerState, EventState
from ragops.errors import EngineError, LaunchError, LockedError, RagopsError, StackError
from ragops.progress import step
from ragops.reranker import gateway
from ragops.reranker.model import named_folder
from ragops.session import lock
from ragops.stack import plan, verbs
from ragops.stack.scale import ExcludeNode, PlaceService
from ragops.stack.verbs import Status

_CONTAINER_EVENTS = frozenset({"start", "die", "destroy", "rename", "pause", "unpause"})
_RECONNECT = (0.5, 1.0, 2.0)
"""Seconds between attempts to reach an engine that stopped; the last for all later ones."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """Intervals and timeouts of the loop, in seconds except ``misses``."""

    settle: float = 0.5
    """From an event to the check that it causes, which covers the events that belong to it."""
    apart: float = 1.0
    """Between two checks, however many events there are; also the first back-off after a failure."""
    check: float = 60.0
    """Between two checks without events: one may have been missed."""
    probe: float = 30.0
    """Between the end of one rerank of one document and the next."""
    timeout: float = 60.0
    """For the response to that rerank."""
    misses: int = 3
    """Missing responses in a row that cause a restart. RAGFlow's own timeout is half a minute and vLLM drops
    requests of closed connections, so a reranker that is only busy responds in time."""
    start: float = 5.0
    """Before the reranker is started a second time; doubles each time."""
    longest: float = 300.0

    def back_off(self, first: float, times: int) -> float:
        """Seconds to wait after this many failures in a row."""
        return min(self.longest, first * 2.0 ** min(times - 1, 20)) if times else 0.0


@dataclass(frozen=True)
class ContainerWatch:
    """State of one container between two checks; times are seconds of a monotonic clock."""

    serving: bool = False
    """Whether it ran and was not starting at the last check."""
    probe_at: float = 0.0
    probing: bool = False
    missed: int = 0
    unhealthy: bool = False
    """Whether Docker reports it as unhealthy, which may be older than its last response: it is restarted if
    it does not respond to one more request."""
    outdated: bool = False
    """Whether the request on its way was sent before that."""
    starts: int = 0
    """Starts since its last response."""
    start_at: float = 0.0

    @property
    def next_probe(self) -> float:
        """When the next request is to be sent; never while it does not serve."""
        return self.probe_at if self.serving and not self.probing else math.inf

    def hangs(self, pace: Pace) -> bool:
        """Whether so many responses are missing that it is restarted."""
        return self.missed >= (1 if self.unhealthy else pace.misses)

    def after_response(self, ok: bool | None, now: float, pace: Pace) -> "ContainerWatch":
        """After a response, a missing one, or (None) a request that could not be sent.

        A missing response of a container that is starting does not count.
        """
        probe_at = now if self.outdated else now + pace.probe
        after = replace(self, probing=False, outdated=False, probe_at=probe_at)
        if ok:
            return replace(after, missed=0, starts=0, start_at=0.0)
        counts = ok is False and self.serving and not self.outdated
        return replace(after, missed=self.missed + counts)

    def after_check(
        self, container: ContainerState | None, now: float, pace: Pace, *, started: bool
    ) -> "ContainerWatch":
        """After a check, and its repairs if there were any."""
        runs = container and container.status == "running" and not started
        health = container.health if container and runs else "starting"
        known = health != "starting" and self.serving and (self.unhealthy or health != "unhealthy")
        starts = self.starts + started
        return replace(
            self,
            serving=health != "starting",
            unhealthy=health == "unhealthy",
            outdated=self.outdated if known else self.probing,
            probe_at=self.probe_at if known else now,
            missed=self.missed if known else 0,
            starts=starts,
            start_at=now + pace.back_off(pace.start, starts) if started else self.start_at,
        )


@dataclass(frozen=True)
class WatchState:
    """State of the loop between two checks; times are seconds of a monotonic clock."""

    pace: Pace = field(default_factory=Pace)
    disconnected: bool = True
    check_at: float = 0.0
    not_before: float = 0.0
    """Earliest time of the next check, whatever happens."""
    failures: int = 0
    """Checks or repairs in a row that failed."""
    error: str = ""
    containers: Mapping[str, ContainerWatch] = field(default_factory=dict)

    def wait(self, now: float) -> float | None:
        """Seconds until the next check or probe; None while the engine is unreachable."""
        if self.disconnected:
            return None
        due = min([self.check_at, *(container.next_probe for container in self.containers.values())])
        return max(0.0, due - now)

    def check_due(self, now: float) -> bool:
        """Whether it is time for a check."""
        return not self.disconnected and self.check_at <= now

    def probes_due(self, now: float) -> list[str]:
        """Names of the containers to which it is time to send a request."""
        due = (name for name, container in self.containers.items() if container.next_probe <= now)
        return [] if self.disconnected else list(due)

    def container(self, name: str) -> ContainerWatch:
        """The state of a container."""
        return self.containers.get(name, ContainerWatch())

    def after_event(self, event: EventState, stack: Stack, now: float) -> "WatchState":
        """After an event of the engine."""
        if not is_relevant(event, stack):
            return self
        return replace(self, check_at=min(self.check_at, max(now + self.pace.settle, self.not_before)))

    def after_disconnect(self) -> "WatchState":
        """After the engine became unreachable."""
        stopped = {name: replace(old, serving=False, missed=0) for name, old in self.containers.items()}
        return replace(self, disconnected=True, containers=stopped)

    def after_reconnect(self, now: float) -> "WatchState":
        """After the engine became reachable; everything may have changed."""
        return replace(self, disconnected=False, check_at=now, not_before=now, failures=0, error="")

    def after_request(self, name: str) -> "WatchState":
        """After a request was sent to a container."""
        return self._with(name, replace(self.container(name), probing=True))

    def after_response(self, name: str, ok: bool | None, now: float) -> "WatchState":
        """After a response of a container, a missing one, or (None) a request that could not be sent."""
        before = self.container(name)
        container = before.after_response(ok, now, self.pace)
        hangs = container.missed > before.missed and container.hangs(self.pace)
        return replace(self._with(name, container), check_at=now if hangs else self.check_at)

    def _with(self, name: str, container: ContainerWatch) -> "WatchState":
        return replace(self, containers={**self.containers, name: container})

    def after_check(self, status: Status, now: float, *, started: Collection[str] = ()) -> "WatchState":
        """After a check, and its repairs if there were any, which started these containers."""
        present = _containers(status)
        containers = {
            name: self.container(name).after_check(present.get(name), now, self.pace, started=name in started)
            for name in {*self.containers, *present, *started}
        }
        later = [container.start_at for container in containers.values() if container.start_at > now]
        return replace(
            self,
            check_at=min([now + self.pace.check, *later]),
            not_before=now + self.pace.apart,
            failures=0,
            error="",
            containers=containers,
        )

    def after_failure(self, error: str, now: float) -> "WatchState":
        """After a check or a repair that failed; an event still brings the next check forward."""
        failures = self.failures + 1
        again = now + self.pace.back_off(self.pace.apart, failures)
        return replace(self.postponed(now), failures=failures, error=error, check_at=again)

    def postponed(self, now: float) -> "WatchState":
        """After a check found that another ragops process changes the stack."""
        return replace(self, check_at=now + self.pace.apart, not_before=now + self.pace.apart)

    def repairs(self, status: Status, now: float) -> tuple[plan.Action, ...]:
        """The actions to run now for the drift of a check; those that start containers come last."""
        actions = [action for action in status.drift.actions if not _is_left(action, status)]
        starting = {started_by(action) for action in actions}
        for name, container in _containers(status).items():
            watched = self.container(name)
            if watched.hangs(self.pace) and container.status == "running" and name not in starting:
                reason = f"no response to {watched.missed} request{'s' if watched.missed > 1 else ''}"
                actions.append(plan.RestartContainer(name, reason))
        due = (action for action in actions if now >= self.container(started_by(action)).start_at)
        return tuple(sorted(due, key=lambda action: bool(started_by(action))))


def started_by(action: plan.Action) -> str:
    """Name of the container that an action starts, or of which it waits for a response; empty for others.

    These actions come last and have a back-off for each container: one that keeps exiting must not keep
    RAGFlow from its network.
    """
    match action:
        case plan.RunContainer(spec) | plan.ReplaceContainer(spec) | plan.CheckScores(spec):
            return spec.name
        case plan.StartContainer(name) | plan.RestartContainer(name):
            return name
    return ""


def is_relevant(event: EventState, stack: Stack) -> bool:
    """Whether an event may have changed the stack.

    Any container may be a recreated RAGFlow; of networks only the configured one counts.
    """
    if event.kind == "network":
        return event.name == stack.shared_network.name
    if event.action.startswith("health_status"):
        return event.name in {stack.reranker.name, *stack.replica_names}
    return event.action in _CONTAINER_EVENTS


def _containers(status: Status) -> dict[str, ContainerState]:
    """The gateway and the replicas that exist, by their names."""
    return {container.name: container for container in (status.reranker, *status.replicas) if container}


def _is_of_swarm(action: plan.Action) -> bool:
    return not isinstance(action, plan.ReplaceContainer) or action.overlay


def _is_left(action: plan.Action, status: Status) -> bool:
    """Whether an action is left to Docker, to ``ragops up`` or to the watch's own requests.

    Docker restarts a container after a failure. What runs, and of which only configuration, image or number
    changed, is left to ``ragops up``, so that no request is interrupted.
    """
    containers, name = _containers(status), started_by(action)
    updates = [
        other
        for other in status.drift.actions
        if isinstance(other, plan.ReplaceContainer)
        and status.network is not None
        and (container := containers.get(other.spec.name))
        and container.running
    ]
    if any(update.old.role != update.spec.role for update in updates):  # gateway and vLLM change places
        return bool(name) or isinstance(action, plan.Remove)
    moves = (PlaceService, ExcludeNode, plan.ReplaceContainer)
    moving = [other for other in status.drift.actions if isinstance(other, moves) and _is_of_swarm(other)]
    if moving and isinstance(action, (plan.Remove, plan.Disconnect, *moves)):
        return True  # to a Swarm or from it: RAGFlow needs both networks until the end
    container = containers.get(name)
    match action:
        case plan.RestartContainer() | plan.Remove(kind="service"):
            return True
        case plan.CheckScores():
            return container is None or container.health != "healthy"
        case plan.Remove(kind="container", name=surplus):
            return bool(re.fullmatch(rf"{re.escape(status.stack.reranker.name)}-\d+", surplus))
    return action in updates or (container is not None and container.status == "restarting")


_Message = EventState | tuple[str, bool | None] | Literal["connected", "disconnected", "stop"]
"""Of the threads; a tuple is a container's name and whether it responded, None without a request."""


class Watcher:
    """Repairs the stack until :meth:`stop`.

    Never starts, stops or recreates RAGFlow's containers: it connects them to the network.

    Args:
        read: Returns the configuration; called at each check, so that changes of the file apply.
        pace: Intervals and timeouts.
    """

    def __init__(self, read: Callable[[], Stack], pace: Pace | None = None) -> None:
        self._read = read
        self._state = WatchState(pace or Pace())
        self._messages = SimpleQueue[_Message]()
        self._stopped = Event()
        self._address: str | None = None
        self._was_connected = False
        self._stack = Stack()
        self._served_name = ""
        self._problems = dict[str, str]()
        self.repairs = 0
        """Number of actions that were run."""

    def stop(self) -> None:
        """Stop after the current action; may be called from a signal handler or another thread."""
        self._stopped.set()
        self._messages.put("stop")

    def run(self) -> int:
        """Watch until stopped; returns the number of actions that were run.

        Raises:
            EngineError: No engine is reachable at the start; one that stops later is waited for.
            LockedError: Another process watches this stack.
            StackError: The configuration names another reranker now.
        """
        self._stack = self._read()
        with closing(docker_engine.connect()) as engine:
            state = engine.state()
        self._address = state.address
        docker_engine.connect(self._address).close()  # raises an error for an address that works once only
        with lock(state.id, self._stack.reranker.name, "watch"):
            Thread(target=self._follow_events, daemon=True).start()
            step(f"watching {self._stack.reranker.name} and {self._stack.shared_network.name}")
            while not self._stopped.is_set():
                self._next()
        return self.repairs

    def _next(self) -> None:
        """Handle one message, or wait until a check or probe is due; then run it."""
        with suppress(Empty):
            self._handle(self._messages.get(timeout=self._state.wait(time.monotonic())))
        if self._stopped.is_set():
            return
        if self._state.check_due(time.monotonic()):
            self._check()
        for name in self._state.probes_due(time.monotonic()):
            self._state = self._state.after_request(name)
            Thread(target=self._probe, args=(name,), daemon=True).start()

    def _handle(self, message: _Message) -> None:
        now = time.monotonic()
        match message:
            case EventState():
                self._state = self._state.after_event(message, self._stack, now)
            case (name, ok):
                self._state = self._state.after_response(name, ok, now)
                if ok is False and (missed := self._state.container(name).missed):
                    _log.warning("%s did not respond, %d times in a row", name, missed)
            case "disconnected" if not self._state.disconnected:
                _log.warning("the Docker engine is unreachable: waiting for it")
                self._state, self._was_connected = self._state.after_disconnect(), True
            case "connected":
                if self._state.disconnected and self._was_connected:
                    _log.info("the Docker engine is reachable again")
                self._state = self._state.after_reconnect(now)

    def _check(self) -> None:
        """Read the state and repair it; another process that changes the stack goes first."""
        try:
            stack, name = self._read(), self._stack.reranker.name
            if stack.reranker.name != name:
                message = f"the reranker is named {stack.reranker.name} now, and {name} is watched"
                raise StackError(message, code="reranker-renamed", hint="start ragops watch again")
            self._stack = stack
            with closing(docker_engine.connect(self._address)) as engine:
                status, started = verbs.status(self._stack, engine), set[str]()
                if self._state.repairs(status, time.monotonic()):
                    status, started = self._repair(engine)
                else:
                    self._log_problems(status, engine)
            self._served_name = status.served_name
            self._state = self._state.after_check(status, time.monotonic(), started=started)
        except LockedError:
            self._state = self._state.postponed(time.monotonic())
        except RagopsError as error:
            if error.code == "reranker-renamed":
                raise
            if error.short != self._state.error:
                _log_error(error)
            self._state = self._state.after_failure(error.short, time.monotonic())

    def _log_problems(self, status: Status, engine: Engine) -> None:
        """Log why a container does not respond, once for each change of the cause."""
        previous, self._problems = self._problems, dict[str, str]()
        for name, container in _containers(status).items():
            problem = ready.problem(engine, name, container)
            hangs = self._state.container(name).hangs(self._state.pace)
            if problem and problem.code not in {"reranker-loading", "" if hangs else "reranker-hangs"}:
                text = self._problems[name] = f"{problem.message}; hint: {problem.hint}"
                if text != previous.get(name):
                    _log.error("error: %s", text)

    def _repair(self, engine: Engine) -> tuple[Status, set[str]]:
        """Check again with the lock, and repair; returns also the names of the containers that it started."""
        with lock(engine.state().id, self._stack.reranker.name):
            status, started = verbs.status(self._stack, engine), set[str]()
            self._log_problems(status, engine)
            for action in self._state.repairs(status, time.monotonic()):
                self.repairs += 1
                name = started_by(action)
                try:
                    plan.apply(plan.Plan((action,)), engine)
                except (EngineError, LaunchError) as error:  # such as a port that is in use
                    if not name:
                        raise
                    _log_error(error)  # the other containers are repaired
                started.add(name)
            return status, started - {""}

    def _follow_events(self) -> None:
        """Put the engine's events in the queue, and when it becomes unreachable or reachable."""
        attempts = 0
        while not self._stopped.is_set():
            try:
                with closing(docker_engine.connect(self._address)) as engine, engine.events() as events:
                    self._messages.put("connected")
                    attempts = 0
                    for event in events:
                        self._messages.put(event)
            except EngineError:
                pass
            self._messages.put("disconnected")
            self._stopped.wait(_RECONNECT[min(attempts, len(_RECONNECT) - 1)])
            attempts += 1

    def _probe(self, name: str) -> None:
        """Rerank one document, or read the gateway's state, and put in the queue whether it responded."""
        ok: bool | None = None  # also when the engine is unreachable: nothing is known about the container
        with suppress(EngineError), closing(docker_engine.connect(self._address)) as engine:
            if (container := engine.container(name)) and container.role == gateway.ROLE:
                ok = gateway.read_state(engine, name) is not None
            else:
                ok = ready.responds(engine, name, self._served_name, timeout=self._state.pace.timeout)
        self._messages.put((name, ok))


def _log_error(error: RagopsError) -> None:
    _log.error("error: %s%s", error.short, f"; hint: {error.hint}" if error.hint else "")


def systemd_unit(file: Path | None) -> str:
    """A systemd unit that runs ``ragops watch`` with the Python, configuration and engine that are used here.

    Without a configuration file, ``./ragops.toml`` is used if it exists.

    Raises:
        EngineError: No engine is reachable.
        StackError: The configuration is invalid.
    """
    stack, path = load(file), configuration_file(file).resolve()
    with closing(docker_engine.connect()) as engine:
        address = engine.state().address
    command = [sys.executable, "-m", "ragops", "watch"]
    if path.exists():
        command += ["--stack", str(path)]
    names = ("DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
    variables = {name: os.environ[name] for name in names if os.environ.get(name)}
    variables |= {"RAGOPS_HOME": str(home().resolve()), "DOCKER_HOST": address}
    if folder := named_folder(stack):
        variables["RAGOPS_MODEL_DIR"] = str(folder)
    environment = "\n".join(f"Environment={_quoted(f'{name}={value}')}" for name, value in variables.items())
    return f"""\
# /etc/systemd/system/ragops-watch.service; then: systemctl enable --now ragops-watch
[Unit]
Description=ragops watch: keeps RAGFlow and its reranker connected
Wants=docker.service
After=docker.service

[Service]
ExecStart={" ".join(map(_quoted, command)).replace("$", "$$")}
{environment}
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
"""


def _quoted(text: str) -> str:
    """A word of a systemd unit, in which specifiers are taken literally."""
    plain = re.sub(r'[\0-\x1f"\\]', lambda match: f"\\x{ord(match[0]):02x}", text.replace("%", "%%"))
    return f'"{plain}"' if plain != text or any(mark in text for mark in " ';") else plain
