"""A recorded run as pandas tables; needs the extra ``bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ragops.bench.statistics import extra, since_start, trial_spans
from ragops.reranker.sizing import GIB

if TYPE_CHECKING:
    import pandas as pd

    from ragops.bench.records import Run

_MIN_DISTANCE_S = 0.5
"""Smallest distance of two samples of a counter: the Docker engine may return counters up to a second old."""


def frame(run: Run) -> pd.DataFrame:
    """All requests as a DataFrame; times are in seconds from the start of the run."""
    fields = (
        "level",
        "repeat",
        "session",
        "phase",
        "index",
        "documents",
        "words",
        "tokens",
        "status",
        "error",
    )
    rows = [
        (
            *(getattr(record, name) for name in fields),
            since_start(run, record.t_sched),
            since_start(run, record.t_send),
            record.latency,
            record.service,
        )
        for record in run.requests
    ]
    columns = [*fields, "due", "sent", "latency", "service"]
    table: pd.DataFrame = extra("pandas").DataFrame(rows, columns=columns)
    return table


def panels(run: Run) -> dict[str, dict[str, pd.Series[float]]]:
    """The reranker's metrics over time, by unit and name; only those with more than one value.

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
        unit: {name: line for name, line in lines.items() if len(line) > 1} for unit, lines in known.items()
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

    Args:
        run: From :func:`ragops.bench.load_run`.

    Returns:
        A row for each level with values, two columns for each metric.

    Raises:
        BenchError: pandas is not installed.
    """
    rows: dict[str, dict[str, float]] = {}
    lines = [(f"{unit} {name}", line) for unit, group in panels(run).items() for name, line in group.items()]
    for level in run.info.levels:
        spans = [span for span in trial_spans(run) if span.level == level.name]
        for name, line in lines:
            values = line[[any(span.start <= t <= span.end for span in spans) for t in line.index]]
            if len(values):
                row = rows.setdefault(level.name, {})
                row |= {f"{name}, {kind}": round(values.agg(kind), 2) for kind in ("mean", "max")}
    table: pd.DataFrame = extra("pandas").DataFrame.from_dict(rows, orient="index")
    return table
