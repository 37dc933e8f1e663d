"""What a reranker would do under other sizes and more callers, worked out from what it did; pure.

Everything stands on one line, time against tokens, through requests that were sent one at a time,
and on how far single requests lay off it. ``verdict.py`` says what comes out.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import NormalDist, StatisticsError, fmean, linear_regression, pstdev
from typing import TYPE_CHECKING

from ragops.bench.quantiles import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from ragops.bench.records import RequestRecord
    from ragops.bench.workload import Workload

MARGIN = 0.10
"""What is predicted must lie this far below a limit to be called within it."""

FEWEST = 6
"""Requests without which nothing is worked out."""
_DRAWS = 4000
_FEW = 30
_TWO_SIDED = 1.96
MOST = 1000
"""Callers and windows beyond this are not told apart."""


@dataclass(frozen=True)
class ServiceTime:
    """A request takes ``fixed_s + per_token_s * tokens``; least squares over single requests."""

    fixed_s: float
    per_token_s: float
    residual_s: float
    """Standard error of the fit in seconds: how far off it is, as a rule."""
    n: int
    fixed_error_s: float = 0.0
    """Half the 95 % interval of ``fixed_s``."""
    per_token_error_s: float = 0.0
    """Half the 95 % interval of ``per_token_s``."""

    def seconds(self, tokens: float) -> float:
        """Expected seconds of a request of so many tokens."""
        return self.fixed_s + self.per_token_s * tokens

    def __str__(self) -> str:
        """The fitted line with its error."""
        fixed = f"{self.fixed_s:.3f} ± {self.fixed_error_s:.3f} s"
        slope = f"{self.per_token_s * 1e3:.3g} ± {self.per_token_error_s * 1e3:.2g} ms a token"
        return f"t = {fixed} + {slope}, residual {seconds(self.residual_s)}, n={self.n}"


@dataclass(frozen=True)
class Calls:
    """Answered requests that were sent one at a time, and the line through them."""

    line: ServiceTime
    tokens: tuple[int, ...]
    documents: tuple[int, ...]
    times: tuple[float, ...]

    @property
    def tokens_per_document(self) -> float:
        """Mean tokens of a query and a document together."""
        return sum(self.tokens) / sum(self.documents)

    def stretched(self, factors: list[float]) -> list[float]:
        """Seconds that these requests would take with so many times their tokens.

        What a request lay off the line grows with it, and shrinks with the root alone: some of it is of
        the machine, not of the request.
        """
        rows = zip(self.tokens, self.times, factors, strict=True)
        return [
            self.line.seconds(tokens * factor)
            + (time - self.line.seconds(tokens)) * max(math.sqrt(factor), factor)
            for tokens, time, factor in rows
        ]


def calls(records: list[RequestRecord]) -> tuple[Calls | None, str]:
    """The line of time against tokens with its requests, or None and why there is none.

    Args:
        records: Requests that were sent one at a time, so that none waited for another.
    """
    if failed := sum(bool(record.error) for record in records):
        return None, f"{failed} of {len(records)} requests failed, and nobody knows how long they would take"
    good = [record for record in records if record.tokens]
    if len(good) < FEWEST:
        return None, f"only {len(good)} answers with a count of tokens"
    tokens = tuple(record.tokens or 0 for record in good)
    times = tuple(record.service for record in good)
    try:
        slope, start = linear_regression(tokens, times)
    except StatisticsError:
        return None, "all requests have the same number of tokens"
    if slope <= 0:
        return None, "time does not rise with tokens"
    line = _with_errors(start, slope, tokens, times)
    return Calls(line, tokens, tuple(record.documents for record in good), times), ""


def _with_errors(
    start: float, slope: float, tokens: tuple[int, ...], times: tuple[float, ...]
) -> ServiceTime:
    n, mean = len(tokens), fmean(tokens)
    squares = sum((t - start - slope * count) ** 2 for count, t in zip(tokens, times, strict=True))
    residual = math.sqrt(squares / (n - 2))
    spread = math.sqrt(sum((count - mean) ** 2 for count in tokens))
    return ServiceTime(
        fixed_s=start,
        per_token_s=slope,
        residual_s=residual,
        n=n,
        fixed_error_s=_TWO_SIDED * residual * math.sqrt(1 / n + (mean / spread) ** 2),
        per_token_error_s=_TWO_SIDED * residual / spread,
    )


def affordable(records: list[RequestRecord], workload: Workload, seconds: float, *, fewest: int = 12) -> int:
    """How many requests of a workload end in a time, sent one after the other.

    Its requests take as long as the largest that was seen, in proportion to their words.

    Args:
        records: Requests that were sent one at a time, such as those of a run of sizes.
        workload: What is to be sent; no more than it has.
        seconds: The time.
        fewest: No fewer, however long they take.
    """
    requests = workload.requests
    answered = [record for record in records if not record.error]
    if not answered:
        return fewest
    largest = max(record.documents * record.words for record in answered)
    times = [record.service for record in answered if record.documents * record.words == largest]
    each = fmean(len(one.documents) * one.words for one in requests)
    return min(len(requests), max(fewest, int(seconds / (fmean(times) * each / largest))))


def largest_window(found: Calls, share: float, budget: float) -> int:
    """Most documents a call, of the lengths that were measured, that end in time.

    Args:
        found: From :func:`calls`.
        share: Share of calls that must, such as 0.95.
        budget: Seconds that the caller waits.
    """

    def fits(documents: int) -> bool:
        factors = [documents / each for each in found.documents]
        return _within(found.stretched(factors), share, budget)

    return _largest(fits, MOST)


def largest_chunk(found: Calls, share: float, budget: float, *, now: int, most: int, fixed: float) -> int:
    """Largest chunk size with which the measured windows end in time.

    Args:
        found: From :func:`calls`.
        share: As for :func:`largest_window`.
        budget: As for :func:`largest_window`.
        now: Chunk size of what was measured, in RAGFlow's tokens.
        most: The largest that is asked for.
        fixed: Tokens of a pair that are no chunk: the query and the score template.
    """
    each = found.tokens_per_document

    def fits(size: int) -> bool:
        factor = (fixed + (each - fixed) * size / now) / each
        return _within(found.stretched([factor] * len(found.times)), share, budget)

    return _largest(fits, most)


def most_callers(times: list[float], share: float, budget: float, *, gain: float = 1.0) -> int:
    """Most callers that may ask at once, each back to back, so that their calls end in time.

    A call waits for one of each other caller: vLLM takes documents in the order in which they came.

    Args:
        times: Seconds of calls that were sent one at a time.
        share: As for :func:`largest_window`.
        budget: As for :func:`largest_window`.
        gain: How much more work gets done when several ask at once, as measured.
    """
    chance = random.Random(1)  # noqa: S311 - a repeatable draw, no secret
    mean, spread = fmean(times), pstdev(times)

    def fits(callers: int) -> bool:
        if callers > _FEW:
            top = mean * callers + NormalDist().inv_cdf(share) * spread * math.sqrt(callers)
            return top * (1 + MARGIN) <= budget * gain
        sums = [sum(chance.choices(times, k=callers)) / gain for _ in range(_DRAWS)]
        return _within(sums if callers > 1 else times, share, budget)

    return _largest(fits, MOST)


def _within(times: list[float], share: float, budget: float) -> bool:
    ordered = sorted(times)
    rank = max(1, math.ceil(share * len(ordered) - 1e-9))
    return ordered[rank - 1] * (1 + MARGIN) <= budget


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Largest whole number up to ``most`` that fits, where all smaller ones do too; 0 if none does."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
