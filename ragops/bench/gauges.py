"""What the reranker did while it was measured: CPU, throttling, memory, queue; pure but for the table.

``plots/clock.py`` draws the gauges, :func:`meanwhile` gives their numbers.
"""

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
class Gauge:
    """One reading over time."""

    panel: str
    """What it is a reading of, with its unit; gauges of one panel are drawn on one axis."""
    name: str
    dots: tuple[Dot, ...]
    """(seconds since the run's start, value)."""


def gauges(run: Run) -> tuple[Gauge, ...]:
    """The gauges that were read more than once."""
    memory = tuple((t, y / _GIB) for t, y in series.levels_of(run, lambda s: s.memory_bytes))
    wanted = (
        Gauge("CPU (cores)", "in use", series.growth_of(run, lambda s: s.cpu_ns)),
        Gauge("CPU (cores)", "throttled", series.growth_of(run, lambda s: s.throttled_ns)),
        Gauge("memory (GiB)", "in use", memory),
        Gauge("documents", "running", series.levels_of(run, lambda s: s.running)),
        Gauge("documents", "waiting", series.levels_of(run, lambda s: s.waiting)),
    )
    return tuple(one for one in wanted if len(one.dots) > 1)


def meanwhile(run: Run) -> pd.DataFrame:
    """The gauges in numbers: mean and greatest reading while each level was played, warm-up included.

    Args:
        run: From :func:`ragops.bench.load_run`.

    Returns:
        A row for each level that lasted long enough to be looked at, two columns for each gauge.

    Raises:
        BenchError: pandas is not installed.
    """
    rows: dict[str, dict[str, object]] = {}
    for level in run.info.levels:
        for one in gauges(run):
            if read := _during(run, level.name, one):
                row = rows.setdefault(level.name, {"level": level.name})
                row[f"{one.panel} {one.name}, mean"] = round(fmean(read), 2)
                row[f"{one.panel} {one.name}, most"] = round(max(read), 2)
    found = table(list(rows.values()))
    return found.set_index("level") if rows else found


def _during(run: Run, level: str, one: Gauge) -> list[float]:
    spans = [span for span in series.spans(run) if span.level == level]
    return [y for t, y in one.dots if any(span.start <= t <= span.end for span in spans)]
