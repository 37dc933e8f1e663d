"""When is one launch faster than another, and are its scores the same; pure.

Both launches answer the same requests in turn, A B, then B A, within the same minutes. Each pair gives a
ratio of documents a second; the mean of their logarithms has an interval by Student's t. It is looked at
after each pair, and each look takes its share of the doubt (Bonferroni), so that looking often does not
find what is not there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from ragops.bench.resample import t_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

Decision = Literal["go on", "better", "worse", "same"]
Scores = tuple[tuple[float, ...], ...]
"""Of some queries, each with its documents in order."""

GAIN = 1.03
"""A change has to be faster by surely more than this: two starts of one launch differ by up to 3 %."""

TOLERANCE = 0.02
"""Largest difference of one score that is no change; bfloat16 moves scores by 0.003, int8 by 0.015."""

NEAR = 1.10
"""The launch without tuning should be within this ratio of the best that is found."""


@dataclass(frozen=True)
class Ratio:
    """Documents a second of one launch divided by another's, with its interval."""

    middle: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        """Such as ``1.23 (1.18 to 1.28)``."""
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Rule:
    """When to stop, and what to say then."""

    gain: float = GAIN
    doubt: float = 0.05
    """Share of wrong decisions at most, for all looks together."""
    least: int = 3
    """Pairs before the first look."""
    most: int = 8
    """Pairs after which it ends in any case."""

    def ratio(self, ratios: Sequence[float]) -> Ratio:
        """The ratio after so many pairs; two or more."""
        logs = [math.log(one) for one in ratios]
        share = self.doubt / (self.most - self.least + 1)
        spread = t_quantile(1 - share / 2, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
        middle = fmean(logs)
        return Ratio(math.exp(middle), math.exp(middle - spread), math.exp(middle + spread), len(logs))

    def decide(self, ratios: Sequence[float]) -> Decision:
        """Whether that is enough to tell.

        It ends as soon as the launch is surely faster by more than :attr:`gain`, or surely isn't.
        """
        if len(ratios) < self.least:
            return "go on"
        seen = self.ratio(ratios)
        if seen.low > self.gain:
            return "better"
        if seen.high < 1:
            return "worse"
        return "same" if seen.high < self.gain or len(ratios) >= self.most else "go on"
