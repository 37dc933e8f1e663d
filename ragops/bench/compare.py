"""Compare two recorded runs of one workload, or the scores of two servers; needs scipy.

The confidence interval of a ratio is on its logarithm: the standard error of a bootstrap over units
(repetitions, or requests), times Student's t. BCa intervals are too narrow for so few units: of 300 pairs of
simulated runs, an interval of 95 % contained the true ratio in 87 % (5 repetitions) and 89 % (20 requests),
this one in 98 % and 94 %.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from ragops.bench.statistics import disturbances, extra, substitutes
from ragops.checks.latency import needed
from ragops.errors import BenchError
from ragops.table import Column, Shown, Table

if TYPE_CHECKING:
    from pathlib import Path

    from ragops.bench.records import LoadLevel, RequestRecord, Run

MIN_CHANGE = 0.05
"""Smallest relative change that is reported: runs with the same vLLM options drift by about half of it,
which no interval from inside a run contains."""

ALPHA = 0.05
"""Probability that an interval of a comparison misses its true ratio, for all intervals together."""

RESAMPLES = 500

_MIN_UNITS = 5
_RATE = "documents/s"
_COLUMNS = tuple(map(Column, ("level", "metric", "A", "B", "B / A", "resampled")))
_SETTINGS = ("timeout", "repeats", "warmup", "seed", "fresh")


class Timing(NamedTuple):
    """What a statistic reads of a request; read once, as the bootstrap reads it hundreds of times."""

    documents: int
    latency: float
    """Seconds, as in :class:`~ragops.bench.RequestRecord`."""


Statistic = Callable[[Sequence[Timing]], float]


@dataclass(frozen=True)
class Ratio:
    """One value of one load level in both runs, and B divided by A with its interval.

    All intervals of a comparison hold together in 95 % of comparisons.
    """

    level: str
    metric: str
    """``documents/s``, ``p50 s`` or ``p95 s``."""
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
        """Whether the whole interval lies beyond 1 by at least :data:`MIN_CHANGE`."""
        if self.low is None or self.high is None:
            return False
        return self.low > 1 + MIN_CHANGE or self.high < 1 - MIN_CHANGE

    @property
    def loss(self) -> float:
        """Fraction by which B is worse than A: fewer documents, or more seconds; below 0 when better."""
        return 1 - self.ratio if self.metric == _RATE else self.ratio - 1

    def to_json(self) -> dict[str, Any]:
        """Its fields, the ratio, and whether it is distinct."""
        return {**asdict(self), "ratio": self.ratio, "is_distinct": self.is_distinct}

    def __str__(self) -> str:
        """The ratio with its interval, after ``~`` when inconclusive."""
        mark = "" if self.is_distinct else "~ "
        if self.low is None or self.high is None:
            return f"{mark}{self.ratio:.3f} (no interval: {self.n} of {_MIN_UNITS} {self.unit})"
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
    def p_value(self) -> float:
        """Of as many failures in B or more, if both fail alike (Fisher's exact test, one-sided)."""
        table = [[self.b, self.of_b - self.b], [self.a, self.of_a - self.a]]
        return float(extra("scipy.stats").fisher_exact(table, alternative="greater").pvalue)

    @property
    def is_more(self) -> bool:
        """Whether B failed significantly more often."""
        return self.p_value < ALPHA / 2

    def __str__(self) -> str:
        """The counts of both runs."""
        return f"{self.level}: {self.a} of {self.of_a} failed in A, {self.b} of {self.of_b} in B"


@dataclass(frozen=True)
class Difference:
    """A field of the provenance or the method in which two runs differ."""

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
        losses = tuple(
            f"{row.level}: {row.metric} is {row.loss:.0%} worse ({row})"
            for row in self.ratios
            if row.is_distinct and row.loss > percent / 100
        )
        return losses + tuple(f"{row}: significantly more" for row in self.failures if row.is_more)

    def table(self) -> Table:
        """One row for each ratio; then failed requests, differences and notes."""
        rows = tuple(
            (r.level, r.metric, f"{r.a:.4g}", f"{r.b:.4g}", str(r), f"{r.n} {r.unit}") for r in self.ratios
        )
        notes = (
            "~: inconclusive; the confidence intervals hold together in 95 % of comparisons",
            *(f"failed: {failures}" for failures in self.failures),
            *(f"differs: {row.field}: {row.a} | {row.b}" for row in self.differences),
            *(f"note: {note}" for note in self.notes),
        )
        return Table(_COLUMNS, rows, f"A  {self.a.name}\nB  {self.b.name}", notes, header=True)


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
            have no load level in common; or scipy is not installed.
    """
    for label, run in (("A", a), ("B", b)):
        _require_usable(label, run)
    _require_alike(a, b, across_models=across_models)
    names = {level.name for level in b.info.levels}
    pairs = [(level, _common(a, b, level)) for level in a.info.levels if level.name in names]
    count = sum(len(_statistics(level, min(map(len, records)))) for level, records in pairs)
    if not count:
        levels = [", ".join(level.name for level in run.info.levels) for run in (a, b)]
        raise BenchError(
            "the runs have no measured level in common",
            code="runs-differ",
            evidence=f"A: {levels[0]}; B: {levels[1]}",
            hint="record both with the same levels",
        )
    ratios = tuple(row for level, records in pairs for row in _ratios(level, *records, ALPHA / count, seed))
    failures = tuple(row for level, _ in pairs if (row := _failures(a, b, level)).a or row.b)
    notes = [
        f"{label}: {kind}: {reason}"
        for label, run in (("A", a), ("B", b))
        for kind, reason in substitutes(run)
    ]
    notes += [f"{label}: {line}" for label, run in (("A", a), ("B", b)) for line in disturbances(run)]
    if any(row.unit == "requests" for row in ratios):
        notes.append(f"fewer than {_MIN_UNITS} repeats: the intervals leave out drift within a run")
    instructions = [run.info.provenance.instruction_set for run in (a, b)]
    if all(instructions) and instructions[0] != instructions[1]:
        machines = " and ".join(instructions)
        notes.append(f"measured with {machines}: the ratios compare machines, not vLLM options")
    return Comparison(a.path, b.path, ratios, failures, differences(a, b), tuple(notes))


def differences(a: Run, b: Run) -> tuple[Difference, ...]:
    """The differences in provenance and method."""
    values = []
    for run in (a, b):
        origin = {
            field.name: getattr(run.info.provenance, field.name) for field in fields(run.info.provenance)
        }
        values.append(origin | {name: getattr(run.info, name) for name in _SETTINGS})
    rows = (Difference(name, str(value), str(values[1][name])) for name, value in values[0].items())
    return tuple(row for row in rows if row.a != row.b)


def _require_usable(label: str, run: Run) -> None:
    if run.problems or not run.info.complete:
        raise BenchError(
            f"run {label} is incomplete, so its values are not comparable",
            evidence=f"{run.path.name}: {'; '.join(run.problems) or run.info.reason}",
            hint="record it again to the end",
        )
    if run.info.order.failed:
        raise BenchError(
            f"run {label} failed the order check, so its speed is meaningless",
            evidence=f"{run.path.name}: {run.info.order.verdict}",
            hint="ragops verify names the cause",
            code="order-wrong",
        )


def _require_alike(a: Run, b: Run, *, across_models: bool) -> None:
    workloads = [f"{run.info.workload.name} {run.info.workload.sha256[:12]}" for run in (a, b)]
    origins = [(run.info.provenance, run.info.model) for run in (a, b)]
    models = [f"{origin.model or model} {origin.model_sha256[:12]}".strip() for origin, model in origins]
    if a.info.workload.sha256 != b.info.workload.sha256:
        raise BenchError(
            "the runs have different workloads, so their ratio is meaningless",
            code="runs-differ",
            evidence=f"A: {workloads[0]}; B: {workloads[1]}",
            hint="record B again with A's workload and seed",
        )
    if not across_models and models[0] != models[1]:
        raise BenchError(
            "the runs measured different models",
            code="runs-differ",
            evidence=f"A: {models[0]}; B: {models[1]}",
            hint="record B again with A's model, or allow it with --across-models",
        )


def _failures(a: Run, b: Run, level: LoadLevel) -> Failures:
    errors = [[bool(r.error) for r in run.measured if r.level == level.name] for run in (a, b)]
    return Failures(level.name, sum(errors[0]), len(errors[0]), sum(errors[1]), len(errors[1]))


def _common(a: Run, b: Run, level: LoadLevel) -> tuple[list[RequestRecord], list[RequestRecord]]:
    """The successful requests of both runs; with too few repeats only those that both have."""
    of_a, of_b = ([r for r in run.measured if r.level == level.name and not r.error] for run in (a, b))
    if _repeats(of_a, of_b) < _MIN_UNITS:
        common = {record.index for record in of_a} & {record.index for record in of_b}
        of_a, of_b = ([r for r in records if r.index in common] for records in (of_a, of_b))
    return of_a, of_b


def _repeats(a: list[RequestRecord], b: list[RequestRecord]) -> int:
    return min(len({record.repeat for record in records}) for records in (a, b))


def _statistics(level: LoadLevel, requests: int) -> dict[str, Statistic]:
    """The values that can be compared, by name; none without successful requests."""
    statistics: dict[str, Statistic] = {}
    if requests and level.clients:
        statistics[_RATE] = documents_per_s
    if requests:
        statistics["p50 s"] = nearest_rank(0.5)
    if requests >= needed(0.95):
        statistics["p95 s"] = nearest_rank(0.95)
    return statistics


def _ratios(
    level: LoadLevel, a: list[RequestRecord], b: list[RequestRecord], alpha: float, seed: int
) -> list[Ratio]:
    by_repeat = _repeats(a, b) >= _MIN_UNITS
    units_a, units_b = (_units(records, "repeat" if by_repeat else "index") for records in (a, b))
    n = min(len(units_a), len(units_b))
    rows = []
    for name, statistic in _statistics(level, min(len(a), len(b))).items():
        low = high = None
        if n >= _MIN_UNITS:
            low, high = interval(statistic, units_a, units_b, paired=not by_repeat, alpha=alpha, seed=seed)
        scale = level.clients if name == _RATE and level.clients else 1
        a_value, b_value = (scale * statistic([*chain(*units)]) for units in (units_a, units_b))
        unit = "repeats" if by_repeat else "requests"
        rows.append(Ratio(level.name, name, a_value, b_value, low, high, unit, n))
    return rows


def _units(records: list[RequestRecord], key: str) -> list[list[Timing]]:
    units = defaultdict(list)
    for record in sorted(records, key=lambda record: int(getattr(record, key))):
        units[getattr(record, key)].append(Timing(record.documents, record.latency))
    return list(units.values())


def documents_per_s(records: Sequence[Timing]) -> float:
    """Documents a second of one client of a closed loop, which always has a request in flight."""
    return sum(record.documents for record in records) / sum(record.latency for record in records)


def nearest_rank(quantile: float) -> Statistic:
    """A percentile of the latencies in seconds, as in ``checks/latency.py``."""

    def statistic(records: Sequence[Timing]) -> float:
        ordered = sorted(record.latency for record in records)
        return ordered[max(1, math.ceil(quantile * len(ordered) - 1e-9)) - 1]

    return statistic


def interval(
    statistic: Statistic,
    a: Sequence[Sequence[Timing]],
    b: Sequence[Sequence[Timing]],
    *,
    paired: bool,
    alpha: float,
    seed: int,
) -> tuple[float, float]:
    """Confidence interval of the statistic of run B divided by that of run A.

    Args:
        statistic: Of the requests of one run.
        a: Requests of each unit of run A; two units or more.
        b: The same of run B.
        paired: Resample the same units in both, as unit ``n`` is the same request in both.
        alpha: 0.05 for an interval of 95 %.
        seed: Seed of the bootstrap.
    """
    stats = extra("scipy.stats")

    def log_ratio(first: Sequence[int], second: Sequence[int] | None = None) -> float:
        of_a = [record for unit in first for record in a[unit]]
        of_b = [record for unit in (first if second is None else second) for record in b[unit]]
        return math.log(statistic(of_b) / statistic(of_a))

    units = (range(len(a)),) if paired else (range(len(a)), range(len(b)))
    options = {"vectorized": False, "n_resamples": RESAMPLES, "method": "basic", "random_state": seed}
    error = stats.bootstrap(units, log_ratio, **options).standard_error
    n = min(len(a), len(b))
    half_width = error * math.sqrt(n / (n - 1)) * float(stats.t.ppf(1 - alpha / 2, n - 1))
    center = log_ratio(*units)
    return math.exp(center - half_width), math.exp(center + half_width)


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
    """Compare the scores of two servers, to be done before their speeds are compared.

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
    if not all(math.isfinite(score) for scores in (*a, *b) for score in scores):
        raise BenchError("a score is not finite", code="order-wrong", hint="look at the log of the server")
    pairs = list(zip(a, b, strict=True))
    tops = [[max(range(len(scores)), key=scores.__getitem__) for scores in pair] for pair in pairs]
    return Agreement(
        kendall_tau=fmean(kendall_tau(*pair) for pair in pairs),
        top1=fmean(first == second for first, second in tops),
        max_difference=max(abs(x - y) for pair in pairs for x, y in zip(*pair, strict=True)),
        rankings=len(pairs),
    )


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b; of constant scores, for which it is undefined, 1 if both are constant, else 0."""
    constant = [len(set(scores)) == 1 for scores in (a, b)]
    if any(constant):
        return float(all(constant))
    return float(extra("scipy.stats").kendalltau(a, b).statistic)
