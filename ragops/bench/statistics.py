"""Differences of the server's and the machine's counters over each trial, and disturbances; pure.

Statistics of a recorded run by load level; :func:`summary` gives them as a table.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ragops.checks.latency import Percentile, percentile
from ragops.errors import BenchError

if TYPE_CHECKING:
    import pandas as pd

    from ragops.bench.records import LoadLevel, RequestRecord, Run, Sample

OTHER_CPU = 0.1
"""Cores used by other processes above which a run is reported as disturbed: a fifth of a core made
requests half as long again."""

STEAL = 0.02
"""Cores withheld by the hypervisor above which a run is reported as disturbed."""


@dataclass(frozen=True)
class TrialCounters:
    """Increase of the counters over one trial; None where one could not be read, or fell."""

    ours: int
    """Requests of this run, warm-up included."""
    seconds: float
    calls: int | None
    """Rerank requests served, from all clients."""
    prompt_tokens: int | None
    cached_tokens: int | None
    cpu_ns: int | None
    throttled_ns: int | None
    host_busy_ns: int | None
    host_stolen_ns: int | None
    client_ns: int | None
    restarted: bool
    """Whether a counter of the reranker fell, as after a restart."""

    @property
    def foreign_requests(self) -> int:
        """Lower bound of the requests of other clients."""
        return max(0, (self.calls or 0) - self.ours)

    @property
    def other_cpu(self) -> float | None:
        """Cores used by processes other than the reranker and this client."""
        if self.host_busy_ns is None or self.cpu_ns is None or self.client_ns is None:
            return None
        return max(0.0, (self.host_busy_ns - self.cpu_ns - self.client_ns) / 1e9 / self.seconds)

    @property
    def steal(self) -> float:
        """Cores withheld by the hypervisor."""
        return (self.host_stolen_ns or 0) / 1e9 / self.seconds


_RISING = tuple(
    name
    for name in (one.name for one in fields(TrialCounters))
    if name not in ("ours", "seconds", "restarted")
)
_SERVERS = ("calls", "prompt_tokens", "cpu_ns")


def trial_counters(run: Run) -> dict[str, tuple[TrialCounters, ...]]:
    """Counters of the trials of each level, by its name; trials without samples are left out."""
    turns: dict[tuple[str, int, int], list[RequestRecord]] = defaultdict(list)
    for record in run.requests:
        turns[record.level, record.repeat, record.session].append(record)
    found: dict[str, tuple[TrialCounters, ...]] = {}
    for (level, _, _), records in turns.items():
        if one := _pass(records, run.samples):
            found[level] = (*found.get(level, ()), one)
    return found


def cached_share(passes: tuple[TrialCounters, ...]) -> float | None:
    """Fraction of all prompt tokens found in the prefix cache; None where not reported."""
    known = [(one.cached_tokens, one.prompt_tokens) for one in passes]
    pairs = [(cached, prompt) for cached, prompt in known if cached is not None and prompt]
    return sum(cached for cached, _ in pairs) / sum(prompt for _, prompt in pairs) if pairs else None


def disturbances(run: Run) -> tuple[str, ...]:
    """Other clients, other processes, steal, throttling and restarts; a line each."""
    passes = [one for level in trial_counters(run).values() for one in level]
    foreign_requests = sum(one.foreign_requests for one in passes)
    other_cpu = max((one.other_cpu for one in passes if one.other_cpu is not None), default=0.0)
    steal = max((one.steal for one in passes), default=0.0)
    throttled = sum(one.throttled_ns or 0 for one in passes) / 1e9
    candidates = (
        f"a second client: the server processed {foreign_requests} requests of others"
        if foreign_requests
        else "",
        f"other processes used up to {other_cpu:.1f} cores" if other_cpu > OTHER_CPU else "",
        f"the hypervisor withheld up to {steal:.2f} cores" if steal > STEAL else "",
        f"the container was throttled for {throttled:.1f} s" if throttled >= 0.1 else "",
        "the reranker was restarted during the run" if any(one.restarted for one in passes) else "",
    )
    return tuple(line for line in candidates if line)


def _pass(records: list[RequestRecord], samples: tuple[Sample, ...]) -> TrialCounters | None:
    start, end = min(r.t_sched for r in records), max(r.t_done for r in records)
    first = max((one for one in samples if one.t <= start), key=lambda one: one.t, default=None)
    last = min((one for one in samples if one.t >= end), key=lambda one: one.t, default=None)
    if first is None or last is None or last.t <= first.t:
        return None
    return between(first, last, len(records))


def between(first: Sample, last: Sample, ours: int) -> TrialCounters:
    """Counters from one sample to a later one, between which ``ours`` requests were sent."""
    rises = {name: _rise(getattr(first, name), getattr(last, name)) for name in _RISING}
    return TrialCounters(
        ours=ours,
        seconds=(last.t - first.t) / 1e9,
        restarted=any((rises[name] or 0) < 0 for name in _SERVERS),
        **{name: None if rise is None or rise < 0 else rise for name, rise in rises.items()},
    )


def _rise(first: int | None, last: int | None) -> int | None:
    return None if first is None or last is None else last - first


SHARES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class LevelFigures:
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
    """p50, p90, p95 and p99 from when a request was due."""
    service: tuple[Percentile, ...]
    """The same from when it was sent."""
    cached_share: float | None = None
    """Fraction of the tokens found in the prefix cache; None when not reported."""
    computed_tokens_per_s: float | None = None
    """Computed tokens; None when not reported."""
    limit_share: float | None = None
    """Computed tokens as a fraction of the machine's matrix multiplication peak."""


@dataclass(frozen=True)
class Rates:
    """Requests, documents and tokens a second."""

    requests: float
    documents: float
    tokens: float | None


def waits(records: list[RequestRecord], *, service: bool = False) -> list[float]:
    """Latencies in seconds, ``inf`` for failed requests.

    Args:
        records: The requests.
        service: Count from when a request was sent instead of from when it was due.
    """
    return [math.inf if r.error else (r.service if service else r.latency) for r in records]


def rates(records: list[RequestRecord], clients: int | None) -> Rates:
    """Throughput of one trial.

    In a closed loop the time counts from the first measured request until one of the clients has nothing
    left to send, as the load is smaller from then on; a request across an edge counts by its part inside.
    Otherwise it is the time from the first measured request to the last response.

    Args:
        records: Requests of one trial, warm-up included.
        clients: Concurrent clients of a closed loop; None for other loads.
    """
    start, end = _window(records, clients)
    good = [record for record in records if not record.error]
    parts = [(record, _part(record, start, end)) for record in good]
    span = max(end - start, 1) / 1e9
    tokens = [record.tokens * part for record, part in parts if record.tokens is not None]
    return Rates(
        requests=sum(part for _, part in parts) / span,
        documents=sum(record.documents * part for record, part in parts) / span,
        tokens=sum(tokens) / span if tokens else None,
    )


def _window(records: list[RequestRecord], clients: int | None) -> tuple[int, int]:
    measured = [record for record in records if record.phase == "measure"]
    start = min((record.t_send for record in measured), default=0)
    if clients is None:
        return start, max((record.t_done for record in measured), default=0)
    last_sent = max((record.t_send for record in measured), default=0)
    return start, min((r.t_done for r in measured if r.t_done > last_sent), default=0)


def _part(record: RequestRecord, start: int, end: int) -> float:
    inside = min(record.t_done, end) - max(record.t_send, start)
    return max(0.0, inside / max(1, record.t_done - record.t_send))


def figures(run: Run) -> tuple[LevelFigures, ...]:
    """The statistics of each level with measured requests, in the order of ``run.json``."""
    rows = [_level_figures(run, level) for level in run.info.levels]
    return tuple(row for row in rows if row.n)


def _level_figures(run: Run, level: LoadLevel) -> LevelFigures:
    records = [record for record in run.measured if record.level == level.name]
    each = [rates(turn, level.clients) for turn in passes(run, level.name)]
    tokens = [rate.tokens for rate in each if rate.tokens is not None]
    per_s = _mean(tokens) if tokens else None
    share = cached_share(trial_counters(run).get(level.name, ()))
    computed = None if per_s is None or share is None else per_s * (1 - share)
    limit = run.info.limit.tokens_per_s if run.info.limit else None
    return LevelFigures(
        level=level,
        n=len(records),
        errors=sum(bool(record.error) for record in records),
        requests_per_s=_mean([rate.requests for rate in each]),
        documents_per_s=_mean([rate.documents for rate in each]),
        tokens_per_s=per_s,
        latency=tuple(percentile(waits(records), share) for share in SHARES),
        service=tuple(percentile(waits(records, service=True), share) for share in SHARES),
        cached_share=share,
        computed_tokens_per_s=computed,
        limit_share=None if computed is None or limit is None else computed / limit,
    )


def passes(run: Run, level: str) -> list[list[RequestRecord]]:
    """The requests of each trial of a level, warm-up included; a resumed repetition is two trials."""
    mine = [record for record in run.requests if record.level == level and not record.is_cancelled]
    turns = sorted({(record.repeat, record.session) for record in mine if record.phase == "measure"})
    return [[record for record in mine if (record.repeat, record.session) == turn] for turn in turns]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def summary(run: Run) -> pd.DataFrame:
    """A table with a row for each level.

    Percentiles come with their 95 % interval, or as ``n/a (n=120 < 368)`` where there are too few
    requests for one. Those named ``from sending`` leave out what a request waited in the client.

    Args:
        run: From :func:`ragops.bench.load_run`.

    Returns:
        Rows named by level; rates as numbers, percentiles as text.

    Raises:
        BenchError: pandas is not installed.
    """
    rows = [{"level": row.level.name, **_row(row)} for row in figures(run)]
    found = table(rows)
    return found.set_index("level") if rows else found


def _row(row: LevelFigures) -> dict[str, object]:
    return {
        "n": row.n,
        "errors": row.errors,
        "documents/s": round(row.documents_per_s, 2),
        "requests/s": round(row.requests_per_s, 3),
        "tokens/s": _whole(row.tokens_per_s),
        "computed tokens/s": _whole(row.computed_tokens_per_s),
        "share of limit": None if row.limit_share is None else round(row.limit_share, 3),
        **{found.name: str(found) for found in row.latency},
        **{f"{found.name} from sending": str(found) for found in row.service},
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def frame(run: Run) -> pd.DataFrame:
    """Every request as a row, times in seconds from the run's start."""
    rows: list[dict[str, object]] = [
        {
            "level": r.level,
            "repeat": r.repeat,
            "session": r.session,
            "phase": r.phase,
            "index": r.index,
            "documents": r.documents,
            "words": r.words,
            "tokens": r.tokens,
            "status": r.status,
            "error": r.error,
            "due": (r.t_sched - run.info.started_ns) / 1e9,
            "sent": (r.t_send - run.info.started_ns) / 1e9,
            "latency": r.latency,
            "service": r.service,
        }
        for r in run.requests
    ]
    return table(rows)


def table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Rows as a table; BenchError when pandas is not installed."""
    try:
        import pandas as pd  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BenchError(
            "tables need pandas", code="extra-missing", hint="pip install 'ragops-rerank[bench]'"
        ) from error
    return pd.DataFrame(rows)
