"""How sure is a ratio of two recorded runs: what was measured is drawn again, many times; pure.

The figures are functions of weights: a unit (a repeat, or a place in the workload) that was drawn
twice counts twice. ``compare.py`` says what a unit is and what the interval is good for.

The interval lies on the logarithm of the ratio. Its width is the standard error over the draws,
times Student's t, as few units spread less than they should.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import stdev
from typing import NamedTuple

DRAWS = 500
"""Enough for a standard error that is right within some percent."""

Weights = Sequence[int]
"""How often each unit counts."""
Figure = Callable[[Weights], float]


class Point(NamedTuple):
    """One answered request."""

    unit: int
    """Place of its repeat or of its request among the units."""
    documents: int
    seconds: float


@dataclass(frozen=True)
class Interval:
    """The ends of a ratio's interval."""

    low: float
    high: float


def rate(points: Sequence[Point]) -> Figure:
    """Documents a second for each client: with clients that wait, they are busy all the time."""
    documents: dict[int, float] = defaultdict(float)
    seconds: dict[int, float] = defaultdict(float)
    for point in points:
        documents[point.unit] += point.documents
        seconds[point.unit] += point.seconds
    return lambda weights: _sum(documents, weights) / _sum(seconds, weights)


def share_below(points: Sequence[Point], share: float) -> Figure:
    """A percentile of the seconds, by nearest rank as in ``quantiles.py``."""
    ordered = sorted(points, key=lambda point: point.seconds)
    units = [point.unit for point in ordered]

    def figure(weights: Weights) -> float:
        counts = list(accumulate(map(weights.__getitem__, units)))
        return ordered[bisect_left(counts, max(1, math.ceil(share * counts[-1] - 1e-9)))].seconds

    return figure


def interval(
    figures: tuple[Figure, Figure], units: tuple[int, int], *, paired: bool, doubt: float, seed: int
) -> Interval:
    """The interval of figure B divided by figure A.

    Args:
        figures: Of run A, and of run B.
        units: How many units each has; two or more.
        paired: Draw the same units in both, as they stand for the same requests.
        doubt: Share of such intervals that may miss the true ratio, 0.05 for 95 %.
        seed: Seed of the draws.
    """
    a, b = figures
    chance = random.Random(seed)  # noqa: S311 - a repeatable bootstrap, no secret
    logs = []
    for _ in range(DRAWS):
        first = _draw(chance, units[0])
        second = first if paired else _draw(chance, units[1])
        logs.append(math.log(b(second) / a(first)))
    few = min(units)
    spread = stdev(logs) * math.sqrt(few / (few - 1)) * student(1 - doubt / 2, few - 1)
    middle = math.log(b([1] * units[1]) / a([1] * units[0]))
    return Interval(math.exp(middle - spread), math.exp(middle + spread))


def student(share: float, degrees: int) -> float:
    """Quantile of Student's t, by halving; ``student(0.975, 4)`` is 2.776.

    Args:
        share: Above one half.
        degrees: Degrees of freedom, a whole number.
    """
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_below(middle, degrees) < share else (low, middle)
    return high


def _student_below(t: float, degrees: int) -> float:
    """Chance that Student's t is below; the finite sum for whole degrees (Abramowitz and Stegun, 26.7)."""
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term = math.sin(angle) * (math.cos(angle) if odd else 1.0)
    total = 0.0 if degrees == 1 else term
    for step in range(2 + odd, degrees, 2):
        term *= math.cos(angle) ** 2 * (step - 1) / step
        total += term
    within = 2 / math.pi * (angle + total) if odd else total
    return (1 + within) / 2


def more_failed(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Chance of so many failures in B or more if both runs fail alike (Fisher's exact test, one side).

    Args:
        a: Failed requests of run A, and all of them.
        b: The same of run B.
    """
    failed, total = a[0] + b[0], a[1] + b[1]
    ways = sum(
        math.comb(b[1], count) * math.comb(a[1], failed - count)
        for count in range(b[0], min(failed, b[1]) + 1)
        if failed - count <= a[1]
    )
    return ways / math.comb(total, failed)


def _draw(chance: random.Random, units: int) -> list[int]:
    weights = [0] * units
    for unit in chance.choices(range(units), k=units):
        weights[unit] += 1
    return weights


def _sum(values: dict[int, float], weights: Weights) -> float:
    return sum(value * weights[unit] for unit, value in values.items())
