"""Rank agreement against values calculated by hand."""

import math

import pytest

from ragops.bench.compare import agreement, kendall_tau
from ragops.errors import BenchError


def test_one_swapped_pair_of_four():
    # 6 pairs, 5 concordant, 1 discordant
    found = agreement([[0.9, 0.5, 0.4, 0.1]], [[0.9, 0.4, 0.5, 0.1]])
    assert found.kendall_tau == pytest.approx(4 / 6)
    assert found.top1 == 1.0
    assert found.max_difference == pytest.approx(0.1)
    assert found.rankings == 1


def test_rankings_are_averaged():
    found = agreement([[0.9, 0.1], [0.9, 0.1]], [[0.8, 0.2], [0.2, 0.8]])
    assert (found.kendall_tau, found.top1, found.rankings) == (0.0, 0.5, 2)
    assert found.max_difference == pytest.approx(0.7)


def test_ties_count_as_tau_b_does():
    # 3 pairs; the first side has one tie: 2 concordant / sqrt(2 * 3)
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))


def test_constant_scores_agree_only_with_constant_scores():
    assert kendall_tau([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]) == 0.0
    assert kendall_tau([0.5, 0.5, 0.5], [0.1, 0.1, 0.1]) == 1.0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([], []),
        ([[1.0]], [[1.0]]),
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]]),
        ([[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]]),
        ([[1.0, math.nan]], [[1.0, 2.0]]),
    ],
)
def test_scores_of_different_requests_are_refused(a, b):
    with pytest.raises(BenchError):
        agreement(a, b)
