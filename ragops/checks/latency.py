"""Latencies of requests: percentiles with confidence intervals, and a linear fit against tokens; pure.

The interval is that of order statistics: the number of n requests below a percentile is binomial. It is
exact, and needs no scipy. ``checks/budget.py`` and :mod:`ragops.bench` use this module.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import StatisticsError, linear_regression


@dataclass(frozen=True)
class TimedCall:
    """One rerank request and its time."""

    documents: int
    service: float
    """Seconds from sending to the response."""
    tokens: int = 0
    """Prompt tokens that the server counted; 0 when it does not."""
    error: str = ""


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
        """The time with its interval in one unit, such as ``0.84 s [0.78, 0.94]``, or why there is none."""
        if self.value is None or self.low is None or self.high is None:
            return f"needs {self.needed} requests, has {self.n}"
        scale, unit = (1, "s") if self.value >= 0.1 else (1e3, "ms")
        value, low, high = (_three_digits(time * scale) for time in (self.value, self.low, self.high))
        return f"{value} {unit} [{low}, {high}]" if self.value < math.inf else "failed"


def seconds(value: float) -> str:
    """A time with three digits and its unit; ``failed`` for an infinite one."""
    scaled, unit = (value, "s") if value >= 1 else (value * 1e3, "ms")
    return "failed" if math.isinf(value) else f"{_three_digits(scaled)} {unit}"


def _three_digits(value: float) -> str:
    if math.isinf(value):
        return "failed"
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{min(digits, 3 if value < 1 else 2)}f}"


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
    """Ranks of n samples, counted from 1, between which the percentile lies with the confidence.

    The narrowest pair with at most half of alpha on either side; None when n is too small.
    """
    if n < needed(share):
        return None
    total, below = 0.0, []  # probability that at most k of n samples are below the percentile
    for k in range(n + 1):
        ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        total += math.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))
        below.append(min(total, 1.0))
    low = max(rank for rank in range(1, n + 1) if below[rank - 1] <= _TAIL)
    high = min(rank for rank in range(1, n + 1) if 1 - below[rank - 1] <= _TAIL)
    return low, high


def percentile(times: list[float], share: float) -> Percentile:
    """A percentile by nearest rank of times in any order, ``inf`` for a failed request; with its interval."""
    ranks = interval_ranks(len(times), share)
    if ranks is None:
        return Percentile(share, len(times))
    ordered = sorted(times)
    nearest = max(1, math.ceil(share * len(times) - 1e-9))
    return Percentile(share, len(times), ordered[nearest - 1], ordered[ranks[0] - 1], ordered[ranks[1] - 1])


def fits_in(value: Percentile, timeout: float) -> bool | None:
    """Whether the interval of a percentile is below the timeout, or above it; None when inconclusive."""
    if value.low is None or value.high is None:
        return None
    if value.high < timeout:
        return True
    return False if value.low >= timeout else None


MARGIN = 0.10
"""An estimated time must be below a limit by this fraction to be within it."""

MOST = 1000
"""Largest number of documents that is estimated."""

_MIN_REQUESTS = 6


@dataclass(frozen=True)
class ServiceTime:
    """A request takes ``fixed_s + per_token_s * tokens``; least squares over single requests."""

    fixed_s: float
    per_token_s: float
    residual_s: float
    """Standard error of the fit in seconds."""
    n: int

    def seconds(self, tokens: float) -> float:
        """Expected seconds of a request with this number of tokens."""
        return self.fixed_s + self.per_token_s * tokens

    def __str__(self) -> str:
        """The fitted line with its residual."""
        line = f"{self.fixed_s:.3f} s + {self.per_token_s * 1e3:.3g} ms a token"
        return f"t = {line}, residual {seconds(self.residual_s)}, n={self.n}"


def fit_requests(requests: Sequence[TimedCall]) -> tuple[ServiceTime | None, str]:
    """The line of time against tokens, or None and the reason.

    The requests were sent one at a time, so that none waited for another.
    """
    if failed := sum(bool(request.error) for request in requests):
        return None, f"{failed} of {len(requests)} requests failed"
    points = [(request.tokens, request.service) for request in requests if request.tokens]
    if len(points) < _MIN_REQUESTS:
        return None, f"only {len(points)} responses with a count of tokens"
    try:
        slope, start = linear_regression(*zip(*points, strict=True))
    except StatisticsError:
        return None, "all requests have the same number of tokens"
    if slope <= 0:
        return None, "time does not rise with tokens"
    squares = sum((time - start - slope * tokens) ** 2 for tokens, time in points)
    return ServiceTime(start, slope, math.sqrt(squares / (len(points) - 2)), len(points)), ""


def largest_window(line: ServiceTime, requests: Sequence[TimedCall], quantile: float, budget: float) -> int:
    """Most documents a request, of the measured lengths, that end in time; 0 if not even one does.

    In time is the fraction ``quantile`` of the ``requests`` of the line, such as 0.95, within ``budget``
    seconds.
    """
    # A residual grows in proportion to the size, and shrinks only with its square root: a part of it comes
    # from the machine.
    counted = [request for request in requests if request.tokens]
    rank = max(1, math.ceil(quantile * len(counted) - 1e-9))

    def estimated(documents: int) -> float:
        times = []
        for request in counted:
            factor, residual = documents / request.documents, request.service - line.seconds(request.tokens)
            times.append(line.seconds(request.tokens * factor) + residual * max(math.sqrt(factor), factor))
        return sorted(times)[rank - 1] * (1 + MARGIN)

    return bisect_right(range(1, MOST + 1), budget, key=estimated)


def contradiction(window: int, requests: Sequence[TimedCall], quantile: float, timeout: float) -> str:
    """How measured requests contradict an estimated window: smaller ones were late, or larger ones fit.

    Empty when they do not. ``quantile`` is the fraction of requests that has to end within the timeout.
    """
    times = [(request.documents, math.inf if request.error else request.service) for request in requests]
    within = [time for documents, time in times if documents <= window]
    late = sum(time > timeout for time in within)
    if late > (1 - quantile) * len(within):
        return f"{late} of {len(within)} requests with at most {window} documents were late or failed"
    beyond = percentile([time for documents, time in times if documents > window], quantile)
    return f"requests with more than {window} documents fit" if fits_in(beyond, timeout) else ""
