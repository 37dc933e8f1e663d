"""Two recorded runs of one workload side by side: how much faster, and is that more than noise.

Reads what ``records.load_run`` gives; ``stats.py`` has the figures of one run by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, fields
from statistics import median
from typing import TYPE_CHECKING, Literal

from ragops.bench.stats import table
from ragops.errors import BenchError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from ragops.bench.level import Level
    from ragops.bench.records import Run

LEAST = 0.05
"""Differences below this are never called one: the same launch, measured twice on two quiet cores,
differed by 2.7 %."""

Unit = Literal["repeat", "index"]
Point = tuple[int, float]
"""Documents and seconds of one request."""
Groups = dict[int, list[Point]]
Statistic = Callable[[list[Point]], float]

_NAMES = {"repeat": "repeats", "index": "requests"}
_DRAWS = 1000
_FEWEST = 5
_FEWEST_REPEATS = 5
_TAIL = 0.025


@dataclass(frozen=True)
class Ratio:
    """One figure of one level in both runs, and B divided by A with its 95 % interval."""

    level: str
    figure: str
    a: float
    b: float
    low: float | None
    """None when there are too few requests for an interval."""
    high: float | None
    unit: str
    """What was drawn again: ``repeats``, or ``requests`` when there are fewer than five repeats."""
    n: int
    """How many of them."""

    @property
    def ratio(self) -> float:
        """B divided by A."""
        return self.b / self.a

    @property
    def is_distinct(self) -> bool:
        """Whether the interval leaves out 1 and the difference is at least :data:`LEAST`."""
        if self.low is None or self.high is None or abs(self.ratio - 1) < LEAST:
            return False
        return self.low > 1 or self.high < 1

    def __str__(self) -> str:
        """The ratio with its interval, behind ``~`` when the runs can't be told apart."""
        mark = "" if self.is_distinct else "~ "
        if self.low is None or self.high is None:
            return f"{mark}{self.ratio:.3f} (n/a, n={self.n} < {_FEWEST})"
        return f"{mark}{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Difference:
    """A fact of provenance in which two runs differ."""

    field: str
    a: str
    b: str


@dataclass(frozen=True)
class Comparison:
    """Run B against run A."""

    a: Path
    b: Path
    ratios: tuple[Ratio, ...]
    differences: tuple[Difference, ...]
    """What else is not the same; a comparison is fair when this is only what was meant to change."""
    notes: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """The ratios as rows, for people."""
        rows: list[dict[str, object]] = [
            {
                "level": row.level,
                "figure": row.figure,
                "A": row.a,
                "B": row.b,
                "B / A": str(row),
                "drawn": f"{row.n} {row.unit}",
            }
            for row in self.ratios
        ]
        return table(rows)


def compare(a: Run, b: Run, *, seed: int = 1) -> Comparison:
    """Put run B beside run A, level by level.

    With five repeats or more the repeats are drawn again, which holds the drift from one to the
    next. With fewer, requests are drawn again, in pairs of the same place in the workload; that
    interval knows nothing of drift.

    Args:
        a: The run to compare with.
        b: The run in question.
        seed: Seed of the bootstrap.

    Raises:
        BenchError: The runs played different workloads, or have no level in common.
    """
    _refuse_unlike(a, b)
    names = {level.name for level in b.info.levels}
    common = [level for level in a.info.levels if level.name in names]
    found = [ratio for level in common for ratio in _ratios(a, b, level, seed)]
    if not found:
        raise BenchError(
            "the runs have no measured level in common",
            evidence=f"A: {_levels(a)}; B: {_levels(b)}",
            hint="record both with the same levels",
        )
    return Comparison(a.path, b.path, tuple(found), differences(a, b), _notes(a, b))


def differences(a: Run, b: Run) -> tuple[Difference, ...]:
    """The facts of provenance that are not the same in both runs."""
    old, new = a.info.provenance, b.info.provenance
    pairs = [(one.name, str(getattr(old, one.name)), str(getattr(new, one.name))) for one in fields(old)]
    return tuple(Difference(name, left, right) for name, left, right in pairs if left != right)


def _refuse_unlike(a: Run, b: Run) -> None:
    one, two = a.info.workload, b.info.workload
    if one.sha256 != two.sha256:
        raise BenchError(
            "the runs played different workloads, so their ratio means nothing",
            evidence=f"A: {one.name} {one.sha256[:12]}; B: {two.name} {two.sha256[:12]}",
            hint="record B again with A's workload and seed",
        )


def _levels(run: Run) -> str:
    return ", ".join(level.name for level in run.info.levels)


def _notes(a: Run, b: Run) -> tuple[str, ...]:
    notes = [
        f"{which} has {count} failed requests, which no ratio counts"
        for which, run in (("A", a), ("B", b))
        if (count := sum(bool(record.error) for record in run.measured))
    ]
    notes += [f"{which}: {problem}" for which, run in (("A", a), ("B", b)) for problem in run.problems]
    return tuple(notes)


def _ratios(a: Run, b: Run, level: Level, seed: int) -> list[Ratio]:
    repeats = min(len(_groups(run, level, "repeat")) for run in (a, b))
    unit: Unit = "repeat" if repeats >= _FEWEST_REPEATS else "index"
    old, new = _groups(a, level, unit), _groups(b, level, unit)
    if unit == "index":
        common = old.keys() & new.keys()
        old, new = ({place: run[place] for place in sorted(common)} for run in (old, new))
    if not old or not new:
        return []
    closed = level.clients is not None
    kinds: list[tuple[str, Statistic]] = [("documents/s", _rate)] if closed else []
    kinds.append(("p50 s", _p50))
    return [_ratio(level, figure, statistic, (old, new), unit, seed) for figure, statistic in kinds]


def _ratio(
    level: Level, figure: str, statistic: Statistic, runs: tuple[Groups, Groups], unit: Unit, seed: int
) -> Ratio:
    old, new = (statistic(_joined(run, list(run))) for run in runs)
    scale = level.clients or 1 if figure == "documents/s" else 1
    n = min(len(run) for run in runs)
    low, high = _interval(statistic, runs, unit, seed) if n >= _FEWEST else (None, None)
    return Ratio(level.name, figure, old * scale, new * scale, low, high, _NAMES[unit], n)


def _interval(
    statistic: Statistic, runs: tuple[Groups, Groups], unit: Unit, seed: int
) -> tuple[float, float]:
    chance = random.Random(seed)  # noqa: S311 - a repeatable bootstrap, no secret
    old, new = runs
    places_old, places_new = list(old), list(new)
    ratios = []
    for _ in range(_DRAWS):
        drawn = chance.choices(places_old, k=len(places_old))
        other = drawn if unit == "index" else chance.choices(places_new, k=len(places_new))
        ratios.append(statistic(_joined(new, other)) / statistic(_joined(old, drawn)))
    ratios.sort()
    return ratios[int(_DRAWS * _TAIL)], ratios[int(_DRAWS * (1 - _TAIL)) - 1]


def _groups(run: Run, level: Level, unit: Unit) -> Groups:
    """Documents and seconds of the answered requests, by repeat or by place in the workload."""
    found: Groups = {}
    for record in run.measured:
        if record.level == level.name and not record.error:
            key = record.repeat if unit == "repeat" else record.index
            found.setdefault(key, []).append((record.documents, record.latency))
    return found


def _joined(groups: Groups, keys: list[int]) -> list[Point]:
    return [point for key in keys for point in groups[key]]


def _rate(points: list[Point]) -> float:
    """Documents a second for each client: with clients that wait, they are busy all the time."""
    return sum(documents for documents, _ in points) / sum(taken for _, taken in points)


def _p50(points: list[Point]) -> float:
    return median(taken for _, taken in points)
