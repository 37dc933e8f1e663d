"""CPU, throttling, memory and queue of the reranker during a run, as time series."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from ragops.bench import series
from ragops.bench.stats import table

if TYPE_CHECKING:
    import pandas as pd

    from ragops.bench.records import Run
    from ragops.bench.series import Dot

_GIB = 2**30


@dataclass(frozen=True)
class TimeSeries:
    """One metric over time."""

    panel: str
    """The metric with its unit; series of one panel share an axis."""
    name: str
    dots: tuple[Dot, ...]
    """(seconds since the run's start, value)."""


def timeseries(run: Run) -> tuple[TimeSeries, ...]:
    """The series with more than one value."""
    memory = tuple((t, y / _GIB) for t, y in series.levels_of(run, lambda s: s.memory_bytes))
    wanted = (
        TimeSeries("CPU (cores)", "in use", series.growth_of(run, lambda s: s.cpu_ns)),
        TimeSeries("CPU (cores)", "throttled", series.growth_of(run, lambda s: s.throttled_ns)),
        TimeSeries("memory (GiB)", "in use", memory),
        TimeSeries("documents", "running", series.levels_of(run, lambda s: s.running)),
        TimeSeries("documents", "waiting", series.levels_of(run, lambda s: s.waiting)),
    )
    return tuple(series_ for series_ in wanted if len(series_.dots) > 1)


def meanwhile(run: Run) -> pd.DataFrame:
    """Mean and maximum of each series during each load level, warm-up included.

    Args:
        run: From :func:`ragops.bench.load_run`.

    Returns:
        A row for each level with values, two columns for each series.

    Raises:
        BenchError: pandas is not installed.
    """
    rows: dict[str, dict[str, object]] = {}
    for level in run.info.levels:
        for one in timeseries(run):
            if read := _during(run, level.name, one):
                row = rows.setdefault(level.name, {"level": level.name})
                row[f"{one.panel} {one.name}, mean"] = round(fmean(read), 2)
                row[f"{one.panel} {one.name}, most"] = round(max(read), 2)
    found = table(list(rows.values()))
    return found.set_index("level") if rows else found


def _during(run: Run, level: str, one: TimeSeries) -> list[float]:
    spans = [span for span in series.spans(run) if span.level == level]
    return [y for t, y in one.dots if any(span.start <= t <= span.end for span in spans)]
