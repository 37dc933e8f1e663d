"""How far a long operation is: the library reports here, the user interface displays it.

Messages go to the loggers below ``ragops``, steps and counts to the receiver of the current context.
Without a receiver they are log messages too. A receiver is installed with :func:`receiver`::

    with progress.receiver(Display()):
        ragops.up(stack)
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_log = logging.getLogger(__name__)


class Progress:
    """Receives the progress of an operation, from the thread that runs it; this one ignores it."""

    def step(self, text: str) -> None:
        """A new step begins; the one before it has ended."""

    def advance(self, done: int, total: int, text: str = "") -> None:
        """``done`` of ``total`` parts of the step have ended; ``text`` describes the last one."""


class Logged(Progress):
    """Logs each step, and each tenth of its total, at level ``INFO``."""

    _tenth = 0

    def step(self, text: str) -> None:
        """Log the step."""
        self._tenth = 0
        _log.info("%s", text)

    def advance(self, done: int, total: int, text: str = "") -> None:
        """Log the count when it passes a tenth of the total."""
        tenth = 10 * done // max(1, total)
        if tenth != self._tenth:
            self._tenth = tenth
            _log.info("%d/%d %s", done, total, text)


_receiver: ContextVar[Progress] = ContextVar("ragops_progress", default=Logged())  # noqa: B039 - shared on purpose


@contextmanager
def receiver(progress: Progress) -> Iterator[None]:
    """Send the progress of this context to ``progress``."""
    token = _receiver.set(progress)
    try:
        yield
    finally:
        _receiver.reset(token)


def step(text: str) -> None:
    """Report that a step begins."""
    _receiver.get().step(text)


def advance(done: int, total: int, text: str = "") -> None:
    """Report how many of a total the current step has done."""
    _receiver.get().advance(done, total, text)
