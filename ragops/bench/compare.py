"""Compare two recorded runs of one workload, or the scores of two servers; needs scipy.

The confidence interval of a ratio is on its logarithm: the standard error of a bootstrap over units
(repetitions, or requests), times Student's t. BCa intervals are too narrow for so few units: of 300 pairs of
simulated runs, an interval of 95 % contained the true ratio in 87 % (5 repetitions) and 89 % (20 requests),
this one in 98 % and 94 %.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from ragops.bench.records import LoadLevel, RequestRecord, Run
from ragops.bench.statistics import disturbances, extra, gateway_fraction, load_name, substitutes
from ragops.checks.latency import needed
from ragops.errors import BenchError
from ragops.table import Column, Shown, Table

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


Array = Any
"""A numpy array: numpy comes with the extra ``bench``."""
Statistic = Callable[["_Requests", Array], Array]
"""Of requests, each counted so many times; a row of counts for each resample gives a value for each."""


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
        counts = f"{self.a} of {self.of_a} failed in A, {self.b} of {self.of_b} in B"
        return f"{load_name(self.level)}: {counts}"


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
            f"{load_name(row.level)}: {row.metric} is {row.loss:.0%} worse ({row})"
            for row in self.ratios
            if row.is_distinct and row.loss > percent / 100
        )
        return losses + tuple(f"{row}: significantly more" for row in self.failures if row.is_more)

    def table(self) -> Table:
        """One row for each ratio; then failed requests, differences and notes."""
        rows = tuple(
            (load_name(r.level), r.metric, f"{r.a:.4g}", f"{r.b:.4g}", str(r), f"{r.n} {r.unit}")
            for r in self.ratios
        )
        notes = (
            "~: inconclusive; the confidence intervals hold together in 95 % of comparisons",
            *(f"failed: {failures}" for failures in self.failures),
            *(f"differs: {row.field}: {row.a} | {row.b}" for row in self.differences),
            *(f"note: {note}" for note in self.notes),
        )
        return Table(_COLUMNS, rows, f"A  {self.a.name}\nB  {self.b.name}", notes, header=True)


def compare_runs(a: Run, b: Run, *, across_models: bool = False) -> Comparison:
    """Compare run B with run A, level by level.

    With five repeats or more the repeats are resampled, so the interval contains the drift between them.
    With fewer, requests are resampled, in pairs of the same place in the workload, without that drift.

    Args:
        a: The baseline.
        b: The candidate.
        across_models: Compare runs of different models, as of a checkpoint and its int8 form.

    Raises:
        BenchError: The runs have different workloads or models, are incomplete, failed the order check, or
            have no load level in common; or scipy is not installed.
    """
    runs = {"A": a, "B": b}
    _require_usable(runs)
    _require_alike(runs, across_models=across_models)
    names = {label: [level.name for level in run.info.levels] for label, run in runs.items()}
    levels = [level for level in a.info.levels if level.name in names["B"]]
    values = [value for level in levels for value in _values(level, a, b)]
    if not values:
        found = {label: ", ".join(of_run) for label, of_run in names.items()}
        raise _differ("have no measured level in common", found, "record both with the same levels")
    ratios = tuple(value.ratio(ALPHA / len(values)) for value in values)
    failures = tuple(row for level in levels if (row := _failures(a, b, level)).a or row.b)
    notes = [
        f"{key}: {note}" for key, run in runs.items() for note in (*substitutes(run), *disturbances(run))
    ]
    if any(row.unit == "requests" for row in ratios):
        notes.append(f"fewer than {_MIN_UNITS} repeats: the intervals leave out drift within a run")
    instructions = [run.info.provenance.instruction_set for run in (a, b)]
    if all(instructions) and instructions[0] != instructions[1]:
        machines = " and ".join(instructions)
        notes.append(f"measured with {machines}: the ratios compare machines, not vLLM options")
    return Comparison(a.path, b.path, ratios, failures, differences(a, b), tuple(notes))


def differences(a: Run, b: Run) -> tuple[Difference, ...]:
    """The differences in provenance and method."""
    of_a, of_b = (
        vars(run.info.provenance)
        | {name: getattr(run.info, name) for name in _SETTINGS}
        | {"ranked": gateway_fraction(list(run.measured), "ranked")}
        for run in (a, b)
    )
    return tuple(Difference(n, str(of_a[n]), str(of_b[n])) for n in of_a if str(of_a[n]) != str(of_b[n]))


def _require_usable(runs: dict[str, Run]) -> None:
    for label, run in runs.items():
        if run.problems or not run.info.complete:
            what = f"run {label} is incomplete, so its values are not comparable"
            evidence = f"{run.path.name}: {'; '.join(run.problems) or run.info.reason}"
            raise BenchError(what, evidence=evidence, hint="record it again to the end")
        if run.info.order.failed:
            what = f"run {label} failed the order check, so its speed is meaningless"
            evidence, hint = f"{run.path.name}: {run.info.order.verdict}", "ragops verify names the cause"
            raise BenchError(what, code="order-wrong", evidence=evidence, hint=hint)


def _require_alike(runs: dict[str, Run], *, across_models: bool) -> None:
    workloads = {label: run.info.workload for label, run in runs.items()}
    if len({workload.sha256 for workload in workloads.values()}) > 1:
        values = {label: f"{workload.name} {workload.sha256[:12]}" for label, workload in workloads.items()}
        raise _differ("have different workloads", values, "record B again with A's workload and seed")
    models = {
        label: f"{info.provenance.model or info.model} {info.provenance.model_sha256[:12]}".strip()
        for label, info in ((label, run.info) for label, run in runs.items())
    }
    if not across_models and len(set(models.values())) > 1:
        hint = "record B again with A's model, or allow it with --across-models"
        raise _differ("measured different models", models, hint)


def _differ(what: str, values: dict[str, str], hint: str) -> BenchError:
    evidence = "; ".join(f"{label}: {value}" for label, value in values.items())
    return BenchError(f"the runs {what}", code="runs-differ", evidence=evidence, hint=hint)


def _failures(a: Run, b: Run, level: LoadLevel) -> Failures:
    errors = [[bool(r.error) for r in run.measured if r.level == level.name] for run in (a, b)]
    return Failures(level.name, sum(errors[0]), len(errors[0]), sum(errors[1]), len(errors[1]))


class _Requests(NamedTuple):
    """Successful requests of a level of one run as arrays, the fastest first."""

    documents: Array
    """Ranked ones."""
    latency: Array
    """Seconds, as in :class:`~ragops.bench.RequestRecord`."""
    unit: Array
    """Number of the unit of each, from 0."""

    @property
    def units(self) -> int:
        """Number of units."""
        return int(self.unit.max(initial=-1)) + 1


class _Value(NamedTuple):
    """A value that can be compared; the repeats or the requests of both runs are resampled."""

    level: LoadLevel
    metric: str
    statistic: Statistic
    unit: Literal["repeats", "requests"]
    a: _Requests
    b: _Requests

    def ratio(self, alpha: float) -> Ratio:
        """The ratio with its interval of ``1 - alpha``."""
        scale = self.level.clients or 1 if self.metric == _RATE else 1
        a, b = (scale * float(self.statistic(side, side.unit >= 0)) for side in (self.a, self.b))
        n = min(self.a.units, self.b.units)
        low, high = self._interval(n, alpha) if n >= _MIN_UNITS else (None, None)
        return Ratio(self.level.name, self.metric, a, b, low, high, self.unit, n)

    def _interval(self, n: int, alpha: float) -> tuple[float, float]:
        np, stats = extra("numpy"), extra("scipy.stats")

        def log_ratio(*drawn: Array, axis: int = -1) -> Array:
            del axis  # units are always on the last one
            sides = zip((self.a, self.b), drawn * 2, strict=False)  # requests are drawn once, for both
            a, b = (self.statistic(side, _times(units)[..., side.unit]) for side, units in sides)
            return np.log(b / a)

        sides = (self.a, self.b) if self.unit == "repeats" else (self.a,)
        units = tuple(np.arange(side.units) for side in sides)
        options = {"vectorized": True, "n_resamples": RESAMPLES, "method": "basic", "random_state": 1}
        error = stats.bootstrap(units, log_ratio, **options).standard_error
        half_width = error * math.sqrt(n / (n - 1)) * stats.t.ppf(1 - alpha / 2, n - 1)
        center = log_ratio(*units)
        return math.exp(center - half_width), math.exp(center + half_width)


def _times(drawn: Array) -> Array:
    """How many times each unit was drawn; the last axis has as many draws as there are units."""
    np, n = extra("numpy"), drawn.shape[-1]
    rows = drawn.reshape(-1, n).astype(int)
    places = rows + n * np.arange(len(rows))[:, None]
    return np.bincount(places.ravel(), minlength=rows.size).reshape(drawn.shape)


def _values(level: LoadLevel, a: Run, b: Run) -> Iterator[_Value]:
    """The values of a level that can be compared; none without successful requests."""
    records = [[r for r in run.measured if r.level == level.name and not r.error] for run in (a, b)]
    by_repeat = min(len({r.repeat for r in rows}) for rows in records) >= _MIN_UNITS
    if not by_repeat:  # only requests that both have
        common = set.intersection(*({r.index for r in rows} for rows in records))
        records = [[r for r in rows if r.index in common] for rows in records]
    count, rate_needs = min(map(len, records)), 1 if level.clients else math.inf
    sides = [_arrays(rows, "repeat" if by_repeat else "index") for rows in records]
    statistics = (
        # one client of a closed loop always has a request in flight
        (_RATE, lambda side, times: times @ side.documents / (times @ side.latency), rate_needs),
        ("p50 s", _nearest_rank(0.5), 1),
        ("p95 s", _nearest_rank(0.95), needed(0.95)),
    )
    for metric, statistic, least in statistics:
        if count >= least:
            yield _Value(level, metric, statistic, "repeats" if by_repeat else "requests", *sides)


def _arrays(records: list[RequestRecord], unit: str) -> _Requests:
    np = extra("numpy")
    rows = sorted((r.latency, r.ranked, getattr(r, unit)) for r in records)
    latency, documents, units = np.array(rows, float).reshape(-1, 3).T
    return _Requests(documents, latency, np.unique(units, return_inverse=True)[1])


def _nearest_rank(quantile: float) -> Statistic:
    """A percentile of the latencies in seconds, as in ``checks/latency.py``."""

    def statistic(requests: _Requests, times: Array) -> Array:
        ranks = times.cumsum(axis=-1)
        wanted = extra("numpy").ceil(quantile * ranks[..., -1:] - 1e-9).clip(min=1)
        return requests.latency[(ranks >= wanted).argmax(axis=-1)]

    return statistic


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

    def __str__(self) -> str:
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
