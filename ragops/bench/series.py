"""Data of the charts and of the report's tables, without matplotlib; pure.

Loads by size, the knee, latency by size, stalls, and the reranker's metrics over time; ``statistics.py`` has
the statistics of each load level.
"""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean, mean, median, quantiles
from typing import TYPE_CHECKING, Literal, NamedTuple

from ragops.bench.statistics import extra, level_statistics, substitutes, too_small, trials
from ragops.reranker.sizing import GIB

if TYPE_CHECKING:
    import pandas as pd

    from ragops.bench.records import LoadLevel, RequestRecord, Run
    from ragops.bench.statistics import LevelStatistics

Point = tuple[float, float]

_STALL = 3.0
_MIN_GAPS = 10
_MIN_LEVELS = 3
_MAX_SIZES = 12
_MAX_SERIES = 7
_MIN_DISTANCE_NS = 500_000_000
"""Smallest distance of two samples of a counter."""


def load_name(level: str) -> str:
    """A load level in words, such as ``4 clients`` for ``closed-4``, or ``0.5/s at random``."""
    kind, _, value = level.partition("-")
    words = {"poisson": "/s at random", "constant": "/s evenly", "burst": " at once"}
    return value + words.get(kind, " client" if value == "1" else " clients")


def by_load(run: Run) -> list[LevelStatistics]:
    """The statistics of each level, from the lightest load of its kind to the heaviest."""
    return sorted(level_statistics(run), key=lambda row: (row.level.kind != "closed", row.level.value))


def knee(rows: list[LevelStatistics]) -> LevelStatistics | None:
    """The level with the greatest power: throughput divided by p50 (Kleinrock, 1979).

    None with fewer than three levels.
    """
    known = [row for row in rows if row.latency[0].value and row.documents_per_s]
    if len(known) < _MIN_LEVELS:
        return None
    return max(known, key=lambda row: row.documents_per_s / (row.latency[0].value or 1))


def lightest_level(run: Run) -> tuple[LoadLevel, list[RequestRecord]]:
    """The measured level with the fewest clients, and its successful requests.

    Raises:
        BenchError: No request succeeded.
    """
    for level in sorted(run.info.levels, key=lambda level: level.clients or math.inf):
        records = [r for r in run.measured if r.level == level.name and not r.error]
        if records:
            return level, records
    raise too_small(run, "no successful request")


class Cell(NamedTuple):
    """Successful requests of one size."""

    documents: int
    words: int
    """Words in each document."""
    tokens: float | None
    """Tokens in each document with its query and template; None when not reported."""
    n: int
    seconds: float
    """Median latency."""


@dataclass(frozen=True)
class Grid:
    """Sizes of the load level with the fewest clients."""

    level: str
    cells: tuple[Cell, ...]

    @property
    def documents(self) -> list[int]:
        """Numbers of documents, rising."""
        return sorted({cell.documents for cell in self.cells})

    @property
    def words(self) -> list[int]:
        """Lengths of a document, rising."""
        return sorted({cell.words for cell in self.cells})

    def length(self, words: int) -> str:
        """A length in tokens, or in words where the server reported no tokens."""
        tokens = [cell.tokens for cell in self.cells if cell.words == words and cell.tokens]
        return f"{mean(tokens):.0f} tokens" if tokens else f"{words} words"


def size_grid(run: Run) -> Grid | None:
    """The latency of each size; None where sizes are not a grid of documents by words.

    Raises:
        BenchError: No request succeeded.
    """
    level, successful = lightest_level(run)
    groups = defaultdict(list)
    for record in successful:
        groups[record.documents, record.words].append(record)
    cells = []
    for (documents, words), records in sorted(groups.items()):
        tokens = [record.tokens / documents for record in records if record.tokens]
        seconds = median(record.latency for record in records)
        cells.append(Cell(documents, words, mean(tokens) if tokens else None, len(records), seconds))
    grid = Grid(level.name, tuple(cells))
    rows, columns = len(grid.documents), len(grid.words)
    is_grid = 2 <= rows <= _MAX_SIZES and 2 <= columns <= _MAX_SIZES and 2 * len(cells) > rows * columns
    return grid if is_grid else None


class Series(NamedTuple):
    """Points of one kind, and a line through their medians where sizes repeat."""

    name: str
    points: tuple[Point, ...]
    line: tuple[Point, ...] = ()


Size = Literal["documents", "words"]


def latency_series(records: list[RequestRecord], x: Size) -> list[Series]:
    """Latency against one size of the requests, a series for each value of the other size.

    All requests are one series when the other size has many values.

    Args:
        records: Successful requests.
        x: The size on the x axis; the other one names the series.
    """
    other = "words" if x == "documents" else "documents"
    is_line = len({getattr(record, x) for record in records}) <= _MAX_SIZES
    groups: dict[str, list[Point]] = defaultdict(list)
    for record in sorted(records, key=lambda record: int(getattr(record, other))):
        groups[f"{getattr(record, other)} {other}"].append((getattr(record, x), record.latency))
    if len(groups) > _MAX_SERIES:
        groups = {"all requests": [(getattr(record, x), record.latency) for record in records]}
    return [
        Series(name, tuple(points), _medians(points) if is_line else ()) for name, points in groups.items()
    ]


def _medians(points: list[Point]) -> tuple[Point, ...]:
    groups = defaultdict(list)
    for x, y in points:
        groups[x].append(y)
    repeats = 1 < len(groups) <= len(points) / 2
    return tuple((x, median(groups[x])) for x in sorted(groups)) if repeats else ()


def since_start(run: Run, t: int) -> float:
    """Seconds from the run's start to a moment on its clock."""
    return (t - run.info.started_ns) / 1e9


class Span(NamedTuple):
    """A time span of a load level; seconds since the run's start."""

    level: str
    start: float
    end: float


def trial_spans(run: Run) -> list[Span]:
    """The trials of a run in time."""
    spans = [
        Span(
            level,
            since_start(run, min(r.t_sched for r in group)),
            since_start(run, max(r.t_done for r in group)),
        )
        for (level, _, _), group in trials(run).items()
    ]
    return sorted(spans, key=lambda span: span.start)


def stalls(run: Run) -> list[Span]:
    """Times with requests in flight and no response for more than three times the p90 of the trial's gaps.

    Trials with fewer than ten gaps are skipped.
    """
    spans = []
    for (level, _, _), group in trials(run).items():
        gaps = _gaps([record for record in group if not record.is_cancelled])
        if len(gaps) >= _MIN_GAPS:
            p90 = quantiles([end - start for start, end in gaps], n=10, method="inclusive")[-1]
            long = [(start, end) for start, end in gaps if end - start > _STALL * p90]
            spans += [Span(level, since_start(run, start), since_start(run, end)) for start, end in long]
    return sorted(spans, key=lambda span: span.start)


def _gaps(records: list[RequestRecord]) -> list[tuple[int, int]]:
    """From one response, or from when a request was in flight, to the next."""
    done = sorted(records, key=lambda record: record.t_done)
    first_sent = list(accumulate((record.t_send for record in reversed(done)), min))[::-1]
    last_done = [0, *(record.t_done for record in done)]
    return [
        (max(last, sent), record.t_done)
        for last, sent, record in zip(last_done, first_sent, done, strict=False)
    ]


class CpuUse(NamedTuple):
    """The reranker's CPU use, mean."""

    cores: float
    throttled: float | None
    """Fraction of the time in which it was throttled; None when not reported."""


def cpu_use(run: Run) -> CpuUse | None:
    """CPU in use and throttled, over the whole run; None without two samples."""
    cores, throttled = (_mean_rate(run, counter) for counter in ("cpu_ns", "throttled_ns"))
    return None if cores is None else CpuUse(cores, throttled)


def _mean_rate(run: Run, counter: str) -> float | None:
    values = [(s.t, getattr(s, counter)) for s in run.samples if getattr(s, counter) is not None]
    if len(values) < 2 or values[-1][0] <= values[0][0]:
        return None
    increase: int = sum(max(0, high - low) for (_, low), (_, high) in pairwise(values))
    return increase / (values[-1][0] - values[0][0])


def timeseries(run: Run) -> dict[str, list[Series]]:
    """The reranker's metrics over time, by name with unit; only series with more than one value."""
    memory = Series("in use", tuple((t, y / GIB) for t, y in gauge(run, "memory_bytes")))
    panels = {
        "CPU (cores)": [
            Series("in use", counter_rate(run, "cpu_ns")),
            Series("throttled", counter_rate(run, "throttled_ns")),
        ],
        "memory (GiB)": [memory],
        "documents": [Series(name, gauge(run, name)) for name in ("running", "waiting")],
    }
    known = {name: [line for line in lines if len(line.points) > 1] for name, lines in panels.items()}
    return {name: lines for name, lines in known.items() if lines}


def gauge(run: Run, name: str) -> tuple[Point, ...]:
    """A gauge of the samples over time, in seconds since the run's start; samples without it are skipped."""
    values = [(sample.t, getattr(sample, name)) for sample in run.samples]
    return tuple((since_start(run, t), float(value)) for t, value in values if value is not None)


def counter_rate(run: Run, name: str) -> tuple[Point, ...]:
    """How fast a counter of nanoseconds rose, in seconds a second, so cores for CPU time.

    A counter that fell, as after a restart, leaves a gap. The Docker engine may return counters up to a
    second old, so of samples close to each other only the first is used.
    """
    values: list[tuple[int, int]] = []
    for sample in run.samples:
        count = getattr(sample, name)
        if count is not None and (not values or sample.t - values[-1][0] >= _MIN_DISTANCE_NS):
            values.append((sample.t, count))
    return tuple(
        (since_start(run, end), (high - low) / (end - start))
        for (start, low), (end, high) in pairwise(values)
        if high >= low
    )


def resource_usage(run: Run) -> pd.DataFrame:
    """Mean and maximum of the reranker's metrics during each load level, warm-up included.

    Args:
        run: From :func:`ragops.bench.load_run`.

    Returns:
        A row for each level with values, two columns for each metric.

    Raises:
        BenchError: pandas is not installed.
    """
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    spans = trial_spans(run)
    lines = [(f"{panel} {line.name}", line) for panel, group in timeseries(run).items() for line in group]
    for level in run.info.levels:
        mine = [span for span in spans if span.level == level.name]
        for name, line in lines:
            values = [y for t, y in line.points if any(span.start <= t <= span.end for span in mine)]
            if values:
                rows[level.name] |= {
                    f"{name}, mean": round(fmean(values), 2),
                    f"{name}, max": round(max(values), 2),
                }
    table: pd.DataFrame = extra("pandas").DataFrame.from_dict(rows, orient="index")
    return table


def caption(run: Run, width: int) -> str:
    """Caption of a chart, in lines of ``width`` characters: machine, model, image, run and substitutes."""
    info, origin = run.info, run.info.provenance
    digest = origin.image_digest.removeprefix("sha256:")[:12]
    image = f"image {digest}" if digest else origin.image
    parts = (origin.machine, origin.model or info.model, image, f"run {run.path.name}")
    notes = [f"{kind}: {reason}" for kind, reason in substitutes(run)]
    if not info.complete:
        notes.append(f"incomplete: {info.reason}")
    lines = (" · ".join(part for part in parts if part), "; ".join(notes))
    return "\n".join(part for line in lines for part in textwrap.wrap(line, width))
