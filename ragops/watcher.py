"""The loop of ``ragops watch``: what the engine tells goes in, repairs come out.

``watching.py`` decides. Two threads only listen: one follows the engine's events, one waits for the
reranker's answer, which may take a minute; neither holds up a repair.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING

from ragops import planning, ready, verbs
from ragops.engine import connect
from ragops.errors import EngineError, LockedError, RagopsError
from ragops.lock import held
from ragops.progress import step
from ragops.stack import home
from ragops.state import EventState
from ragops.watching import LAUNCHES, Memory, Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from ragops.actions import Action
    from ragops.engine import Engine
    from ragops.stack import Stack
    from ragops.verbs import Status

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
        with held(home(), self._address, stack.reranker.name, "watching"):
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
        with held(home(), engine.state().address, self._read().reranker.name):
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
            planning.apply(planning.Plan((action,)), engine)

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
                served, patience = verbs.desired(stack).served, self._memory.pace.patience
                ok = ready.answers(engine, stack.reranker.name, served, patience=patience)
        except RagopsError:
            pass  # its declaration can't be read, say, or the engine is gone: no fault of its own
        self._words.put(_Answer(ok))
