"""Estimated times of request sizes that were not measured; pure.

A linear fit of time against tokens through requests that were sent one at a time, and the residuals
of those requests. ``verdict.py`` and ``checks/budget.py`` report the results.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import StatisticsError, fmean, linear_regression
from typing import TYPE_CHECKING

from ragops.bench.quantiles import seconds

if TYPE_CHECKING:
    from ragops.bench.records import RequestRecord
    from ragops.bench.workload import Workload

MARGIN = 0.10
"""An estimated time must be below a limit by this fraction to be within it."""

MOST = 1000
"""Largest number of documents that is estimated."""

_MIN_REQUESTS = 6
_Z95 = 1.96


@dataclass(frozen=True)
class ServiceTime:
    """A request takes ``fixed_s + per_token_s * tokens``; least squares over single requests."""

    fixed_s: float
    per_token_s: float
    residual_s: float
    """Standard error of the fit in seconds."""
    n: int
    fixed_error_s: float = 0.0
    """Half the 95 % interval of ``fixed_s``."""
    per_token_error_s: float = 0.0
    """Half the 95 % interval of ``per_token_s``."""

    def seconds(self, tokens: float) -> float:
        """Expected seconds of a request with this number of tokens."""
        return self.fixed_s + self.per_token_s * tokens

    def __str__(self) -> str:
        """The fitted line with its error."""
        fixed = f"{self.fixed_s:.3f} ± {self.fixed_error_s:.3f} s"
        slope = f"{self.per_token_s * 1e3:.3g} ± {self.per_token_error_s * 1e3:.2g} ms a token"
        return f"t = {fixed} + {slope}, residual {seconds(self.residual_s)}, n={self.n}"


@dataclass(frozen=True)
class FittedRequests:
    """Successful requests that were sent one at a time, and the line through them."""

    line: ServiceTime
    tokens: tuple[int, ...]
    documents: tuple[int, ...]
    times: tuple[float, ...]

    @property
    def tokens_per_document(self) -> float:
        """Mean tokens of a query and a document together."""
        return sum(self.tokens) / sum(self.documents)

    def scaled_to(self, documents: int) -> list[float]:
        """Estimated seconds of these requests with another number of documents of the same lengths.

        A residual grows in proportion to the size, and shrinks only with its square root: a part of it
        comes from the machine.
        """
        times = []
        for tokens, count, time in zip(self.tokens, self.documents, self.times, strict=True):
            factor = documents / count
            residual = time - self.line.seconds(tokens)
            times.append(self.line.seconds(tokens * factor) + residual * max(math.sqrt(factor), factor))
        return times


def fit_requests(records: list[RequestRecord]) -> tuple[FittedRequests | None, str]:
    """The line of time against tokens with its requests, or None and the reason.

    Args:
        records: Requests that were sent one at a time, so that none waited for another.
    """
    if failed := sum(bool(record.error) for record in records):
        return None, f"{failed} of {len(records)} requests failed"
    good = [record for record in records if record.tokens]
    if len(good) < _MIN_REQUESTS:
        return None, f"only {len(good)} responses with a count of tokens"
    tokens = tuple(record.tokens or 0 for record in good)
    times = tuple(record.service for record in good)
    try:
        slope, start = linear_regression(tokens, times)
    except StatisticsError:
        return None, "all requests have the same number of tokens"
    if slope <= 0:
        return None, "time does not rise with tokens"
    line = _with_errors(start, slope, tokens, times)
    return FittedRequests(line, tokens, tuple(record.documents for record in good), times), ""


def _with_errors(
    start: float, slope: float, tokens: tuple[int, ...], times: tuple[float, ...]
) -> ServiceTime:
    n, mean = len(tokens), fmean(tokens)
    squares = sum((t - start - slope * count) ** 2 for count, t in zip(tokens, times, strict=True))
    residual = math.sqrt(squares / (n - 2))
    deviation = math.sqrt(sum((count - mean) ** 2 for count in tokens))
    return ServiceTime(
        fixed_s=start,
        per_token_s=slope,
        residual_s=residual,
        n=n,
        fixed_error_s=_Z95 * residual * math.sqrt(1 / n + (mean / deviation) ** 2),
        per_token_error_s=_Z95 * residual / deviation,
    )


def largest_window(fitted: FittedRequests, quantile: float, budget: float) -> int:
    """Most documents a request, of the measured lengths, that end in time; 0 if not even one does.

    Args:
        fitted: From :func:`fit_requests`.
        quantile: Fraction of requests that must end in time, such as 0.95.
        budget: The caller's timeout in seconds.
    """
    rank = max(1, math.ceil(quantile * len(fitted.times) - 1e-9))
    low, high = 0, MOST + 1
    while high - low > 1:
        middle = (low + high) // 2
        if sorted(fitted.scaled_to(middle))[rank - 1] * (1 + MARGIN) <= budget:
            low = middle
        else:
            high = middle
    return low


def affordable(records: list[RequestRecord], workload: Workload, seconds: float, *, fewest: int = 12) -> int:
    """How many requests of a workload end in a time, sent one after the other.

    Their estimated time is that of the largest measured request, in proportion to their words.

    Args:
        records: Requests that were sent one at a time, such as those of a grid of sizes.
        workload: What is to be sent; no more than it has.
        seconds: The time.
        fewest: Lower bound of the result.
    """
    requests = workload.requests
    good = [record for record in records if not record.error]
    if not good:
        return fewest
    largest = max(record.documents * record.words for record in good)
    times = [record.service for record in good if record.documents * record.words == largest]
    words = fmean(len(request.documents) * request.words for request in requests)
    return min(len(requests), max(fewest, int(seconds / (fmean(times) * words / largest))))
