"""Do two servers sort alike? To be answered before it is told which of them is faster.

Plain arithmetic, without scipy: a ranking has tens of documents, and the extra ``bench`` stays small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from ragops.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Agreement:
    """How far the scores of two servers agree over the same questions."""

    kendall_tau: float
    """Mean of Kendall's tau-b over the rankings; 1 where all sort alike, -1 where all the other way round."""
    top1: float
    """Share of rankings with the same document first, between 0 and 1."""
    max_difference: float
    """Largest distance between two scores of one document, in units of the scores."""
    rankings: int
    """How many were compared."""

    def __str__(self) -> str:
        """One clause for a report."""
        return (
            f"Kendall's tau {self.kendall_tau:.3f}, same document first in {self.top1:.0%} "
            f"of {self.rankings} rankings, scores at most {self.max_difference:.2g} apart"
        )


def agreement(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Agreement:
    """Compare the scores of two servers.

    Args:
        a: For each question the scores of its documents, in the order in which they were sent.
        b: The other server's, for the same questions and documents.

    Raises:
        BenchError: They are not of the same questions, a ranking has fewer than two documents, or a score
            is no number.
    """
    shapes = [len(one) for one in a], [len(one) for one in b]
    if shapes[0] != shapes[1] or min(shapes[0], default=0) < 2:
        raise BenchError(
            "these scores can't be compared",
            evidence=f"documents of each ranking: {shapes[0]} and {shapes[1]}",
            hint="ask both servers the same questions, with two documents or more in each",
        )
    if not all(map(math.isfinite, (score for side in (a, b) for one in side for score in one))):
        raise BenchError("a score is no number", hint="a server that answers so is broken: look at its log")
    pairs = list(zip(a, b, strict=True))
    return Agreement(
        kendall_tau=sum(kendall_tau(one, other) for one, other in pairs) / len(pairs),
        top1=sum(_first(one) == _first(other) for one, other in pairs) / len(pairs),
        max_difference=max(abs(x - y) for one, other in pairs for x, y in zip(one, other, strict=True)),
        rankings=len(pairs),
    )


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b of two rankings of the same documents; ties count as neither.

    A server that gives every document one score sorts nothing: its tau is 0, or 1 where the other
    does so too.
    """
    both = list(combinations(zip(a, b, strict=True), 2))
    signs = [(_sign(one[0] - other[0]), _sign(one[1] - other[1])) for one, other in both]
    untied = [sum(sign[side] != 0 for sign in signs) for side in (0, 1)]
    if not all(untied):
        return float(untied[0] == untied[1])
    return sum(x * y for x, y in signs) / math.sqrt(untied[0] * untied[1])


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _first(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)
