"""Knee, grid of sizes, stalls and CPU use of a recorded run; pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import mean, median, quantiles
from typing import TYPE_CHECKING, NamedTuple

from ragops.bench import series, stats
from ragops.bench.series import Span

if TYPE_CHECKING:
    from ragops.bench.level import Level
    from ragops.bench.records import RequestRecord, Run
    from ragops.bench.stats import LevelFigures

_STALL = 3.0
_FEWEST_WAITS = 10
_FEWEST_LEVELS = 3
_MOST_SIZES = 12


def load_name(level: Level) -> str:
    """A level in words: ``4 clients``, ``0.5/s at random``, ``2/s evenly`` or ``8 at once``."""
    words = {"poisson": "/s at random", "constant": "/s evenly", "burst": " at once"}
    clients = " client" if level.value == 1 else " clients"
    return f"{level.value:g}{words.get(level.kind, clients)}"


def words_for(run: Run, name: str) -> str:
    """The level of that name in words."""
    return next((load_name(level) for level in run.info.levels if level.name == name), name)


def by_load(run: Run) -> list[LevelFigures]:
    """The statistics of each level, from the lightest load of its kind to the heaviest."""
    return sorted(stats.figures(run), key=lambda row: (row.level.kind != "closed", row.level.value))


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
    level, good = series.calmest(run)
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
                Span(level, series.since_start(run, begin), series.since_start(run, end))
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
