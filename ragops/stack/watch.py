"""What ``ragops watch`` does about what it sees; pure.

A :class:`Memory` is what it knows between two looks. Events, answers and looks give a new one, and
:meth:`Memory.repairs` the changes to make now. ``watcher.py`` is the loop around it. Times are
seconds of any clock that only goes forward.

The loop of ``ragops watch``: what the engine tells goes in, repairs come out.

``watching.py`` decides. Two threads only listen: one follows the engine's events, one waits for the
reranker's answer, which may take a minute; neither holds up a repair.

How ``ragops watch`` is kept running: a systemd unit, or a compose service; pure but for :func:`here`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from ruamel.yaml.scalarstring import LiteralScalarString, SingleQuotedScalarString

from ragops.checks import ready
from ragops.compose.render import escape_variables, to_comments, to_yaml
from ragops.configuration import Stack, declaration, home, load
from ragops.docker.engine import connect
from ragops.docker.objects import EventState
from ragops.errors import EngineError, LockedError, RagopsError
from ragops.progress import step
from ragops.session import Deployment, lock
from ragops.stack import plan, verbs
from ragops.stack.plan import Action, ReplaceContainer, RestartContainer, RunContainer, StartContainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ragops.docker.engine import Engine
    from ragops.stack.verbs import Status

LAUNCHES = (RunContainer, ReplaceContainer, StartContainer, RestartContainer)
"""Actions that bring the reranker up. They come last and back off on their own: a reranker that keeps
ending must not keep RAGFlow out of the network."""

_TELLING = frozenset({"start", "die", "destroy", "rename", "unpause"})


@dataclass(frozen=True)
class Pace:
    """How fast it goes; in seconds but for ``misses``."""

    settle: float = 0.5
    """After an event: what belongs together is seen together."""
    apart: float = 1.0
    """Between two looks, however much happens; also the first wait after a failure, which doubles."""
    look: float = 60.0
    """Between two looks when nothing happens: an event may have been missed."""
    probe: float = 30.0
    """Between the end of one rerank of one document and the next."""
    patience: float = 60.0
    """For the answer to one."""
    misses: int = 3
    """Unanswered ones in a row that make a restart. RAGFlow gives up after half a minute and vLLM drops
    what nobody waits for any more, so that one that is only busy answers in time."""
    launch: float = 5.0
    """Before the reranker is started a second time; doubles with each time."""
    longest: float = 300.0
    """The longest wait that doubling comes to."""

    def backed_off(self, first: float, times: int) -> float:
        """How long to wait after something failed so many times."""
        return min(self.longest, first * 2.0 ** min(times - 1, 20)) if times else 0.0


@dataclass(frozen=True)
class Memory:
    """What is known between two looks."""

    pace: Pace = field(default_factory=Pace)
    away: bool = True
    """Whether the engine doesn't answer."""
    look_at: float = 0.0
    not_before: float = 0.0
    """When the next look may be, whatever happens."""
    failures: int = 0
    """Looks or repairs in a row that failed."""
    error: str = ""
    """What the last of them said."""
    serving: bool = False
    """Whether the reranker ran and was not starting when it was last looked at."""
    probe_at: float = 0.0
    probing: bool = False
    missed: int = 0
    launches: int = 0
    """How often the reranker was brought up since it last answered."""
    launch_at: float = 0.0

    def wakes(self, now: float) -> float | None:
        """Seconds until there is something to do; None while only the engine's return matters."""
        if self.away:
            return None
        due = [self.look_at] + [self.probe_at] * (self.serving and not self.probing)
        return max(0.0, min(due) - now)

    def looks(self, now: float) -> bool:
        """Whether it is time to look."""
        return not self.away and self.look_at <= now

    def probes(self, now: float) -> bool:
        """Whether it is time to ask the reranker something."""
        return not self.away and self.serving and not self.probing and self.probe_at <= now

    def heard(self, event: EventState, stack: Stack, now: float) -> Memory:
        """After an event."""
        if not matters(event, stack):
            return self
        return replace(self, look_at=min(self.look_at, max(now + self.pace.settle, self.not_before)))

    def lost(self) -> Memory:
        """After the engine went away."""
        return replace(self, away=True, serving=False)

    def back(self, now: float) -> Memory:
        """After the engine answered again; all may be different."""
        return replace(self, away=False, look_at=now, not_before=now, failures=0, error="", missed=0)

    def asked(self) -> Memory:
        """After the reranker was asked something."""
        return replace(self, probing=True)

    def answered(self, ok: bool | None, now: float) -> Memory:
        """After it answered, or did not, or could not be asked; while it is starting, no is no answer."""
        after = replace(self, probing=False, probe_at=now + self.pace.probe)
        if ok:
            return replace(after, missed=0, launches=0, launch_at=0.0)
        if ok is None or not self.serving:
            return after
        missed = self.missed + 1
        return replace(after, missed=missed, look_at=now if missed >= self.pace.misses else self.look_at)

    def repairs(self, status: Status, now: float) -> tuple[Action, ...]:
        """What to do now about the drift that a look has shown; what brings the reranker up comes last."""
        actions = status.drift.actions
        first = tuple(action for action in actions if not isinstance(action, LAUNCHES))
        launches = tuple(action for action in actions if isinstance(action, LAUNCHES))
        if self.missed >= self.pace.misses and not launches:
            reason = f"it did not answer {self.missed} times"
            launches = (RestartContainer(status.stack.reranker.name, reason),)
        return first + (launches if now >= self.launch_at and not _waits(status, launches) else ())

    def looked(self, status: Status, now: float, *, launched: bool) -> Memory:
        """After a look, and its repairs if there were any."""
        serving = _serves(status) and not launched
        after = replace(
            self,
            look_at=now + self.pace.look,
            not_before=now + self.pace.apart,
            failures=0,
            error="",
            serving=serving,
            probe_at=self.probe_at if serving and self.serving else now,
            missed=self.missed if serving else 0,
        )
        if launched:
            times = self.launches + 1
            wait = self.pace.backed_off(self.pace.launch, times)
            return replace(after, launches=times, launch_at=now + wait, look_at=now + wait)
        return replace(after, look_at=self.launch_at) if now < self.launch_at < after.look_at else after

    def failed(self, error: str, now: float) -> Memory:
        """After a look or a repair that failed; an event still brings the next one forward."""
        times = self.failures + 1
        again = now + self.pace.backed_off(self.pace.apart, times)
        return replace(self.later(now), failures=times, error=error, look_at=again)

    def later(self, now: float) -> Memory:
        """After finding that another ragops is changing the stack."""
        return replace(self, look_at=now + self.pace.apart, not_before=now + self.pace.apart)


def matters(event: EventState, stack: Stack) -> bool:
    """Whether something that happened may have changed what was declared.

    Any container may be RAGFlow in a new shape; of networks only the declared one counts.
    """
    if event.kind == "network":
        return event.name == stack.network.name
    if event.action.startswith("health_status"):
        return event.name == stack.reranker.name
    return event.action in _TELLING


def _serves(status: Status) -> bool:
    reranker = status.reranker
    return reranker is not None and reranker.status == "running" and reranker.health != "starting"


def _waits(status: Status, launches: tuple[Action, ...]) -> bool:
    """Whether bringing the reranker up is left to others.

    To the engine, when it restarts the container itself. To ``ragops up``, when the reranker runs and
    only its declaration or its image is another now: nobody's question is broken off for that.
    """
    reranker = status.reranker
    if reranker is None:
        return False
    update = any(isinstance(action, ReplaceContainer) for action in launches)
    return reranker.status == "restarting" or (update and reranker.running and status.network is not None)


_log = logging.getLogger(__name__)
_RETRY = (0.5, 1.0, 2.0)
"""Seconds between tries to reach an engine that went away; the last for all later ones."""


@dataclass(frozen=True)
class _Lost:
    """The engine went away."""


@dataclass(frozen=True)
class _Back:
    """The engine answers."""


@dataclass(frozen=True)
class _Answer:
    """Whether the reranker answered; None when it could not be asked."""

    ok: bool | None


class Watcher:
    """Keeps what is declared, until :meth:`stop`.

    Never starts, stops or recreates a container of RAGFlow's: it joins them to the network.

    Args:
        read: Gives the declaration; asked at each look, so that an edited file counts.
        pace: How fast it goes.
    """

    def __init__(self, read: Callable[[], Stack], pace: Pace | None = None) -> None:
        self._read = read
        self._memory = Memory(pace or Pace())
        self._words: SimpleQueue[EventState | _Lost | _Back | _Answer | None] = SimpleQueue()
        self._over = Event()
        self._address: str | None = None
        self._gone = False
        self.repairs = 0
        """How many changes it has made."""

    def stop(self) -> None:
        """End after what is being done now; may be called from a signal handler or another thread."""
        self._over.set()
        self._words.put(None)

    def run(self) -> int:
        """Watch until stopped; gives back how many changes were made.

        Raises:
            EngineError: No engine answers at the start; one that goes away later is waited for.
            LockedError: Another one watches this stack.
        """
        stack = self._read()
        with closing(connect()) as engine:
            self._address = engine.state().address
        with lock(self._address, stack.reranker.name, "watch"):
            Thread(target=self._follow, daemon=True).start()
            step(f"watching {stack.reranker.name} and {stack.network.name}")
            while not self._over.is_set():
                self._turn(stack)
        return self.repairs

    def _turn(self, stack: Stack) -> None:
        """Take one word in, or wait until something is due; then do what is due."""
        try:
            word = self._words.get(timeout=self._memory.wakes(time.monotonic()))
        except Empty:
            word = None
        self._take(word, stack)
        if self._over.is_set():
            return
        if self._memory.looks(time.monotonic()):
            self._look()
        if self._memory.probes(time.monotonic()):
            self._memory = self._memory.asked()
            Thread(target=self._ask, daemon=True).start()

    def _take(self, word: EventState | _Lost | _Back | _Answer | None, stack: Stack) -> None:
        now = time.monotonic()
        match word:
            case EventState():
                self._memory = self._memory.heard(word, stack, now)
            case _Answer():
                self._memory = self._memory.answered(word.ok, now)
                if word.ok is False and self._memory.missed:
                    _log.warning("the reranker did not respond, %d times in a row", self._memory.missed)
            case _Lost() if not self._memory.away:
                _log.warning("the Docker engine is unreachable: waiting for it")
                self._memory, self._gone = self._memory.lost(), True
            case _Back():
                if self._memory.away and self._gone:
                    _log.info("the Docker engine is reachable again")
                self._memory = self._memory.back(now)

    def _look(self) -> None:
        """See what is, and repair it; whoever else changes the stack at this moment goes first."""
        try:
            with closing(connect(self._address)) as engine:
                status, launched = verbs.status(self._read(), engine), False
                if self._memory.repairs(status, time.monotonic()):
                    status, launched = self._repair(engine)
            self._memory = self._memory.looked(status, time.monotonic(), launched=launched)
        except LockedError:
            self._memory = self._memory.later(time.monotonic())
        except RagopsError as error:
            said, before = error.short, self._memory.error
            self._memory = self._memory.failed(said, time.monotonic())
            if said != before:
                _log.error("error: %s", said)

    def _repair(self, engine: Engine) -> tuple[Status, bool]:
        """Look again with the lock held, and do it; tells whether the reranker was brought up."""
        with lock(engine.state().address, self._read().reranker.name):
            status = verbs.status(self._read(), engine)
            repairs = self._memory.repairs(status, time.monotonic())
            launches = tuple(action for action in repairs if isinstance(action, LAUNCHES))
            self._apply(tuple(action for action in repairs if action not in launches), engine)
            try:
                self._apply(launches, engine)
            except EngineError as error:  # the port is taken, say; the rest is done nevertheless
                _log.error("error: %s", error.short)
            return status, bool(launches)

    def _apply(self, actions: tuple[Action, ...], engine: Engine) -> None:
        for action in actions:
            self.repairs += 1
            plan.apply(plan.Plan((action,)), engine)

    def _follow(self) -> None:
        """Pass the engine's events on, and that it went away or came back."""
        tries = 0
        while not self._over.is_set():
            try:
                with closing(connect(self._address)) as engine, engine.events() as heard:
                    self._words.put(_Back())
                    tries = 0
                    for event in heard:
                        self._words.put(event)
            except EngineError:
                pass
            self._words.put(_Lost())
            self._over.wait(_RETRY[min(tries, len(_RETRY) - 1)])
            tries += 1

    def _ask(self) -> None:
        """Ask the reranker for the score of one document, and pass on whether it answered."""
        ok: bool | None = None
        try:
            stack = self._read()
            with closing(connect(self._address)) as engine:
                served, patience = Deployment.resolve(stack).served_name, self._memory.pace.patience
                ok = ready.answers(engine, stack.reranker.name, served, patience=patience)
        except RagopsError:
            pass  # its declaration can't be read, say, or the engine is gone: no fault of its own
        self._words.put(_Answer(ok))


_SOCKET = Path("/var/run/docker.sock")
_PACKAGE = "ragops-rerank"


@dataclass(frozen=True)
class Surroundings:
    """Where it will run: as here, from the files that are used here."""

    python: Path
    declaration: Path | None
    home: Path
    socket: Path
    model: Path | None
    """The model folder, where one is named."""
    checkout: Path | None
    """The folder that ragops is installed from, where that is a checkout."""
    user: str
    """Numbers of the user and of the socket's group, as ``user:group``."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows the interpreter."""
        named = ("--stack", str(self.declaration)) if self.declaration else ()
        return ("-m", "ragops", "watch", *named)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the declaration is read with."""
        model = {"RAGOPS_MODEL_DIR": str(self.model)} if self.model else {}
        return {"RAGOPS_HOME": str(self.home), "DOCKER_HOST": f"unix://{self.socket}", **model}


def here(file: Path | None, address: str) -> Surroundings:
    """What is used now.

    Args:
        file: The declaration that was named, if one was.
        address: The engine's.

    Raises:
        StackError: The declaration can't be read.
    """
    declared = declaration(file).resolve()
    stack: Stack = load(file)
    model = os.environ.get("RAGOPS_MODEL_DIR") or stack.reranker.model
    root = Path(__file__).resolve().parents[2]
    socket = Path(address.removeprefix("unix://")) if address.startswith("unix://") else _SOCKET
    group = socket.stat().st_gid if socket.exists() else 0
    return Surroundings(
        python=Path(sys.executable),
        declaration=declared if declared.exists() else None,
        home=home().resolve(),
        socket=socket,
        model=Path(model).expanduser().resolve() if model else None,
        checkout=root if (root / "pyproject.toml").exists() else None,
        user=f"{os.getuid()}:{group}",
    )


def systemd(where: Surroundings) -> str:
    """A unit that starts it with the machine; it waits by itself for an engine that restarts."""
    variables = [f"Environment={_quoted(f'{name}={value}')}" for name, value in where.environment.items()]
    lines = [
        "# /etc/systemd/system/ragops-watch.service; then: systemctl enable --now ragops-watch",
        "[Unit]",
        "Description=ragops watch: keeps RAGFlow and its reranker connected",
        "Wants=docker.service",
        "After=docker.service",
        "",
        "[Service]",
        f"ExecStart={' '.join(map(_quoted, (str(where.python), *where.arguments)))}",
        *variables,
        "Restart=on-failure",
        "RestartSec=5",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def compose(where: Surroundings) -> str:
    """A compose file whose one service watches; it is given the engine's socket, and no network."""
    paths = [where.declaration, where.model]
    service: dict[str, Any] = {
        "build": _build(where),
        "command": list(where.arguments),
        "environment": where.environment,
        "user": SingleQuotedScalarString(where.user),  # else older readers take it for a time
        "volumes": [f"{where.socket}:{where.socket}", f"{where.home}:{where.home}"]
        + [f"{path}:{path}:ro" for path in paths if path],
        "network_mode": "none",
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108 - inside the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "restart": "always",
    }
    header = [
        "ragops watch as a service; docker compose -f FILE up -d builds and starts it.",
        "Whoever has the engine's socket can do all that root can: so has this container.",
    ]
    return to_comments(header) + to_yaml(
        {"name": "ragops-watch", "services": {"watch": escape_variables(service)}}
    )


def _build(where: Surroundings) -> dict[str, str]:
    """An image with ragops: the checkout that is used here, else the release."""
    wanted = "/src" if where.checkout else f"{_PACKAGE}=={version(_PACKAGE)}"
    copy = "COPY . /src\n" if where.checkout else ""
    recipe = f'FROM python:3.12-slim\n{copy}RUN pip install --no-cache-dir {wanted}\nENTRYPOINT ["python"]\n'
    return {"context": str(where.checkout or "."), "dockerfile_inline": LiteralScalarString(recipe)}


def _quoted(text: str) -> str:
    """A word as systemd takes it: its specifiers and variables are taken literally."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{plain}"' if any(mark in text for mark in " \"'\\;") else plain
