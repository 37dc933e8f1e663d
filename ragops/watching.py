"""What ``ragops watch`` does about what it sees; pure.

A :class:`Memory` is what it knows between two looks. Events, answers and looks give a new one, and
:meth:`Memory.repairs` the changes to make now. ``watcher.py`` is the loop around it. Times are
seconds of any clock that only goes forward.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ragops.actions import Action, ReplaceContainer, RestartContainer, RunContainer, StartContainer

if TYPE_CHECKING:
    from ragops.stack import Stack
    from ragops.state import EventState
    from ragops.verbs import Status

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
