"""The search itself: the best launch so far against one challenger after the other.

The champion's container stays, frozen while the challenger computes and the other way round, so that a
challenger costs one start and both are measured within the same minutes. ``rig.py`` has the containers;
here is only who meets whom, and what is kept of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, cast

from ragops.bench.agreement import agreement
from ragops.errors import BenchError, RagopsError
from ragops.tuning.candidates import Candidate, Settings, merged
from ragops.tuning.records import Size, Trial, TuneInfo
from ragops.tuning.report import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from ragops.bench.agreement import Agreement
    from ragops.tuning.compare import Decision, Ratio, Scores
    from ragops.tuning.folder import TuneFolder
    from ragops.tuning.report import Verdict

Slot = Literal["a", "b"]

_OTHER: dict[Slot, Slot] = {"a": "b", "b": "a"}
_WARM = -3
"""Number of a block that each challenger answers once, uncounted."""
_DEFAULT = Candidate("default", (), "the launch without tuning")


@dataclass(frozen=True)
class Block:
    """How one launch answered one block."""

    documents: int
    seconds: float
    tokens: int
    others: float = 0.0
    """Cores that other programs, or the hypervisor, used meanwhile."""
    error: str = ""


class Rig(Protocol):
    """Two places for a reranker, of which one computes at a time."""

    def made(self, candidate: Candidate) -> Settings:
        """The settings of a candidate; those of int8 are known only when its checkpoint is there."""

    def start(self, slot: Slot, settings: Settings) -> float:
        """Start a launch and wait for its first answers; gives back the seconds."""

    def sized(self, slot: Slot) -> Size:
        """Requests that take some seconds."""

    def scores(self, slot: Slot, size: Size) -> Scores:
        """Scores of the golden queries."""

    def gate(self, slot: Slot) -> str:
        """Why the score gate refuses; empty when it doesn't."""

    def block(self, slot: Slot, number: int, size: Size) -> Block:
        """Answer the block of that number."""

    def drop(self, slot: Slot) -> None:
        """Remove what is there, if anything is."""


class Search:
    """One search, new or continued.

    Args:
        rig: Where it runs.
        info: What is known, and what was decided before.
        trials: What was measured before.
        folder: Where it is kept.
        trained: Whether the score gate can judge the model.
        told: Given a line for each thing that takes long.
        over: Whether the time is over; no challenger begins after that.
    """

    def __init__(  # noqa: PLR0913 - one argument for each thing that varies
        self,
        rig: Rig,
        info: TuneInfo,
        trials: tuple[Trial, ...],
        folder: TuneFolder,
        *,
        trained: bool,
        told: Callable[[str], None] = lambda _: None,
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        self.info = info
        self._rig, self._folder, self._trained = rig, folder, trained
        self._told, self._over = told, over
        self._trials = list(trials)
        self._king: Slot = "a"

    def run(self) -> TuneInfo:
        """Try what is left or there is time for; then the best against the launch without tuning.

        Raises:
            RagopsError: The best launch so far does not start, fails the score gate, or went away.
        """
        self._folder.write(self.info)
        self._begin()
        for candidate in self.info.left:
            if self._over():
                break
            row = self._tried(candidate)
            self._told(f"{row.name}: {row.verdict}, {row.ratio or row.detail}")
            self._keep(replace(self.info, rows=(*self.info.rows, row)))
        done = not self.info.left
        reason = "" if done else "the time was over"
        self._keep(replace(self.info, total=self._total(), complete=done, reason=reason))
        return self.info

    def _keep(self, info: TuneInfo) -> None:
        self.info = info
        self._folder.write(info)

    def _begin(self) -> None:
        """Start the best launch so far; the first time also choose the requests and keep its scores."""
        seconds = self._rig.start(self._king, self.info.settings)
        self._told(f"{self.info.king} answers ({seconds:.0f} s)")
        if self.info.size is None:
            size = self._rig.sized(self._king)
            self._told(f"measured with {size}")
            self._keep(replace(self.info, size=size, reference=self._rig.scores(self._king, size)))
        if not self.info.gate:
            self._keep(replace(self.info, gate=self._gated()))

    def _gated(self) -> str:
        if not self._trained:
            return "not asked: the model is not a trained reranker"
        if said := self._rig.gate(self._king):
            raise BenchError(
                "the launch without tuning fails the score gate, so there is nothing to keep equal",
                evidence=said,
                hint="ragops verify names the cause",
            )
        return "passed"

    @property
    def _size(self) -> Size:
        return cast("Size", self.info.size)  # _begin() has set it

    def _tried(self, candidate: Candidate) -> Row:
        """One challenger, whatever comes of it."""
        self._told(f"{candidate.name} is starting: {candidate.why}")
        slot = _OTHER[self._king]
        row = Row(candidate.name, candidate.settings, candidate.why, "did not start", self.info.king)
        try:
            row = replace(row, settings=self._rig.made(candidate))
            self._rig.start(slot, merged(self.info.settings, row.settings))
        except RagopsError as error:
            self._rig.drop(slot)
            return replace(row, detail=_short(error))
        row = self._judged(row, slot)
        if row.verdict == "kept":
            slot, self._king = self._king, slot
        self._rig.drop(slot)
        return row

    def _judged(self, row: Row, slot: Slot) -> Row:
        """Scores, speed, and for one that is faster the score gate."""
        try:
            row = replace(row, agreement=agreement(self.info.reference, self._rig.scores(slot, self._size)))
        except RagopsError as error:
            return replace(row, verdict="failed", detail=_short(error))
        if moved := _moved(row.agreement, self.info.tolerance):
            return replace(row, verdict="scores moved", detail=moved)
        warm = self._rig.block(slot, _WARM, self._size)  # the champion is warm already
        if warm.error:
            return replace(row, verdict="failed", detail=warm.error)
        decision, ratios, said = self._match(row.name, slot)
        if said:
            return replace(row, verdict="failed", detail=said)
        row = replace(row, ratio=self.info.rule.ratio(ratios), verdict=_VERDICTS[decision])
        if row.verdict == "kept" and self._trained and (said := self._rig.gate(slot)):
            return replace(row, verdict="score gate failed", detail=said)
        return row

    def _match(self, name: str, slot: Slot) -> tuple[Decision, list[float], str]:
        """Pairs of blocks, A B, then B A, until it is decided; or the error of the challenger."""
        rule, ratios = self.info.rule, self._before(name)
        decision = rule.decide(ratios)
        while decision == "go on":
            pair, number = len(ratios), self._next_block()
            order = (self._king, slot) if pair % 2 == 0 else (slot, self._king)
            rates: dict[Slot, float] = {}
            for one in order:
                who = self.info.king if one == self._king else name
                trial = self._measured(one, Trial(name, self.info.king, pair, who, number, 0, 0.0, 0))
                if trial.error and one != self._king:
                    return "worse", [], trial.error
                if trial.error:
                    raise BenchError(
                        "the reranker is gone: the launch that others are measured against failed",
                        code="reranker-gone",
                        evidence=trial.error,
                        hint=f"ragops tune --resume {self._folder.path} goes on from there",
                    )
                rates[one] = trial.rate
            ratios.append(rates[slot] / rates[self._king])
            decision = rule.decide(ratios)
            self._told(f"{name}: pair {len(ratios)}, {ratios[-1]:.2f} times the speed")
        return decision, ratios, ""

    def _measured(self, slot: Slot, trial: Trial) -> Trial:
        found = self._rig.block(slot, trial.block, self._size)
        trial = replace(
            trial,
            documents=found.documents,
            seconds=found.seconds,
            tokens=found.tokens,
            others=found.others,
            error=found.error,
        )
        self._folder.add(trial)
        self._trials.append(trial)
        return trial

    def _next_block(self) -> int:
        return max((one.block for one in self._trials), default=-1) + 1

    def _before(self, name: str) -> list[float]:
        """Ratios of the whole pairs that an earlier session measured of these two."""
        king = self.info.king
        mine = [one for one in self._trials if (one.challenger, one.king) == (name, king) and not one.error]
        found: dict[int, dict[str, float]] = {}
        for one in mine:
            found.setdefault(one.pair, {})[one.who] = one.rate
        return [pair[name] / pair[king] for _, pair in sorted(found.items()) if len(pair) == 2]

    def _total(self) -> Ratio | None:
        """The best against the launch without tuning; measured anew where several settings were kept."""
        if len(self.info.kept) < 2:
            return next((row.ratio for row in self.info.kept), None)
        slot = _OTHER[self._king]
        self._told("the launch without tuning is starting again, to be compared with the best")
        self._rig.start(slot, ())
        _, ratios, error = self._match(_DEFAULT.name, slot)
        if error:
            raise BenchError(
                "the launch without tuning did not answer any more", code="server-silent", evidence=error
            )
        return self.info.rule.ratio([1 / one for one in ratios])


_VERDICTS: dict[Decision, Verdict] = {"better": "kept", "worse": "slower", "same": "no difference"}


def _moved(found: Agreement | None, tolerance: float) -> str:
    """Why scores are not the same; empty when they are. One that is no number is never the same."""
    if found is None or (math.isfinite(found.max_difference) and found.max_difference <= tolerance):
        return ""
    return f"{found}; the tolerance is {tolerance:g}"


def _short(error: RagopsError) -> str:
    """The message, the last line of the evidence and the hint, in one line."""
    return " - ".join(part for part in (error.message, *error.evidence.splitlines()[-1:], error.hint) if part)
