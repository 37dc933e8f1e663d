"""Percentiles and their exact confidence intervals."""

from __future__ import annotations

import math
import random
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops.checks.latency import Percentile, interval_ranks, needed, percentile, seconds


@pytest.mark.parametrize(("share", "fewest"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368), (0.999, 3688)])
def test_fewest_samples(share, fewest):
    assert needed(share) == fewest
    assert interval_ranks(fewest - 1, share) is None
    assert interval_ranks(fewest, share) == (interval_ranks(fewest, share)[0], fewest)


@given(st.integers(6, 300), st.sampled_from([0.5, 0.9, 0.95]))
def test_interval_is_the_narrowest_with_its_confidence(n, share):
    """Against sums of exact binomial terms."""
    ranks = interval_ranks(n, share)
    if ranks is None:
        return
    low, high = ranks

    def at_most(k):
        return math.fsum(comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(k + 1))

    assert at_most(low - 1) <= 0.025 < at_most(low) + 1e-9
    assert 1 - at_most(high - 1) <= 0.025 + 1e-9
    assert 1 - at_most(high - 2) > 0.025 - 1e-9


def test_intervals_hold_the_true_percentile_often_enough():
    chance = random.Random(1)  # noqa: S311
    true = -math.log(1 - 0.9)
    draws = (percentile([chance.expovariate(1) for _ in range(60)], 0.9) for _ in range(1000))
    held = sum(found.low <= true <= found.high for found in draws)
    assert held >= 930


def test_percentile_is_a_nearest_rank():
    times = [float(number) for number in range(100, 0, -1)]
    assert percentile(times, 0.5).value == 50
    assert percentile(times, 0.95).value == 95
    assert percentile(times, 0.95).low < 95 < percentile(times, 0.95).high


def test_too_few_requests_are_reported():
    found = percentile([1.0] * 120, 0.99)
    assert str(found) == "needs 368 requests, has 120"
    assert found == Percentile(0.99, 120)
    assert percentile([], 0.5).value is None


def test_failed_requests_are_the_slowest():
    found = percentile([0.5] * 60 + [math.inf] * 20, 0.9)
    assert math.isinf(found.value)
    assert str(found) == "failed"
    assert percentile([0.5] * 60 + [math.inf] * 20, 0.5).value == 0.5


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.8431, 0.78, 0.9388), "0.843 s [0.780, 0.939]"),
        ((1.444, 0.95, 12.71), "1.44 s [0.950, 12.7]"),
        ((0.0123, 0.0009, 0.1), "12.3 ms [0.900, 100]"),
        ((9.8, 9.5, math.inf), "9.80 s [9.50, failed]"),
    ],
)
def test_a_percentile_has_one_unit(values, text):
    assert str(Percentile(0.95, 100, *values)) == text


def test_times_have_three_digits_and_a_unit():
    assert [seconds(t) for t in (12.345, 1.5, 0.0123456, 0.0005, 123.4, 0.0)] == [
        "12.3 s",
        "1.50 s",
        "12.3 ms",
        "0.500 ms",
        "123 s",
        "0 ms",
    ]
    assert percentile([1.0] * 10, 0.5).name == "p50"
    assert Percentile(0.999, 1).name == "p99.9"
