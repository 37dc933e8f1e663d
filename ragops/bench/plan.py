"""What a run is going to send: its passes in order, and what is left of them; pure.

``run.py`` makes a plan, ``recorder.py`` carries it out pass by pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.bench import load, wire
from ragops.bench.level import playing_order
from ragops.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.bench.level import Level
    from ragops.bench.records import Phase, Run, RunInfo
    from ragops.bench.workload import Workload


@dataclass(frozen=True)
class Turn:
    """One level to be played once, or what is left of it."""

    number: int
    """Of the pass in the whole run, from 1 on."""
    level: Level
    repeat: int
    places: tuple[int, ...]
    """Places in the workload that are measured."""


@dataclass(frozen=True)
class Plan:
    """A run to be made, or to be continued.

    Args:
        info: What is known of it beforehand.
        workload: The texts.
        target: Where they go.
        before: What an earlier session kept; None for a new run.

    Raises:
        BenchError: There is nothing to play, or the key is empty.
    """

    info: RunInfo
    workload: Workload
    target: wire.Target
    before: Run | None = None

    def __post_init__(self) -> None:
        info, names = self.info, [level.name for level in self.info.levels]
        if not names or len(set(names)) < len(names) or info.repeats < 1 or info.warmup < 0:
            counts = f"{info.repeats} repeats, {info.warmup} warm-up requests"
            raise BenchError(
                "there is nothing to play, or a level is named twice",
                evidence=f"levels: {', '.join(names) or 'none'}; {counts}",
                hint="give each level once, repeats of at least 1 and a warm-up of at least 0",
            )
        if not self.target.api_key.strip():
            raise BenchError("the key is empty", hint="leave api_key out if the server asks for none")

    @property
    def session(self) -> int:
        """How often the run has been continued."""
        return len(self.info.resumed)

    @property
    def total(self) -> int:
        """Requests of all sessions, warm-up included."""
        kept = len(self.before.requests) if self.before else 0
        return kept + sum(self.info.warmup + len(turn.places) for turn in self.turns())

    def turns(self) -> Iterator[Turn]:
        """The passes that have something left to measure, in the order of playing."""
        kept = self.before.measured if self.before else ()
        done = {(record.level, record.repeat, record.index) for record in kept}
        order = playing_order(self.info.levels, self.info.repeats, self.info.seed)
        for number, (level, repeat) in enumerate(order, start=1):
            planned = range(self.info.planned(level))
            places = tuple(place for place in planned if (level.name, repeat, place) not in done)
            if places:
                yield Turn(number, level, repeat, places)

    def encoded(self, turn: Turn) -> load.Pass:
        """The requests of a pass: warm-up from the workload's end, then those that are measured."""
        warm = range(self.info.warmup)
        jobs = [self._job(turn, -1 - n % len(self.workload.requests), "warmup") for n in warm]
        jobs += [self._job(turn, place, "measure") for place in turn.places]
        seed = self.info.seed + turn.repeat + 1000 * self.session
        return load.Pass(turn.level, turn.repeat, tuple(jobs), seed, self.session)

    def _job(self, turn: Turn, place: int, phase: Phase) -> load.Job:
        request = self.workload.requests[place]
        query, documents = request.query, request.documents
        if self.info.fresh:
            mark = _mark(turn.number, self.session, phase)
            query, documents = mark + query, tuple(mark + text for text in documents)
        body = wire.encode(self.target.model, query, documents)
        index = place % len(self.workload.requests)
        return load.Job(index, phase, body, len(documents), request.words)


def _mark(number: int, session: int, phase: Phase) -> str:
    """What makes a text of one pass differ from the same text in another."""
    letters = ("w" if phase == "warmup" else "") + "r" * session
    return f"{number}{letters}. "
