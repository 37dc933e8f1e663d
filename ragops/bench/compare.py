"""Two recorded runs of one workload side by side: how much faster, and is that more than noise.

Reads what ``records.load_run`` gives; ``stats.py`` has the figures of one run by itself, and
``resample.py`` the intervals.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from ragops.bench.counters import disturbances
from ragops.bench.quantiles import needed
from ragops.bench.resample import Point, interval, more_failed, rate, share_below
from ragops.errors import BenchError
from ragops.table import Column, Shown, Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ragops.bench.level import Level
    from ragops.bench.records import RequestRecord, Run
    from ragops.bench.resample import Figure

LEAST = 0.05
"""Differences are only called ones when the whole interval lies beyond this share: runs of one
launch on two quiet cores drift from one to the next by about half of it, and no interval that comes
from inside a run knows of that."""

DOUBT = 0.05
"""Chance that an interval of a comparison misses its true ratio, for all intervals together."""

Unit = Literal["repeat", "index"]

_NAMES = {"repeat": "repeats", "index": "requests"}
_FEWEST = 5
_FEWEST_REPEATS = 5
_SECONDS = {"p50 s": 0.5, "p95 s": 0.95}
_RATE = "documents/s"


@dataclass(frozen=True)
class Ratio:
    """One figure of one level in both runs, and B divided by A with its interval.

    The intervals of a comparison hold together in 95 % of comparisons.
    """

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
        """Whether the whole interval lies beyond 1 by at least :data:`LEAST`."""
        if self.low is None or self.high is None:
            return False
        return self.low > 1 + LEAST or self.high < 1 - LEAST

    @property
    def loss(self) -> float:
        """Share by which B is worse than A: fewer documents, or more seconds; below 0 when better."""
        return 1 - self.ratio if self.figure == _RATE else self.ratio - 1

    def __str__(self) -> str:
        """The ratio with its interval, behind ``~`` when the runs can't be told apart."""
        mark = "" if self.is_distinct else "~ "
        if self.low is None or self.high is None:
            return f"{mark}{self.ratio:.3f} (n/a, n={self.n} < {_FEWEST})"
        return f"{mark}{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Failures:
    """Failed requests of a level, which no ratio counts."""

    level: str
    a: int
    of_a: int
    """Measured requests of run A, failed ones too."""
    b: int
    of_b: int

    @property
    def is_more(self) -> bool:
        """Whether B failed more often than chance explains."""
        return more_failed((self.a, self.of_a), (self.b, self.of_b)) < DOUBT / 2

    def __str__(self) -> str:
        """The counts of both runs."""
        return f"{self.level}: {self.a} of {self.of_a} failed in A, {self.b} of {self.of_b} in B"


@dataclass(frozen=True)
class Difference:
    """A fact of provenance in which two runs differ."""

    field: str
    a: str
    b: str


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Run B against run A."""

    a: Path
    b: Path
    ratios: tuple[Ratio, ...]
    failures: tuple[Failures, ...]
    """Of each level where a request failed in either run."""
    differences: tuple[Difference, ...]
    """What else is not the same; a comparison is fair when this is only what was meant to change."""
    notes: tuple[str, ...]

    def regressions(self, percent: float) -> tuple[str, ...]:
        """What got worse, one sentence each; none when B is as good as A or can't be told from it.

        Args:
            percent: Losses up to this are let pass. More failed requests never are.
        """
        lost = tuple(
            f"{row.level}: {row.figure} is {row.loss:.0%} worse ({row})"
            for row in self.ratios
            if row.is_distinct and row.loss > percent / 100
        )
        return lost + tuple(f"{row}: more than chance explains" for row in self.failures if row.is_more)

    def table(self) -> Table:
        """One row for each ratio; then failed requests, differences and notes."""
        rows = tuple(
            (r.level, r.figure, f"{r.a:.4g}", f"{r.b:.4g}", str(r), f"{r.n} {r.unit}") for r in self.ratios
        )
        notes = (
            "~: inconclusive; the confidence intervals hold together in 95 % of comparisons",
            *(f"failed: {failures}" for failures in self.failures),
            *(f"differs: {fact.field}: {fact.a} | {fact.b}" for fact in self.differences),
            *(f"note: {note}" for note in self.notes),
        )
        return Table(_COLUMNS, rows, f"A  {self.a.name}\nB  {self.b.name}", notes, header=True)


_COLUMNS = tuple(map(Column, ("level", "figure", "A", "B", "B / A", "resampled")))


def compare(a: Run, b: Run, *, seed: int = 1, across_models: bool = False) -> Comparison:
    """Put run B beside run A, level by level.

    With five repeats or more the repeats are drawn again, which holds the drift from one to the
    next. With fewer, requests are drawn again, in pairs of the same place in the workload; that
    interval knows nothing of drift.

    Args:
        a: The run to compare with.
        b: The run in question.
        seed: Seed of the bootstrap.
        across_models: Compare runs of different models, as of a checkpoint and its int8 form.

    Raises:
        BenchError: The runs played different workloads or models, are incomplete, sorted a known
            question wrongly, or have no level in common.
    """
    _refuse_unfinished(a, b)
    _refuse_unlike(a, b, across_models=across_models)
    names = {level.name for level in b.info.levels}
    common = [level for level in a.info.levels if level.name in names]
    pairs = [pair for level in common for pair in _pairs(a, b, level)]
    if not pairs:
        raise BenchError(
            "the runs have no measured level in common",
            code="runs-differ",
            evidence=f"A: {_levels(a)}; B: {_levels(b)}",
            hint="record both with the same levels",
        )
    ratios = tuple(pair.ratio(DOUBT / len(pairs), seed) for pair in pairs)
    failures = tuple(row for level in common if (row := _failures(a, b, level)).a or row.b)
    return Comparison(a.path, b.path, ratios, failures, differences(a, b), _notes(a, b, ratios))


def differences(a: Run, b: Run) -> tuple[Difference, ...]:
    """The facts of provenance, and of how it was measured, that are not the same in both runs."""
    old, new = _facts(a), _facts(b)
    return tuple(Difference(name, old[name], new[name]) for name in old if old[name] != new[name])


def _facts(run: Run) -> dict[str, str]:
    origin, info = run.info.provenance, run.info
    facts = {one.name: str(getattr(origin, one.name)) for one in fields(origin)}
    played = ("timeout", "repeats", "warmup", "seed", "fresh")
    return facts | {name: str(getattr(info, name)) for name in played}


def _refuse_unfinished(a: Run, b: Run) -> None:
    for which, run in (("A", a), ("B", b)):
        if run.problems or not run.info.complete:
            raise BenchError(
                f"run {which} is incomplete, so its figures are not comparable",
                evidence=f"{run.path.name}: {'; '.join(run.problems) or run.info.reason}",
                hint="record it again to the end",
            )
        if run.info.order.failed:
            raise BenchError(
                f"run {which} sorted a known question wrongly, so its speed means nothing",
                evidence=f"{run.path.name}: {run.info.order.verdict}",
                hint="ragops verify names the cause",
            )


def _refuse_unlike(a: Run, b: Run, *, across_models: bool) -> None:
    one, two = a.info.workload, b.info.workload
    if one.sha256 != two.sha256:
        raise BenchError(
            "the runs played different workloads, so their ratio means nothing",
            code="runs-differ",
            evidence=f"A: {one.name} {one.sha256[:12]}; B: {two.name} {two.sha256[:12]}",
            hint="record B again with A's workload and seed",
        )
    if not across_models and _model(a) != _model(b):
        raise BenchError(
            "the runs measured different models",
            evidence=f"A: {_model(a)}; B: {_model(b)}",
            hint="record B again with A's model, or ask for it with --across-models",
        )


def _model(run: Run) -> str:
    origin = run.info.provenance
    return f"{origin.model or run.info.model} {origin.model_sha256[:12]}".strip()


def _levels(run: Run) -> str:
    return ", ".join(level.name for level in run.info.levels)


def _notes(a: Run, b: Run, ratios: tuple[Ratio, ...]) -> tuple[str, ...]:
    notes = [
        f"{which}: stand-in {kind}: {said}"
        for which, run in (("A", a), ("B", b))
        for kind, said in (
            ("model", run.info.provenance.model_is_stand_in),
            ("client", run.info.provenance.client_is_stand_in),
        )
        if said
    ]
    notes += [f"{which}: {line}" for which, run in (("A", a), ("B", b)) for line in disturbances(run)]
    if any(row.unit == _NAMES["index"] for row in ratios):
        notes.append(f"fewer than {_FEWEST_REPEATS} repeats: the intervals leave out drift within a run")
    return tuple(notes)


def _failures(a: Run, b: Run, level: Level) -> Failures:
    of_a, of_b = ([r for r in run.measured if r.level == level.name] for run in (a, b))
    count = [sum(bool(record.error) for record in records) for records in (of_a, of_b)]
    return Failures(level.name, count[0], len(of_a), count[1], len(of_b))


@dataclass(frozen=True)
class _Pair:
    """One figure of one level in both runs, not yet compared."""

    level: Level
    name: str
    unit: Unit
    figures: tuple[Figure, Figure]
    units: tuple[int, int]

    def ratio(self, doubt: float, seed: int) -> Ratio:
        scale = self.level.clients or 1 if self.name == _RATE else 1
        a, b = (one([1] * count) * scale for one, count in zip(self.figures, self.units, strict=True))
        few, paired = min(self.units), self.unit == "index"
        found = None
        if few >= _FEWEST:
            found = interval(self.figures, self.units, paired=paired, doubt=doubt, seed=seed)
        low, high = (found.low, found.high) if found else (None, None)
        return Ratio(self.level.name, self.name, a, b, low, high, _NAMES[self.unit], few)


def _pairs(a: Run, b: Run, level: Level) -> list[_Pair]:
    """The figures that both runs can tell of a level."""
    old, new = (_answered(run, level) for run in (a, b))
    repeats = min(len({record.repeat for record in records}) for records in (old, new))
    unit: Unit = "repeat" if repeats >= _FEWEST_REPEATS else "index"
    if unit == "index":
        common = {record.index for record in old} & {record.index for record in new}
        old, new = ([r for r in records if r.index in common] for records in (old, new))
    if not old or not new:
        return []
    points = (_points(old, unit), _points(new, unit))
    units = (1 + max(p.unit for p in points[0]), 1 + max(p.unit for p in points[1]))
    made = {_RATE: (rate(points[0]), rate(points[1]))} if level.clients else {}
    for name, share in _SECONDS.items():
        if name == "p50 s" or min(map(len, points)) >= needed(share):
            made[name] = (share_below(points[0], share), share_below(points[1], share))
    return [_Pair(level, name, unit, both, units) for name, both in made.items()]


def _answered(run: Run, level: Level) -> list[RequestRecord]:
    return [record for record in run.measured if record.level == level.name and not record.error]


def _points(records: Sequence[RequestRecord], unit: Unit) -> list[Point]:
    keys = sorted({getattr(record, unit) for record in records})
    place = {key: number for number, key in enumerate(keys)}
    return [Point(place[getattr(r, unit)], r.documents, r.latency) for r in records]
