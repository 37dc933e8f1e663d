"""Statistics of a recorded run by load level, and what disturbed the run; pure.

The pandas tables need the extra ``bench``.
"""

from __future__ import annotations

import importlib
import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple

from ragops.bench.records import Sample
from ragops.checks.latency import percentile
from ragops.errors import BenchError
from ragops.reranker.sizing import GIB
from ragops.table import Column, Table

if TYPE_CHECKING:
    import pandas as pd

    from ragops.bench.records import LoadLevel, RequestRecord, Run
    from ragops.checks.latency import Percentile

QUANTILES = (0.5, 0.9, 0.95, 0.99)

OTHER_CPU = 0.1
"""Cores used by other processes above which a run is reported as disturbed: with 0.2 cores, requests
took 50 % longer."""

STEAL = 0.02
"""Steal time in cores above which a run is reported as disturbed."""


def extra(module: str) -> Any:
    """Import a module that needs the extra ``bench``; an error where a library is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = "pip install 'ragops-rerank[bench]'"
        raise BenchError(f"{error.name} is not installed", code="extra-missing", hint=hint) from error


def too_small(run: Run, lack: str) -> BenchError:
    """Error for a run without the necessary data; ``lack`` is the reason, such as ``no measured request``."""
    hint = "record again; see its run.json for why"
    return BenchError(f"{run.path} has {lack}", code="run-too-small", hint=hint, file=run.path)


class Trial(NamedTuple):
    """One trial of a load level, warm-up included; a resumed repetition is two trials."""

    level: str
    records: list[RequestRecord]
    start: int
    """When the first request was due, in ns of the run's clock."""
    end: int
    """When the last response was complete."""


def trials(run: Run) -> list[Trial]:
    """The trials of a run in order of time."""
    groups = defaultdict(list)
    for record in run.requests:
        groups[record.level, record.repeat, record.session].append(record)
    return sorted(
        (
            Trial(level, group, min(r.t_sched for r in group), max(r.t_done for r in group))
            for (level, _, _), group in groups.items()
        ),
        key=lambda trial: trial.start,
    )


@dataclass(frozen=True)
class TrialCounters:
    """Increase of the server's and the machine's counters over one trial."""

    requests: int
    """Requests of this run, warm-up included."""
    seconds: float
    rise: Sample
    """Of each counter; None where it is unknown, or decreased."""
    restarted: bool
    """Whether a counter of the reranker decreased, as after a restart."""

    @property
    def other_cpu(self) -> float:
        """Cores used by processes other than the reranker and this client; 0 where unknown."""
        rise = self.rise
        if rise.host_busy_ns is None or rise.cpu_ns is None or rise.client_ns is None:
            return 0.0
        return max(0.0, (rise.host_busy_ns - rise.cpu_ns - rise.client_ns) / 1e9 / self.seconds)

    @property
    def steal(self) -> float:
        """Steal time in cores."""
        return (self.rise.host_stolen_ns or 0) / 1e9 / self.seconds


_MIN_DISTANCE_S = 0.5
"""Smallest distance of two samples of a counter: the Docker engine may return counters up to a second old."""

_RERANKER_COUNTERS = ("calls", "prompt_tokens", "cpu_ns")


def trial_counters(run: Run) -> dict[str, list[TrialCounters]]:
    """Counters of the trials of each level, by its name; trials without samples are left out."""
    counters = defaultdict(list)
    for trial in trials(run):
        before = [sample for sample in run.samples if sample.t <= trial.start]
        after = [sample for sample in run.samples if sample.t >= trial.end]
        if not before or not after or before[-1].t == after[0].t:
            continue
        starts, ends = vars(before[-1]), vars(after[0])
        known = {name: ends[name] - n for name, n in starts.items() if None not in {n, ends[name]}}
        restarted = any(known.get(name, 0) < 0 for name in _RERANKER_COUNTERS)
        rise: dict[str, int] = {name: difference for name, difference in known.items() if difference >= 0}
        requests = len(trial.records)
        counters[trial.level].append(TrialCounters(requests, rise["t"] / 1e9, Sample(**rise), restarted))
    return counters


def disturbances(run: Run) -> tuple[str, ...]:
    """Disturbances of a run, one line each: other clients or processes, steal time, throttling, restarts."""
    counters = [trial for level in trial_counters(run).values() for trial in level]
    foreign = sum(max(0, (trial.rise.calls or 0) - trial.requests) for trial in counters)
    other_cpu = max((trial.other_cpu for trial in counters), default=0.0)
    steal = max((trial.steal for trial in counters), default=0.0)
    throttled = sum(trial.rise.throttled_ns or 0 for trial in counters) / 1e9
    lines = (
        (foreign, f"a second client: the server processed {foreign} requests that this run did not send"),
        (other_cpu > OTHER_CPU, f"other processes used up to {other_cpu:.1f} cores"),
        (steal > STEAL, f"the hypervisor caused steal time of up to {steal:.2f} cores"),
        (throttled >= 0.1, f"the container was throttled for {throttled:.1f} s"),
        (any(trial.restarted for trial in counters), "the reranker was restarted during the run"),
    )
    return tuple(line for applies, line in lines if applies)


def substitutes(run: Run) -> tuple[str, ...]:
    """``substitute model: ...`` and ``substitute client: ...`` with the reason, where there is one."""
    origin = run.info.provenance
    kinds = {"model": origin.model_is_stand_in, "client": origin.client_is_stand_in}
    return tuple(f"substitute {kind}: {reason}" for kind, reason in kinds.items() if reason)


class Rates(NamedTuple):
    """Requests, ranked documents and tokens a second; no tokens where the server reported none."""

    requests: float
    documents: float
    tokens: float | None


def rates(records: list[RequestRecord], clients: int | None) -> Rates:
    """Throughput of one trial, of successful requests only.

    In a closed loop the time counts from the first measured request until one of the clients has nothing
    left to send, as the load is smaller from then on; a request across an edge counts by its part inside.
    Otherwise it is the time from the first measured request to the last response. ``records`` include the
    warm-up, ``clients`` is None for other loads than a closed loop.
    """
    measured = [record for record in records if record.phase == "measure"]
    start, last = (choose((r.t_send for r in measured), default=0) for choose in (min, max))
    ends = [record.t_done for record in measured if clients is None or record.t_done > last]
    end = (max if clients is None else min)(ends, default=0)
    parts = []
    for record in records:
        inside = max(0, min(record.t_done, end) - max(record.t_send, start))
        if not record.error:
            parts.append((record, inside / max(1, record.t_done - record.t_send)))
    seconds = max(end - start, 1) / 1e9
    tokens = [record.tokens * part for record, part in parts if record.tokens is not None]
    return Rates(
        requests=sum(part for _, part in parts) / seconds,
        documents=sum(record.ranked * part for record, part in parts) / seconds,
        tokens=sum(tokens) / seconds if tokens else None,
    )


def trial_rates(run: Run, level: LoadLevel) -> list[Rates]:
    """Throughput of each trial of a level that has measured requests."""
    each = [trial.records for trial in trials(run) if trial.level == level.name]
    sent = [[record for record in records if not record.is_cancelled] for records in each]
    return [rates(records, level.clients) for records in sent if any(r.phase == "measure" for r in records)]


def latencies(records: list[RequestRecord], *, service: bool = False) -> list[float]:
    """Latencies in seconds, ``inf`` for failed requests; ``service`` counts from when a request was sent."""
    return [math.inf if r.error else (r.service if service else r.latency) for r in records]


@dataclass(frozen=True)
class LevelStatistics:
    """One load level; rates a second, of successful requests only.

    In the percentiles a failed request counts as slower than any successful one.
    """

    level: LoadLevel
    n: int
    """Measured requests, failed ones too."""
    errors: int
    requests_per_s: float
    documents_per_s: float
    tokens_per_s: float | None
    """None when the server reported no tokens."""
    latency: tuple[Percentile, ...]
    """p50, p90, p95 and p99, from the due time of a request."""
    service: tuple[Percentile, ...]
    """The same, from the time at which the request was sent."""
    cached_fraction: float | None = None
    """Fraction of the tokens found in the prefix cache; None when not reported."""
    computed_tokens_per_s: float | None = None
    """Computed tokens; None when not reported."""
    limit_fraction: float | None = None
    """Computed tokens as a fraction of the machine's matrix multiplication peak."""
    ranked_fraction: float | None = None
    """Fraction of the documents with a score of the model; as the next, None without a gateway."""
    cache_hits: float | None = None
    """Fraction of the documents whose score came from the gateway's cache."""
    gateway_ms: float | None = None
    """The gateway's own time in a request, median."""


def level_statistics(run: Run) -> tuple[LevelStatistics, ...]:
    """The statistics of each measured level, from the lightest load of its kind to the heaviest."""
    counters = trial_counters(run)
    limit = run.info.limit.tokens_per_s if run.info.limit else None
    rows = []
    for level in sorted(run.info.levels, key=lambda level: (level.kind != "closed", level.value)):
        records = [record for record in run.measured if record.level == level.name]
        if not records:
            continue
        each = trial_rates(run, level)
        tokens = [trial.tokens for trial in each if trial.tokens is not None]
        tokens_per_s = fmean(tokens) if tokens else None
        rises = [trial.rise for trial in counters.get(level.name, ())]
        pairs = [(rise.cached_tokens, rise.prompt_tokens) for rise in rises]
        known = [(n, prompt) for n, prompt in pairs if n is not None and prompt]
        cached = sum(n for n, _ in known) / sum(n for _, n in known) if known else None
        computed = None if tokens_per_s is None or cached is None else tokens_per_s * (1 - cached)
        rows.append(
            LevelStatistics(
                level=level,
                n=len(records),
                errors=sum(bool(record.error) for record in records),
                requests_per_s=fmean(trial.requests for trial in each),
                documents_per_s=fmean(trial.documents for trial in each),
                tokens_per_s=tokens_per_s,
                latency=tuple(percentile(latencies(records), q) for q in QUANTILES),
                service=tuple(percentile(latencies(records, service=True), q) for q in QUANTILES),
                cached_fraction=cached,
                computed_tokens_per_s=computed,
                limit_fraction=None if computed is None or limit is None else computed / limit,
                ranked_fraction=gateway_fraction(records, "ranked"),
                cache_hits=gateway_fraction(records, "cached"),
                gateway_ms=median(own) if (own := gateway_values(records, "own_ms")) else None,
            )
        )
    return tuple(rows)


def gateway_values(records: list[RequestRecord], name: str) -> list[float]:
    """What the gateway reported of each request, by the name of a field of ``GatewayCounts``."""
    return [value for record in records if (value := getattr(record.gateway, name)) is not None]


def gateway_fraction(records: list[RequestRecord], name: str) -> float | None:
    """Fraction of the documents that the gateway reported as ranked or cached; None without a gateway."""
    documents = sum(record.documents for record in records if getattr(record.gateway, name) is not None)
    return sum(gateway_values(records, name)) / documents if documents else None


def summary(run: Run) -> Table:
    """The statistics as a table with a row for each load level.

    A percentile is shown with its 95 % interval, or with the number of requests that one needs.
    """
    rows = level_statistics(run)
    percentiles = ("p50", "p95", "p99")
    names = ["load", "requests", "failed", *percentiles, "requests/s", "documents/s", "tokens/s"]
    names += ["gateway"] * any(row.ranked_fraction is not None for row in rows)
    cells = []
    for row in rows:
        tokens = [] if row.tokens_per_s is None else [f"{row.tokens_per_s:.0f}"]
        if row.computed_tokens_per_s is not None and row.cached_fraction is not None:
            tokens.append(f"{row.computed_tokens_per_s:.0f} computed ({row.cached_fraction:.0%} cached)")
        if row.limit_fraction is not None:
            tokens.append(f"{row.limit_fraction:.0%} of the machine's GEMM limit")
        values = (f"{row.requests_per_s:.3g}", f"{row.documents_per_s:.1f}", "\n".join(tokens) or "-")
        known = [p for p in row.latency if p.name in percentiles]
        times = [f"needs {p.needed} requests" if p.value is None else str(p) for p in known]
        reports = ((row.ranked_fraction, "{:.0%} ranked"), (row.cache_hits, "{:.0%} cached"))
        gateway = [f.format(value) for value, f in (*reports, (row.gateway_ms, "adds {:.1f} ms")) if value]
        counts = (load_name(row.level.name), str(row.n), str(row.errors))
        cells.append((*counts, *times, *values, "\n".join(gateway) or "-"))
    title = "Latency with 95 % intervals, which need n requests, and throughput of successful requests"
    return Table(tuple(map(Column, names)), tuple(row[: len(names)] for row in cells), title, header=True)


def load_name(level: str) -> str:
    """A load level in words, such as ``4 clients`` for ``closed-4``, or ``0.5/s at random``."""
    kind, _, value = level.partition("-")
    words = {"poisson": "/s at random", "constant": "/s evenly", "burst": " at once"}
    return value + words.get(kind, " client" if value == "1" else " clients")


def lightest_level(run: Run) -> tuple[LoadLevel, list[RequestRecord]]:
    """The measured level with the fewest clients, and its measured requests, failed ones too."""
    for level in sorted(run.info.levels, key=lambda level: level.clients or math.inf):
        records = [record for record in run.measured if record.level == level.name]
        if records:
            return level, records
    raise too_small(run, "no measured request")


def since_start(run: Run, t: int) -> float:
    """Seconds from the run's start to a moment on its clock."""
    return (t - run.info.started_ns) / 1e9


def frame(run: Run) -> pd.DataFrame:
    """All requests as a DataFrame; times are in seconds from the start of the run."""
    rows = [
        {
            **vars(record),
            "due": since_start(run, record.t_sched),
            "sent": since_start(run, record.t_send),
            "latency": record.latency,
            "service": record.service,
            "ranked": record.ranked,
            "cached": record.gateway.cached,
            "gateway_ms": record.gateway.own_ms,
        }
        for record in run.requests
    ]
    columns = [
        *("level", "repeat", "session", "phase", "index", "documents", "words", "tokens", "status", "error"),
        *("due", "sent", "latency", "service", "ranked", "cached", "gateway_ms"),
    ]
    table: pd.DataFrame = extra("pandas").DataFrame(rows, columns=columns)
    return table


def panels(run: Run) -> dict[str, dict[str, pd.Series[float]]]:
    """The reranker's metrics over time, by unit and name; those with several values that are not all 0.

    The index is in seconds since the run's start. CPU is the rate of its counter; where that fell, as after a
    restart, there is no value.
    """
    if not run.samples:
        return {}
    samples = extra("pandas").DataFrame([vars(sample) for sample in run.samples], dtype=float)
    samples.index = [since_start(run, sample.t) for sample in run.samples]
    known = {
        "CPU (cores)": {"in use": _rate(samples.cpu_ns), "throttled": _rate(samples.throttled_ns)},
        "memory (GiB)": {"in use": samples.memory_bytes.dropna() / GIB},
        "documents": {name: samples[name].dropna() for name in ("running", "waiting")},
    }
    many = {
        unit: {name: line for name, line in lines.items() if len(line) > 1 and line.any()}
        for unit, lines in known.items()
    }
    return {unit: lines for unit, lines in many.items() if lines}


def _rate(counter: pd.Series[float]) -> Any:
    """How fast a counter of nanoseconds rose, in seconds a second, so cores for CPU time."""
    counter, times = counter.dropna(), list[float]()
    for t in counter.index:
        if not times or t - times[-1] >= _MIN_DISTANCE_S:
            times.append(t)
    rise = counter[times].diff() / 1e9
    return (rise / rise.index.to_series().diff())[rise >= 0]


def resource_usage(run: Run) -> pd.DataFrame:
    """Mean and maximum of the reranker's metrics during each load level, warm-up included.

    Returns:
        A row for each level with values, two columns for each metric.

    Raises:
        BenchError: pandas is not installed.
    """
    rows: dict[str, dict[str, float]] = {}
    lines = [(f"{unit} {name}", line) for unit, group in panels(run).items() for name, line in group.items()]
    for level in run.info.levels:
        spans = [
            (since_start(run, trial.start), since_start(run, trial.end))
            for trial in trials(run)
            if trial.level == level.name
        ]
        for name, line in lines:
            values = line[[any(start <= t <= end for start, end in spans) for t in line.index]]
            if len(values):
                row = rows.setdefault(level.name, {})
                row |= {f"{name}, {kind}": round(values.agg(kind), 2) for kind in ("mean", "max")}
    table: pd.DataFrame = extra("pandas").DataFrame.from_dict(rows, orient="index")
    return table
