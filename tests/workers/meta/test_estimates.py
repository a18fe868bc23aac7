"""Noise, smoothed levels and intervals against NumPy, SciPy and simulations."""

import math

import numpy as np
import pytest
from scipy import stats

from drmad_client.student import quantile
from drmad_workers.meta.estimates import RETRAININGS, Noise, mean_of_draws, noise_of, smoothed


@pytest.mark.parametrize("freedom", [1, 2, 5, 17, 30, 31, 60, 1000])
def test_quantiles_are_those_of_students_t(freedom: int) -> None:
    assert quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-3)


def test_quantiles_between_whole_numbers_fall() -> None:
    values = [quantile(freedom) for freedom in np.linspace(1.0, 40.0, 400)]
    assert values == sorted(values, reverse=True)
    assert quantile(math.inf) == pytest.approx(1.959964)


def test_noise_does_not_see_a_linear_trend() -> None:
    assert noise_of([1.0, 2.0]) is None
    draws = np.random.default_rng(0).normal(size=(4000, 16))
    found = [noise_of(list(row + 7.0 * np.arange(16))) for row in draws]
    squares = np.array([noise.deviation**2 for noise in found if noise is not None])
    assert squares.mean() == pytest.approx(1.0, abs=0.03)
    # A χ² over ν degrees of freedom, divided by ν, has the variance 2 / ν.
    assert found[0] is not None
    assert squares.var() == pytest.approx(2.0 / found[0].freedom, rel=0.1)


@pytest.mark.parametrize("slope", [0.0, 0.15])
def test_the_band_holds_the_level(slope: float) -> None:
    """At least 88 % of 500 bands at 95 %: the estimate of the noise, and the lag, cost some."""
    draws = np.random.default_rng(1).normal(size=(500, 16))
    levels = -slope * np.arange(16)
    inside, errors = 0, []
    for row in draws + levels:
        found = smoothed(list(row), noise_of(list(row)))
        low, high = found.interval()
        assert low is not None
        assert high is not None
        inside += low <= levels[-1] <= high
        errors.append(found.mean - levels[-1])
    assert inside >= 440
    assert np.sqrt(np.mean(np.square(errors))) < 0.8


def test_a_fall_is_followed_at_once() -> None:
    found = smoothed(losses := [2.0, 2.01, 1.99, 2.0, 2.01, 2.0, 1.0, 0.5], noise_of(losses))
    assert found.mean <= 1.0


@pytest.mark.parametrize("known", [None, Noise(1.0, 7.0)])
@pytest.mark.parametrize("draws", [2, 5])
def test_the_interval_holds_the_mean_of_ten_retrainings(draws: int, known: Noise | None) -> None:
    """95 % of 2,000 intervals, to within three standard errors of the share."""
    random = np.random.default_rng(2)
    inside = 0
    for _ in range(2000):
        noise = known
        if known is not None:
            deviation = math.sqrt(random.chisquare(known.freedom) / known.freedom)
            noise = Noise(deviation, known.freedom)
        found = mean_of_draws(list(random.normal(size=draws)), noise)
        low, high = found.interval()
        assert low is not None
        assert high is not None
        inside += low <= random.normal(size=RETRAININGS).mean() <= high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


def test_one_draw_of_unknown_noise_has_no_interval() -> None:
    assert mean_of_draws([0.5]).interval() == (None, None)
