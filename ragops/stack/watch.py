"""The loop of ``ragops watch``: it follows the events of the Docker engine and repairs the stack.

:class:`WatchState` is pure and decides: each event, response and check gives a new state, and
:meth:`WatchState.repairs` the actions to run now. :class:`Watcher` is the loop around it. Two threads only
listen, so that neither delays a repair: one to the engine's events, one to the reranker's response, which may
take a minute. :func:`systemd_unit` starts the loop with the machine.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Literal

from ragops.checks import ready
from ragops.configuration import Stack, configuration_file, home, load
from ragops.docker import engine as docker_engine
from ragops.docker.objects import EventState
from ragops.errors import EngineError, LockedError, RagopsError, StackError
from ragops.progress import step
from ragops.reranker.model import named_folder
from ragops.session import lock
from ragops.stack import verbs
from ragops.stack.plan import (
    Action,
    Plan,
    ReplaceContainer,
    RestartContainer,
    RunContainer,
    StartContainer,
    apply,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ragops.docker.engine import Engine
    from ragops.stack.verbs import Status

START_ACTIONS = (RunContainer, ReplaceContainer, StartContainer, RestartContainer)
"""Actions that start the reranker. They come last and have their own back-off: a reranker that keeps exiting
must not keep RAGFlow from its network."""

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
    """The longest back-off."""

    def back_off(self, first: float, times: int) -> float:
        """Seconds to wait after this many failures in a row."""
        return min(self.longest, first * 2.0 ** min(times - 1, 20)) if times else 0.0


@dataclass(frozen=True)
class WatchState:
    """State of the loop between two checks; times are seconds of a monotonic clock."""

    pace: Pace = field(default_factory=Pace)
    disconnected: bool = True
    """Whether the engine is unreachable."""
    check_at: float = 0.0
    not_before: float = 0.0
    """Earliest time of the next check, whatever happens."""
    failures: int = 0
    """Checks or repairs in a row that failed."""
    error: str = ""
    """Message of the last of them."""
    serving: bool = False
    """Whether the reranker ran and was not starting at the last check."""
    probe_at: float = 0.0
    probing: bool = False
    missed: int = 0
    """Missing responses in a row."""
    unhealthy: bool = False
    """Whether Docker reports it as unhealthy, which may be older than its last response: it is restarted if
    it does not respond to one more request."""
    outdated: bool = False
    """Whether the request on its way was sent before that."""
    starts: int = 0
    """Starts of the reranker since its last response."""
    start_at: float = 0.0
    """Earliest time of the next start."""

    def wait(self, now: float) -> float | None:
        """Seconds until the next check or probe; None while the engine is unreachable."""
        if self.disconnected:
            return None
        due = min(self.check_at, self.probe_at) if self.serving and not self.probing else self.check_at
        return max(0.0, due - now)

    def check_due(self, now: float) -> bool:
        """Whether it is time for a check."""
        return not self.disconnected and self.check_at <= now

    def probe_due(self, now: float) -> bool:
        """Whether it is time to send the reranker a request."""
        return not self.disconnected and self.serving and not self.probing and self.probe_at <= now

    def after_event(self, event: EventState, stack: Stack, now: float) -> WatchState:
        """After an event of the engine."""
        if not is_relevant(event, stack):
            return self
        return replace(self, check_at=min(self.check_at, max(now + self.pace.settle, self.not_before)))

    def after_disconnect(self) -> WatchState:
        """After the engine became unreachable."""
        return replace(self, disconnected=True, serving=False)

    def after_reconnect(self, now: float) -> WatchState:
        """After the engine became reachable; everything may have changed."""
        return replace(self, disconnected=False, check_at=now, not_before=now, failures=0, error="", missed=0)

    def after_request(self) -> WatchState:
        """After a request was sent to the reranker."""
        return replace(self, probing=True)

    def after_response(self, ok: bool | None, now: float) -> WatchState:
        """After a response, a missing one, or (None) a request that could not be sent.

        A missing response of a reranker that is starting does not count.
        """
        probe_at = now if self.outdated else now + self.pace.probe
        after = replace(self, probing=False, outdated=False, probe_at=probe_at)
        if ok:
            return replace(after, missed=0, starts=0, start_at=0.0)
        if ok is None or not self.serving or self.outdated:
            return after
        after = replace(after, missed=self.missed + 1)
        return replace(after, check_at=now) if after.hangs else after

    @property
    def hangs(self) -> bool:
        """Whether so many responses are missing that the reranker is restarted."""
        return self.missed >= (1 if self.unhealthy else self.pace.misses)

    def after_check(self, status: Status, now: float, *, started: bool) -> WatchState:
        """After a check, and its repairs if there were any."""
        reranker = status.reranker
        runs = reranker is not None and reranker.status == "running" and reranker.health != "starting"
        serving = runs and not started
        unhealthy = serving and reranker is not None and reranker.health == "unhealthy"
        known = serving and self.serving and unhealthy <= self.unhealthy
        after = replace(
            self,
            check_at=now + self.pace.check,
            not_before=now + self.pace.apart,
            failures=0,
            error="",
            serving=serving,
            unhealthy=unhealthy,
            outdated=self.outdated if known else self.probing,
            probe_at=self.probe_at if known else now,
            missed=self.missed if known else 0,
        )
        if started:
            again = now + self.pace.back_off(self.pace.start, self.starts + 1)
            return replace(after, starts=self.starts + 1, start_at=again, check_at=again)
        return replace(after, check_at=self.start_at) if now < self.start_at < after.check_at else after

    def after_failure(self, error: str, now: float) -> WatchState:
        """After a check or a repair that failed; an event still brings the next check forward."""
        failures = self.failures + 1
        again = now + self.pace.back_off(self.pace.apart, failures)
        return replace(self.postponed(now), failures=failures, error=error, check_at=again)

    def postponed(self, now: float) -> WatchState:
        """After a check found that another ragops process changes the stack."""
        return replace(self, check_at=now + self.pace.apart, not_before=now + self.pace.apart)

    def repairs(self, status: Status, now: float) -> tuple[Action, ...]:
        """The actions to run now for the drift of a check; those that start the reranker come last."""
        actions = status.drift.actions
        others = tuple(action for action in actions if not isinstance(action, START_ACTIONS))
        starts = tuple(action for action in actions if isinstance(action, START_ACTIONS))
        starts = tuple(action for action in starts if not isinstance(action, RestartContainer))
        running = status.reranker is not None and status.reranker.status == "running"
        if self.hangs and running and not starts:
            reason = f"no response to {self.missed} request{'s' if self.missed > 1 else ''}"
            starts = (RestartContainer(status.stack.reranker.name, reason),)
        return others + (starts if now >= self.start_at and not _is_left(status, starts) else ())


def is_relevant(event: EventState, stack: Stack) -> bool:
    """Whether an event may have changed the stack.

    Any container may be a recreated RAGFlow; of networks only the configured one counts.
    """
    if event.kind == "network":
        return event.name == stack.network.name
    if event.action.startswith("health_status"):
        return event.name == stack.reranker.name
    return event.action in _CONTAINER_EVENTS


def _is_left(status: Status, starts: tuple[Action, ...]) -> bool:
    """Whether starting the reranker is left to Docker or to ``ragops up``.

    Docker restarts a container after a failure. A reranker that runs, and of which only configuration or
    image changed, is left to ``ragops up``, so that no request is interrupted.
    """
    reranker = status.reranker
    if reranker is None:
        return False
    update = any(isinstance(action, ReplaceContainer) for action in starts)
    return reranker.status == "restarting" or (update and reranker.running and status.network is not None)


_Message = EventState | bool | None | Literal["connected", "disconnected", "stop"]
"""Of the threads; a truth value is whether the reranker responded, None that no request could be sent."""


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
        self._problem = ""
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
            step(f"watching {self._stack.reranker.name} and {self._stack.network.name}")
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
        if self._state.probe_due(time.monotonic()):
            self._state = self._state.after_request()
            Thread(target=self._probe, args=(self._stack.reranker.name,), daemon=True).start()

    def _handle(self, message: _Message) -> None:
        now = time.monotonic()
        match message:
            case EventState():
                self._state = self._state.after_event(message, self._stack, now)
            case bool() | None:
                self._state = self._state.after_response(message, now)
                if message is False and self._state.missed:
                    _log.warning("the reranker did not respond, %d times in a row", self._state.missed)
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
            self._stack = self._read_again()
            with closing(docker_engine.connect(self._address)) as engine:
                status, started = verbs.status(self._stack, engine), False
                if self._state.repairs(status, time.monotonic()):
                    status, started = self._repair(engine)
                else:
                    self._log_problem(status)
            self._served_name = status.served_name
            self._state = self._state.after_check(status, time.monotonic(), started=started)
        except LockedError:
            self._state = self._state.postponed(time.monotonic())
        except RagopsError as error:
            if error.code == "reranker-renamed":
                raise
            previous = self._state.error
            self._state = self._state.after_failure(error.short, time.monotonic())
            if error.short != previous:
                _log_error(error)

    def _read_again(self) -> Stack:
        stack, name = self._read(), self._stack.reranker.name
        if stack.reranker.name != name:
            message = f"the reranker is named {stack.reranker.name} now, and {name} is watched"
            raise StackError(message, code="reranker-renamed", hint="start ragops watch again")
        return stack

    def _log_problem(self, status: Status) -> None:
        """Log why the reranker does not respond, once for each change of the cause."""
        problem, previous = status.problem, self._problem
        left_out = {"reranker-loading", "" if self._state.hangs else "reranker-hangs"}
        known = problem and problem.code not in left_out
        self._problem = f"{problem.message}; hint: {problem.hint}" if problem and known else ""
        if self._problem not in {"", previous}:
            _log.error("error: %s", self._problem)

    def _repair(self, engine: Engine) -> tuple[Status, bool]:
        """Check again with the lock, and repair; returns also whether the reranker was started."""
        with lock(engine.state().id, self._stack.reranker.name):
            status = verbs.status(self._stack, engine)
            self._log_problem(status)
            repairs = self._state.repairs(status, time.monotonic())
            starts = [action for action in repairs if isinstance(action, START_ACTIONS)]
            self._apply([action for action in repairs if action not in starts], engine)
            try:
                self._apply(starts, engine)
            except EngineError as error:  # such as a port that is in use; the other repairs are done
                _log_error(error)
            return status, bool(starts)

    def _apply(self, actions: Sequence[Action], engine: Engine) -> None:
        self.repairs += len(actions)
        apply(Plan(tuple(actions)), engine)

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
        """Rerank one document, and put in the queue whether there was a response."""
        ok: bool | None = None  # also when the engine is unreachable: nothing is known about the reranker
        with suppress(EngineError), closing(docker_engine.connect(self._address)) as engine:
            ok = ready.responds(engine, name, self._served_name, timeout=self._state.pace.timeout)
        self._messages.put(ok)


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
