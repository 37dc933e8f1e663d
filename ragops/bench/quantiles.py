"""Percentiles with distribution-free confidence intervals; pure.

The interval is that of order statistics: the number of n requests below a percentile is binomial. It is
exact, and needs no scipy, as ``ragops verify`` uses it without the extra ``bench``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

CONFIDENCE = 0.95
"""Coverage of the intervals, at least."""

_TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Percentile:
    """A percentile of n times in seconds, with its interval; infinite where requests failed.

    All three numbers are None when there are fewer than :attr:`needed` requests.
    """

    share: float
    """0.95 for p95."""
    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def needed(self) -> int:
        """Fewest requests for which the interval has two finite ends."""
        return needed(self.share)

    @property
    def name(self) -> str:
        """Such as ``p95``."""
        return f"p{self.share * 100:g}"

    def __str__(self) -> str:
        """The time with its interval, or why there is none."""
        if self.value is None or self.low is None or self.high is None:
            return f"n/a (n={self.n} < {self.needed})"
        return f"{seconds(self.value)} ({seconds(self.low)} to {seconds(self.high)})"


def seconds(value: float) -> str:
    """A time with three digits and its unit; ``failed`` for an infinite one."""
    if math.isinf(value):
        return "failed"
    scaled, unit = (value, "s") if value >= 1 else (value * 1e3, "ms")
    digits = max(0, 2 - math.floor(math.log10(scaled))) if scaled > 0 else 0
    return f"{scaled:.{min(digits, 2)}f} {unit}"


def needed(share: float) -> int:
    """Fewest samples for an interval of two finite ends: p50 6, p90 36, p95 72, p99 368."""
    return math.ceil(math.log(_TAIL) / math.log(max(share, 1 - share)))


def share_at_least(n: int) -> float:
    """Lower confidence bound of the fraction of requests that fit, when each of n did.

    All n fit with probability ``share ** n``; this is the share at which that is 0.05.
    """
    return (1 - CONFIDENCE) ** (1 / n) if n else 0.0


@lru_cache(maxsize=4096)
def interval_ranks(n: int, share: float) -> tuple[int, int] | None:
    """Ranks, counted from 1, between which the percentile lies with the confidence.

    Args:
        n: Number of samples.
        share: Share below the percentile, between 0 and 1.

    Returns:
        The narrowest pair with at most half of alpha on either side; None when n is too small.
    """
    if n < needed(share):
        return None
    below = _cumulative(n, share)
    low = max(rank for rank in range(1, n + 1) if below[rank - 1] <= _TAIL)
    high = min(rank for rank in range(1, n + 1) if 1 - below[rank - 1] <= _TAIL)
    return low, high


def percentile(times: list[float], share: float) -> Percentile:
    """A percentile by nearest rank, with its interval.

    Args:
        times: Seconds in any order; ``inf`` for a request that failed.
        share: 0.95 for p95.
    """
    ranks = interval_ranks(len(times), share)
    if ranks is None:
        return Percentile(share, len(times))
    ordered = sorted(times)
    middle = max(1, math.ceil(share * len(times) - 1e-9))
    return Percentile(share, len(times), ordered[middle - 1], ordered[ranks[0] - 1], ordered[ranks[1] - 1])


def _cumulative(n: int, share: float) -> list[float]:
    """Probability that at most k of n samples are below the percentile, for k from 0 to n."""
    total = 0.0
    sums = []
    for k in range(n + 1):
        ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))
        sums.append(min(total, 1.0))
    return sums
