"""The data of the plots, without matplotlib; pure."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from ragops.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ragops.bench.records import RequestRecord, Run, Sample

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


def spans(run: Run) -> list[Span]:
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
