"""Spearman's rank correlation and its interval, and means with theirs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from drmad_workers.validation.mean_interval import mean_interval, student_quantile
from drmad_workers.validation.rank_correlation import rank_correlation


@pytest.mark.parametrize("levels", [3, 1000])
def test_the_correlation_is_scipys_with_and_without_ties(levels: int) -> None:
    draw = np.random.default_rng(1)
    first = draw.integers(levels, size=40).astype(float)
    second = first + draw.integers(levels, size=40)
    found = rank_correlation(first.tolist(), second.tolist())
    assert found.value == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


def test_the_interval_holds_the_true_correlation_as_often_as_it_says() -> None:
    draw = np.random.default_rng(2)
    pearson = 0.7
    true = 6 / math.pi * math.asin(pearson / 2)  # Spearman's correlation of two normal variables
    inside = 0
    for _ in range(40):
        first = draw.normal(size=30)
        second = pearson * first + math.sqrt(1 - pearson**2) * draw.normal(size=30)
        found = rank_correlation(first.tolist(), second.tolist())
        assert found.low is not None
        assert found.high is not None
        assert found.value is not None
        assert found.low <= found.value <= found.high
        inside += found.low <= true <= found.high
    assert inside >= 34  # 38 expected; 33 or fewer have a probability of 1 %


def test_an_infinite_loss_ranks_last() -> None:
    found = rank_correlation([1.0, 2.0, 3.0, 4.0, 5.0], [0.1, 0.2, 0.3, 0.4, math.inf])
    assert found.value == pytest.approx(1.0)


@pytest.mark.parametrize("second", [[1.0, 1.0, 1.0], [7.0]])
def test_a_constant_or_a_single_pair_has_no_correlation(second: list[float]) -> None:
    assert rank_correlation([3.0, 1.0, 2.0][: len(second)], second).value is None


def test_few_pairs_have_no_interval_and_nan_is_refused() -> None:
    assert rank_correlation([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]).low is None
    with pytest.raises(ValueError, match="got nan"):
        rank_correlation([1.0, math.nan], [1.0, 2.0])


@pytest.mark.parametrize("degrees", [1, 3, 20, 21, 35, 100, 1000])
def test_the_quantile_of_student_is_scipys(degrees: int) -> None:
    assert student_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=3e-3)


def test_a_mean_has_the_interval_of_student() -> None:
    figures = [1.0, 2.0, 4.0, 8.0]
    found = mean_interval(figures)
    low, high = stats.t.interval(0.95, 3, np.mean(figures), stats.sem(figures))
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((3.75, low, high), rel=1e-3)
    assert mean_interval([]) is None
    single = mean_interval([2.0])
    assert single is not None
    assert (single.mean, single.low, single.count) == (2.0, None, 1)
