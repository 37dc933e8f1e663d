"""Rank agreement of two servers, to be checked before their speeds are compared; needs scipy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from ragops.bench.resample import scipy_stats
from ragops.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Agreement:
    """Agreement of the scores of two servers over the same queries and documents."""

    kendall_tau: float
    """Mean of Kendall's tau-b over the rankings: 1 for the same order, -1 for the reverse."""
    top1: float
    """Fraction of rankings with the same document first."""
    max_difference: float
    """Largest difference of two scores of one document, in units of the scores."""
    rankings: int
    """Number of rankings compared."""

    def __str__(self) -> str:
        """One clause for a report."""
        return (
            f"Kendall's tau {self.kendall_tau:.3f}, same document first in {self.top1:.0%} "
            f"of {self.rankings} rankings, scores differ by at most {self.max_difference:.2g}"
        )


def agreement(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Agreement:
    """Compare the scores of two servers.

    Args:
        a: For each query the scores of its documents, in the order in which they were sent.
        b: The other server's, for the same queries and documents.

    Raises:
        BenchError: They are not of the same requests, a ranking has fewer than two documents, a score
            is not finite, or scipy is not installed.
    """
    sizes_a, sizes_b = [len(scores) for scores in a], [len(scores) for scores in b]
    if sizes_a != sizes_b or min(sizes_a, default=0) < 2:
        raise BenchError(
            "these scores are not comparable",
            code="runs-differ",
            evidence=f"documents of each ranking: {sizes_a} and {sizes_b}",
            hint="send both servers the same requests, with two documents or more in each",
        )
    if not all(math.isfinite(score) for side in (a, b) for scores in side for score in scores):
        raise BenchError("a score is not finite", code="order-wrong", hint="look at the log of the server")
    pairs = list(zip(a, b, strict=True))
    return Agreement(
        kendall_tau=fmean(kendall_tau(first, second) for first, second in pairs),
        top1=fmean(_top(first) == _top(second) for first, second in pairs),
        max_difference=max(abs(x - y) for pair in pairs for x, y in zip(*pair, strict=True)),
        rankings=len(pairs),
    )


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b; of constant scores, for which it is undefined, 1 if both are constant, else 0."""
    constant = [len(set(scores)) == 1 for scores in (a, b)]
    return float(all(constant)) if any(constant) else float(scipy_stats().kendalltau(a, b).statistic)


def _top(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)
