"""Knee, grid of sizes, stalls and CPU use of a recorded run; pure.

CPU, throttling, memory and queue of the reranker during a run, as time series.

The data of the plots, without matplotlib; pure.
"""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean, mean, median, quantiles
from typing import TYPE_CHECKING, NamedTuple

from ragops.bench import statistics
from ragops.bench.statistics import table
from ragops.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from ragops.bench.records import LoadLevel, RequestRecord, Run, Sample
    from ragops.bench.statistics import LevelFigures

_STALL = 3.0
_FEWEST_WAITS = 10
_FEWEST_LEVELS = 3
_MOST_SIZES = 12


def load_name(level: LoadLevel) -> str:
    """A level in words: ``4 clients``, ``0.5/s at random``, ``2/s evenly`` or ``8 at once``."""
    words = {"poisson": "/s at random", "constant": "/s evenly", "burst": " at once"}
    clients = " client" if level.value == 1 else " clients"
    return f"{level.value:g}{words.get(level.kind, clients)}"


def words_for(run: Run, name: str) -> str:
    """The level of that name in words."""
    return next((load_name(level) for level in run.info.levels if level.name == name), name)


def by_load(run: Run) -> list[LevelFigures]:
    """The statistics of each level, from the lightest load of its kind to the heaviest."""
    return sorted(statistics.figures(run), key=lambda row: (row.level.kind != "closed", row.level.value))


def knee(rows: list[LevelFigures]) -> LevelFigures | None:
    """The level with the greatest power: throughput divided by p50 (Kleinrock, 1979).

    None with fewer than three levels.
    """
    known = [row for row in rows if row.latency[0].value and row.documents_per_s]
    if len(known) < _FEWEST_LEVELS:
        return None
    return max(known, key=lambda row: row.documents_per_s / (row.latency[0].value or 1))


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
        counted = [cell.tokens for cell in self.cells if cell.words == words and cell.tokens]
        return f"{mean(counted):.0f} tokens" if counted else f"{words} words"


def grid_of(run: Run) -> Grid | None:
    """The latency of each size; None where sizes are not a grid of documents by words."""
    level, good = calmest(run)
    groups: dict[tuple[int, int], list[RequestRecord]] = {}
    for record in good:
        groups.setdefault((record.documents, record.words), []).append(record)
    cells = tuple(_cell(size, records) for size, records in sorted(groups.items()))
    found = Grid(level, cells)
    rows, columns = len(found.documents), len(found.words)
    is_grid = 2 <= rows <= _MOST_SIZES and 2 <= columns <= _MOST_SIZES and 2 * len(cells) > rows * columns
    return found if is_grid else None


def _cell(size: tuple[int, int], records: list[RequestRecord]) -> Cell:
    counted = [record.tokens / record.documents for record in records if record.tokens]
    return Cell(*size, mean(counted) if counted else None, len(records), median(r.latency for r in records))


def stalls(run: Run) -> list[Span]:
    """Times with requests in flight and no response for more than three times the p90 of the trial's gaps.

    Trials with fewer than ten gaps are skipped.
    """
    passes: dict[tuple[str, int], list[RequestRecord]] = {}
    for record in run.requests:
        if not record.is_cancelled:
            passes.setdefault((record.level, record.repeat), []).append(record)
    found = []
    for (level, _), records in passes.items():
        waits = _waits(records)
        if len(waits) >= _FEWEST_WAITS:
            usual = quantiles([end - begin for begin, end in waits], n=10, method="inclusive")[-1]
            found += [
                Span(level, since_start(run, begin), since_start(run, end))
                for begin, end in waits
                if end - begin > _STALL * usual
            ]
    return sorted(found, key=lambda span: span.start)


def _waits(records: list[RequestRecord]) -> list[tuple[int, int]]:
    """From one response, or from when a request was in flight, to the next."""
    answers = sorted(records, key=lambda record: record.t_done)
    first_sent = list(accumulate((record.t_send for record in reversed(answers)), min))[::-1]
    before = [first_sent[0], *(record.t_done for record in answers)]
    return [
        (max(last, sent), record.t_done)
        for last, sent, record in zip(before, first_sent, answers, strict=False)
    ]


class Use(NamedTuple):
    """The reranker's CPU use."""

    cores: float
    """Cores in use, mean."""
    throttled: float | None
    """Fraction of the time in which it was throttled; None when not reported."""


def cpu_use(run: Run) -> Use | None:
    """CPU in use and throttled, over the whole run; None without two samples."""
    used = [(s.t, s.cpu_ns) for s in run.samples if s.cpu_ns is not None]
    held = [(s.t, s.throttled_ns) for s in run.samples if s.throttled_ns is not None]
    cores, throttled = _growth(used), _growth(held)
    return None if cores is None else Use(cores, throttled)


def _growth(values: list[tuple[int, int]]) -> float | None:
    if len(values) < 2 or values[-1][0] <= values[0][0]:
        return None
    grown = sum(max(0, high - low) for (_, low), (_, high) in pairwise(values))
    return grown / (values[-1][0] - values[0][0])


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
    memory = tuple((t, y / _GIB) for t, y in levels_of(run, lambda s: s.memory_bytes))
    wanted = (
        TimeSeries("CPU (cores)", "in use", growth_of(run, lambda s: s.cpu_ns)),
        TimeSeries("CPU (cores)", "throttled", growth_of(run, lambda s: s.throttled_ns)),
        TimeSeries("memory (GiB)", "in use", memory),
        TimeSeries("documents", "running", levels_of(run, lambda s: s.running)),
        TimeSeries("documents", "waiting", levels_of(run, lambda s: s.waiting)),
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
    spans = [span for span in level_spans(run) if span.level == level]
    return [y for t, y in one.dots if any(span.start <= t <= span.end for span in spans)]


Dot = tuple[float, float]

_APART_NS = 500_000_000
"""Smallest distance of two samples of a counter."""
_KINDS = 7
_STEPS = 12


@dataclass(frozen=True)
class Series:
    """Points of one kind, and a line through their medians where sizes repeat."""

    name: str
    dots: tuple[Dot, ...]
    line: tuple[Dot, ...] = ()


@dataclass(frozen=True)
class Span:
    """A time span of a load level; seconds since the run's start."""

    level: str
    start: float
    end: float


def since_start(run: Run, t: int) -> float:
    """Seconds from the run's start to a moment on its clock."""
    return (t - run.info.started_ns) / 1e9


def calmest(run: Run) -> tuple[str, list[RequestRecord]]:
    """The measured level with the fewest clients, and its successful requests.

    Raises:
        BenchError: Nothing was measured.
    """
    for level in sorted(run.info.levels, key=lambda one: one.clients or math.inf):
        good = [r for r in run.measured if r.level == level.name and not r.error]
        if good:
            return level.name, good
    raise BenchError(
        f"{run.path} has no answered request",
        code="run-too-small",
        hint="record again; see its run.json for why",
        file=run.path,
    )


def by_size(
    records: list[RequestRecord],
    size: Callable[[RequestRecord], int],
    kind: Callable[[RequestRecord], int],
) -> list[Series]:
    """Latency against one size of the requests, a series for each value of the other.

    All requests are one series when the other size has many values.

    Args:
        records: Successful requests.
        size: Gives the value on the x axis.
        kind: Gives the other size, which names the series.
    """
    joined = len({size(record) for record in records}) <= _STEPS
    kinds = sorted({kind(record) for record in records})
    if len(kinds) > _KINDS:
        return [_series("all requests", [(size(r), r.latency) for r in records], joined=joined)]
    return [
        _series(str(value), [(size(r), r.latency) for r in records if kind(r) == value], joined=joined)
        for value in kinds
    ]


def _series(name: str, dots: list[Dot], *, joined: bool) -> Series:
    groups = defaultdict(list)
    for x, y in dots:
        groups[x].append(y)
    repeats = 1 < len(groups) <= len(dots) / 2
    line = tuple((x, median(groups[x])) for x in sorted(groups)) if joined and repeats else ()
    return Series(name, tuple(dots), line)


def level_spans(run: Run) -> list[Span]:
    """The trials of a run in time."""
    groups: dict[tuple[str, int, int], list[RequestRecord]] = defaultdict(list)
    for record in run.requests:
        groups[record.level, record.repeat, record.session].append(record)
    found = [
        Span(
            level,
            since_start(run, min(r.t_sched for r in group)),
            since_start(run, max(r.t_done for r in group)),
        )
        for (level, _, _), group in groups.items()
    ]
    return sorted(found, key=lambda span: span.start)


def levels_of(run: Run, value: Callable[[Sample], int | None]) -> tuple[Dot, ...]:
    """A gauge over time; samples without it are skipped."""
    values = [(sample.t, value(sample)) for sample in run.samples]
    return tuple((since_start(run, t), float(y)) for t, y in values if y is not None)


def growth_of(run: Run, value: Callable[[Sample], int | None]) -> tuple[Dot, ...]:
    """How fast a counter of nanoseconds rose, in seconds a second, so cores for CPU time.

    A counter that fell, as after a restart, leaves a gap. The Docker engine may return counters up to a
    second old, so of samples close to each other only the first is used.
    """
    known: list[tuple[int, int]] = []
    for sample in run.samples:
        count = value(sample)
        if count is not None and (not known or sample.t - known[-1][0] >= _APART_NS):
            known.append((sample.t, count))
    return tuple(
        (since_start(run, after), (high - low) / (after - before))
        for (before, low), (after, high) in pairwise(known)
        if after > before and high >= low
    )


_FOOTER_WIDTH = 125
"""Characters in a line of a chart's caption."""


def footer(run: Run, width: int = _FOOTER_WIDTH) -> str:
    """Caption of a chart: machine, model, image, run and substitutes.

    Args:
        run: The run.
        width: Characters in a line.
    """
    origin = run.info.provenance
    digest = origin.image_digest.removeprefix("sha256:")[:12]
    parts = (
        origin.machine,
        origin.model or run.info.model,
        f"image {digest}" if digest else origin.image,
        f"run {run.path.name}",
    )
    notes = (
        f"substitute model: {origin.model_is_stand_in}" if origin.model_is_stand_in else "",
        f"substitute client: {origin.client_is_stand_in}" if origin.client_is_stand_in else "",
        "" if run.info.complete else f"incomplete: {run.info.reason}",
    )
    lines = (" · ".join(part for part in parts if part), "; ".join(note for note in notes if note))
    return "\n".join(part for line in lines for part in textwrap.wrap(line, width))
