"""Rank agreement of two servers, to be checked before their speeds are compared; needs scipy.

Confidence interval of the ratio of two recorded runs, and the test for more failures; needs scipy.

The interval is on the logarithm of the ratio: the standard error of a bootstrap over units (repetitions,
or requests), times Student's t. BCa intervals are too narrow for so few units: of 300 pairs of simulated
runs, an interval of 95 % contained the true ratio in 87 % (5 repetitions) and 89 % (20 requests), this one in
98 % and 94 %.

Compare two recorded runs of one workload; ``resample.py`` computes the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ragops.bench.statistics import disturbances
from ragops.checks.latency import needed
from ragops.errors import BenchError
from ragops.table import Column, Shown, Table

if TYPE_CHECKING:
    from pathlib import Path

    from ragops.bench.records import LoadLevel, RequestRecord, Run


@dataclass(frozen=True)
class Agreement:
    """Agreement of the scores of two servers over the same queries and documents."""

    kendall_tau: float
    """Mean of Kendall's tau-b over the rankings: 1 for the same order, -1 for the reverse."""
    top1: float
    """Fraction of rankings with the same document first."""
    max_difference: float
    """Largest difference of two scores of one document, in units of the scores."""
    rankings: int
    """Number of rankings compared."""

    def __str__(self) -> str:
        """One clause for a report."""
        return (
            f"Kendall's tau {self.kendall_tau:.3f}, same document first in {self.top1:.0%} "
            f"of {self.rankings} rankings, scores differ by at most {self.max_difference:.2g}"
        )


def agreement(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Agreement:
    """Compare the scores of two servers.

    Args:
        a: For each query the scores of its documents, in the order in which they were sent.
        b: The other server's, for the same queries and documents.

    Raises:
        BenchError: They are not of the same requests, a ranking has fewer than two documents, a score
            is not finite, or scipy is not installed.
    """
    sizes_a, sizes_b = [len(scores) for scores in a], [len(scores) for scores in b]
    if sizes_a != sizes_b or min(sizes_a, default=0) < 2:
        raise BenchError(
            "these scores are not comparable",
            code="runs-differ",
            evidence=f"documents of each ranking: {sizes_a} and {sizes_b}",
            hint="send both servers the same requests, with two documents or more in each",
        )
    if not all(math.isfinite(score) for side in (a, b) for scores in side for score in scores):
        raise BenchError("a score is not finite", code="order-wrong", hint="look at the log of the server")
    pairs = list(zip(a, b, strict=True))
    return Agreement(
        kendall_tau=fmean(kendall_tau(first, second) for first, second in pairs),
        top1=fmean(_top(first) == _top(second) for first, second in pairs),
        max_difference=max(abs(x - y) for pair in pairs for x, y in zip(*pair, strict=True)),
        rankings=len(pairs),
    )


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b; of constant scores, for which it is undefined, 1 if both are constant, else 0."""
    constant = [len(set(scores)) == 1 for scores in (a, b)]
    return float(all(constant)) if any(constant) else float(scipy_stats().kendalltau(a, b).statistic)


def _top(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)


RESAMPLES = 500


class Point(NamedTuple):
    """One successful request."""

    documents: int
    seconds: float


Statistic = Callable[[Sequence[Point]], float]
Units = Sequence[Sequence[Point]]
"""The requests of each unit that is resampled as a whole."""


def scipy_stats() -> Any:
    """``scipy.stats``, which is imported only when it is used.

    Raises:
        BenchError: scipy is not installed.
    """
    try:
        from scipy import stats  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BenchError(
            "comparisons need scipy", code="extra-missing", hint="pip install 'ragops-rerank[bench]'"
        ) from error
    return stats


def rate(points: Sequence[Point]) -> float:
    """Documents a second of one client of a closed loop, which always has a request in flight."""
    return sum(point.documents for point in points) / sum(point.seconds for point in points)


def nearest_rank(quantile: float) -> Statistic:
    """A percentile of the seconds, as in ``quantiles.py``."""

    def statistic(points: Sequence[Point]) -> float:
        ordered = sorted(point.seconds for point in points)
        return ordered[max(1, math.ceil(quantile * len(ordered) - 1e-9)) - 1]

    return statistic


def interval(
    statistic: Statistic, a: Units, b: Units, *, paired: bool, alpha: float, seed: int
) -> tuple[float, float]:
    """Confidence interval of the statistic of run B divided by that of run A.

    Args:
        statistic: Of the points of one run.
        a: Units of run A; two or more.
        b: Units of run B.
        paired: Resample the same units in both, as unit ``n`` is the same request in both.
        alpha: 0.05 for an interval of 95 %.
        seed: Seed of the bootstrap.
    """

    def log_ratio(first: Sequence[int], second: Sequence[int] | None = None) -> float:
        of_a = [point for unit in first for point in a[unit]]
        of_b = [point for unit in (first if second is None else second) for point in b[unit]]
        return math.log(statistic(of_b) / statistic(of_a))

    units = (range(len(a)),) if paired else (range(len(a)), range(len(b)))
    error = (
        scipy_stats()
        .bootstrap(
            units, log_ratio, vectorized=False, n_resamples=RESAMPLES, method="basic", random_state=seed
        )
        .standard_error
    )
    n = min(len(a), len(b))
    half_width = error * math.sqrt(n / (n - 1)) * t_quantile(1 - alpha / 2, n - 1)
    center = log_ratio(*units)
    return math.exp(center - half_width), math.exp(center + half_width)


def t_quantile(quantile: float, degrees: int) -> float:
    """Quantile of Student's t; ``t_quantile(0.975, 4)`` is 2.776."""
    return float(scipy_stats().t.ppf(quantile, degrees))


def more_failures(a: tuple[int, int], b: tuple[int, int]) -> float:
    """P-value of as many failures in run B or more if both fail alike (Fisher's exact test, one-sided).

    Args:
        a: Failed requests of run A, and all of them.
        b: The same of run B.
    """
    table = [[b[0], b[1] - b[0]], [a[0], a[1] - a[0]]]
    return float(scipy_stats().fisher_exact(table, alternative="greater").pvalue)


LEAST = 0.05
"""Smallest relative change that is reported: runs with the same vLLM options drift by about half of it,
which no interval from inside a run contains."""

ALPHA = 0.05
"""Probability that an interval of a comparison misses its true ratio, for all intervals together."""

Unit = Literal["repeat", "index"]

_NAMES = {"repeat": "repeats", "index": "requests"}
_MIN_UNITS = 5
_MIN_REPEATS = 5
_SECONDS = {"p50 s": 0.5, "p95 s": 0.95}
_RATE = "documents/s"


@dataclass(frozen=True)
class Ratio:
    """One value of one load level in both runs, and B divided by A with its interval.

    All intervals of a comparison hold together in 95 % of comparisons.
    """

    level: str
    figure: str
    a: float
    b: float
    low: float | None
    """None when there are too few requests for an interval."""
    high: float | None
    unit: str
    """What was resampled: ``repeats``, or ``requests`` when there are fewer than five repeats."""
    n: int
    """Number of units."""

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
        """Fraction by which B is worse than A: fewer documents, or more seconds; below 0 when better."""
        return 1 - self.ratio if self.figure == _RATE else self.ratio - 1

    def to_json(self) -> dict[str, Any]:
        """Its fields, the ratio, and whether it is distinct."""
        return {**asdict(self), "ratio": self.ratio, "is_distinct": self.is_distinct}

    def __str__(self) -> str:
        """The ratio with its interval, after ``~`` when inconclusive."""
        mark = "" if self.is_distinct else "~ "
        if self.low is None or self.high is None:
            return f"{mark}{self.ratio:.3f} (n/a, n={self.n} < {_MIN_UNITS})"
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
        """Whether B failed significantly more often."""
        return more_failures((self.a, self.of_a), (self.b, self.of_b)) < ALPHA / 2

    def __str__(self) -> str:
        """The counts of both runs."""
        return f"{self.level}: {self.a} of {self.of_a} failed in A, {self.b} of {self.of_b} in B"


@dataclass(frozen=True)
class Difference:
    """A field of the provenance in which two runs differ."""

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
        """What is worse in B, one sentence each; inconclusive values are left out.

        Args:
            percent: Accepted loss of a value. More failed requests are never accepted.
        """
        lost = tuple(
            f"{row.level}: {row.figure} is {row.loss:.0%} worse ({row})"
            for row in self.ratios
            if row.is_distinct and row.loss > percent / 100
        )
        return lost + tuple(f"{row}: significantly more" for row in self.failures if row.is_more)

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


def compare_runs(a: Run, b: Run, *, seed: int = 1, across_models: bool = False) -> Comparison:
    """Compare run B with run A, level by level.

    With five repeats or more the repeats are resampled, so the interval contains the drift between them.
    With fewer, requests are resampled, in pairs of the same place in the workload, without that drift.

    Args:
        a: The baseline.
        b: The candidate.
        seed: Seed of the bootstrap.
        across_models: Compare runs of different models, as of a checkpoint and its int8 form.

    Raises:
        BenchError: The runs have different workloads or models, are incomplete, failed the order check, or
            have no load level in common.
    """
    _refuse_unfinished(a, b)
    _refuse_unlike(a, b, across_models=across_models)
    names = {level.name for level in b.info.levels}
    common = [level for level in a.info.levels if level.name in names]
    count = sum(len(_statistics(level, min(map(len, _common(a, b, level))))) for level in common)
    if not count:
        raise BenchError(
            "the runs have no measured level in common",
            code="runs-differ",
            evidence=f"A: {_levels(a)}; B: {_levels(b)}",
            hint="record both with the same levels",
        )
    ratios = tuple(row for level in common for row in _ratios(a, b, level, ALPHA / count, seed))
    failures = tuple(row for level in common if (row := _failures(a, b, level)).a or row.b)
    return Comparison(a.path, b.path, ratios, failures, differences(a, b), _notes(a, b, ratios))


def differences(a: Run, b: Run) -> tuple[Difference, ...]:
    """The differences in provenance and method."""
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
                f"run {which} is incomplete, so its values are not comparable",
                evidence=f"{run.path.name}: {'; '.join(run.problems) or run.info.reason}",
                hint="record it again to the end",
            )
        if run.info.order.failed:
            raise BenchError(
                f"run {which} failed the order check, so its speed means nothing",
                evidence=f"{run.path.name}: {run.info.order.verdict}",
                hint="ragops verify names the cause",
                code="order-wrong",
            )


def _refuse_unlike(a: Run, b: Run, *, across_models: bool) -> None:
    one, two = a.info.workload, b.info.workload
    if one.sha256 != two.sha256:
        raise BenchError(
            "the runs have different workloads, so their ratio means nothing",
            code="runs-differ",
            evidence=f"A: {one.name} {one.sha256[:12]}; B: {two.name} {two.sha256[:12]}",
            hint="record B again with A's workload and seed",
        )
    if not across_models and _model(a) != _model(b):
        raise BenchError(
            "the runs measured different models",
            evidence=f"A: {_model(a)}; B: {_model(b)}",
            hint="record B again with A's model, or ask for it with --across-models",
            code="runs-differ",
        )


def _model(run: Run) -> str:
    origin = run.info.provenance
    return f"{origin.model or run.info.model} {origin.model_sha256[:12]}".strip()


def _levels(run: Run) -> str:
    return ", ".join(level.name for level in run.info.levels)


def _notes(a: Run, b: Run, ratios: tuple[Ratio, ...]) -> tuple[str, ...]:
    notes = [
        f"{which}: substitute {kind}: {reason}"
        for which, run in (("A", a), ("B", b))
        for kind, reason in (
            ("model", run.info.provenance.model_is_stand_in),
            ("client", run.info.provenance.client_is_stand_in),
        )
        if reason
    ]
    notes += [f"{which}: {line}" for which, run in (("A", a), ("B", b)) for line in disturbances(run)]
    if any(row.unit == _NAMES["index"] for row in ratios):
        notes.append(f"fewer than {_MIN_REPEATS} repeats: the intervals leave out drift within a run")
    return tuple(notes)


def _failures(a: Run, b: Run, level: LoadLevel) -> Failures:
    of_a, of_b = ([r for r in run.measured if r.level == level.name] for run in (a, b))
    count = [sum(bool(record.error) for record in records) for records in (of_a, of_b)]
    return Failures(level.name, count[0], len(of_a), count[1], len(of_b))


def _ratios(a: Run, b: Run, level: LoadLevel, alpha: float, seed: int) -> list[Ratio]:
    """The ratios of a level; empty when a run has no successful request."""
    records = _common(a, b, level)
    repeats = min(len({record.repeat for record in side}) for side in records)
    unit: Unit = "repeat" if repeats >= _MIN_REPEATS else "index"
    units_a, units_b = (_units(side, unit) for side in records)
    n = min(len(units_a), len(units_b))
    rows = []
    for name, statistic in _statistics(level, min(map(len, records))).items():
        ends = None
        if n >= _MIN_UNITS:
            ends = interval(statistic, units_a, units_b, paired=unit == "index", alpha=alpha, seed=seed)
        low, high = ends or (None, None)
        scale = level.clients or 1 if name == _RATE else 1
        value_a, value_b = (scale * statistic([*chain(*units)]) for units in (units_a, units_b))
        rows.append(Ratio(level.name, name, value_a, value_b, low, high, _NAMES[unit], n))
    return rows


def _statistics(level: LoadLevel, requests: int) -> dict[str, Statistic]:
    """The values that can be compared, by name."""
    if not requests:
        return {}
    statistics: dict[str, Statistic] = {_RATE: rate} if level.clients else {}
    for name, quantile in _SECONDS.items():
        if name == "p50 s" or requests >= needed(quantile):
            statistics[name] = nearest_rank(quantile)
    return statistics


def _common(a: Run, b: Run, level: LoadLevel) -> tuple[list[RequestRecord], list[RequestRecord]]:
    """The successful requests of both runs; with too few repeats only those that both have."""
    of_a, of_b = ([r for r in run.measured if r.level == level.name and not r.error] for run in (a, b))
    if min(len({record.repeat for record in side}) for side in (of_a, of_b)) < _MIN_REPEATS:
        common = {record.index for record in of_a} & {record.index for record in of_b}
        of_a, of_b = ([r for r in side if r.index in common] for side in (of_a, of_b))
    return of_a, of_b


def _units(records: Sequence[RequestRecord], unit: Unit) -> list[list[Point]]:
    groups: dict[int, list[Point]] = {}
    for record in sorted(records, key=lambda record: int(getattr(record, unit))):
        groups.setdefault(getattr(record, unit), []).append(Point(record.documents, record.latency))
    return list(groups.values())
