"""Statistics of a recorded run by load level; :func:`summary` gives them as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.bench.counters import cached_share, trial_counters
from ragops.bench.quantiles import Percentile, percentile
from ragops.errors import BenchError

if TYPE_CHECKING:
    import pandas as pd

    from ragops.bench.level import Level
    from ragops.bench.records import RequestRecord, Run

SHARES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class LevelFigures:
    """One load level; rates a second, of successful requests only.

    In the percentiles a failed request counts as slower than any successful one.
    """

    level: Level
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


def _level_figures(run: Run, level: Level) -> LevelFigures:
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
