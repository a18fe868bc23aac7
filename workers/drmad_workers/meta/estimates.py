"""Estimates from noisy validation losses: their noise, the smoothed loss, intervals for means.

Every meta-iteration draws initial weights and minibatches anew, so its loss is one draw. The lowest
of many draws is the luckiest one. Estimates average draws, and say how far they may be off.

[GN1997]: Goldenshluger, Nemirovski. On spatially adaptive estimation of nonparametric regression.
Mathematical Methods of Statistics 6, 1997: the widest window whose mean agrees with those of all
narrower windows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from drmad_client.student import quantile

SMOOTHING_WINDOW = 8
"""The most losses that a smoothed loss averages."""

RETRAININGS = 10
"""The number of retrainings for whose mean an interval of confirmed figures is made."""

_AGREEMENT = 2.5
"""The standard errors of a difference by which two means of nested windows still agree."""


@dataclass(frozen=True)
class Noise:
    """The standard deviation of one draw, and the degrees of freedom of its estimate."""

    deviation: float
    freedom: float


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error, and the degrees of freedom of that (0: it is unknown)."""

    mean: float
    error: float
    freedom: float
    draws: int

    def interval(self) -> tuple[float | None, float | None]:
        """The confidence interval at 95 % by Student's t; None where the error is unknown."""
        if not self.freedom:
            return None, None
        half = quantile(self.freedom) * self.error
        return self.mean - half, self.mean + half


def noise_of(values: Sequence[float]) -> Noise | None:
    """The noise of consecutive draws, by their second differences; None for fewer than three.

    A second difference x_t - 2 x_{t-1} + x_{t-2} has the variance 6 σ² whatever the slope of the
    trend. N overlapping ones are worth N² / (N + 8/9 (N - 1) + 1/18 (N - 2)) degrees of freedom.
    """
    count = len(values) - 2
    if count < 1:
        return None
    squares = math.fsum(
        (values[i] - 2.0 * values[i + 1] + values[i + 2]) ** 2 for i in range(count)
    )
    overlap = count + 8.0 / 9.0 * (count - 1) + max(0, count - 2) / 18.0
    return Noise(math.sqrt(squares / (6.0 * count)), count * count / overlap)


def smoothed(values: Sequence[float], noise: Noise | None) -> Estimate:
    """The level of the last of the values: the mean of the last w of them [GN1997].

    w is the largest number up to SMOOTHING_WINDOW for which the means of the last 1, 2, ..., w
    values agree: each differs from the wider ones by at most 2.5 standard errors of the difference,
    σ √(1/v - 1/w). Where the values fall fast against their noise, w is small. A slope that passes
    unnoticed makes the mean lag; the error √(σ²/w + lag²) counts what of it shows in the window.
    """
    if noise is None:
        return Estimate(values[-1], 0.0, 0.0, 1)
    means: list[float] = []
    for width in range(1, min(len(values), SMOOTHING_WINDOW) + 1):
        mean = math.fsum(values[-width:]) / width
        if any(
            abs(narrow - mean) > _AGREEMENT * noise.deviation * math.sqrt(1.0 / v - 1.0 / width)
            for v, narrow in enumerate(means, start=1)
        ):
            break
        means.append(mean)
    return level_of(values, len(means), noise)


def level_of(values: Sequence[float], width: int, noise: Noise | None) -> Estimate:
    """The mean of the last `width` values, with the error of `smoothed`."""
    used = values[-width:]
    width = len(used)
    mean = math.fsum(used) / width
    if noise is None:
        return Estimate(mean, 0.0, 0.0, width)
    error = math.hypot(noise.deviation / math.sqrt(width), _lag(used, noise))
    return Estimate(mean, error, noise.freedom, width)


def upper_bound(values: Sequence[float], width: int, noise: Noise) -> float:
    """A bound that the level of the last of the values exceeds in about 2 % of the cases.

    It is the median of the last `width` values with two standard errors, σ √(π/2 / width) each: one
    value far off does not move the median as it moves the mean. Where the values rise, the median
    lags behind them and the lag counts as in `smoothed`. Where they fall, the level is below the
    median and the lag leaves it a bound: counted, it would bar the last of steadily falling values.
    """
    used = values[-width:]
    rising = _slope(used) > 0.0
    deviation = noise.deviation * math.sqrt(math.pi / 2.0 / len(used))
    return median(used) + 2.0 * math.hypot(deviation, _lag(used, noise) if rising else 0.0)


def isolated(values: Sequence[float], width: int) -> bool:
    """Whether the last of the values is far below what the ones before it foretell.

    The line through the `width` values before it is continued by one value. The last one is
    isolated where it is below the line by more than three standard errors of such a prediction,
    σ √(1 + 1/w + ((w + 1)/2)² / Σ (i - (w - 1)/2)²), with the noise of the values before it.
    Fewer than five values before it know too little of their noise, and nothing is isolated.
    """
    before = values[:-1]
    noise = noise_of(before)
    if noise is None or len(before) < 5:
        return False
    used = before[-max(width, 3) :]
    distance = (len(used) + 1) / 2.0
    foretold = math.fsum(used) / len(used) + distance * _slope(used)
    error = math.sqrt(1.0 + 1.0 / len(used) + distance**2 / _squares(len(used)))
    rounding = 1e-9 * abs(foretold)
    return values[-1] < foretold - 3.0 * noise.deviation * error - rounding


def _slope(values: Sequence[float]) -> float:
    """The slope of the line through the values, per value; 0 for a single one."""
    centre = (len(values) - 1) / 2.0
    products = math.fsum((i - centre) * value for i, value in enumerate(values))
    return products / _squares(len(values)) if len(values) > 1 else 0.0


def _squares(width: int) -> float:
    """The sum of the squared distances of 0, ..., width - 1 from their mean."""
    return width * (width * width - 1) / 12.0


def _lag(values: Sequence[float], noise: Noise) -> float:
    """How far the level of the last value is from the mean of all, beyond what noise explains."""
    width = len(values)
    if width < 2:
        return 0.0
    excess = _slope(values) ** 2 - noise.deviation**2 / _squares(width)
    return math.sqrt(max(0.0, excess)) * (width - 1) / 2.0


def mean_of_draws(values: Sequence[float], known: Noise | None = None) -> Estimate:
    """The mean of fresh draws, as a prediction of the mean of RETRAININGS further ones.

    The error is s √(1/m + 1/n) for m draws and n = RETRAININGS. s² pools the variance of the draws
    with `known`, the noise of other draws, each weighed by its degrees of freedom.
    """
    count = len(values)
    mean = math.fsum(values) / count
    squares, freedom = math.fsum((value - mean) ** 2 for value in values), count - 1.0
    if known is not None:
        squares += known.freedom * known.deviation**2
        freedom += known.freedom
    if freedom < 1.0:
        return Estimate(mean, 0.0, 0.0, count)
    error = math.sqrt(squares / freedom * (1.0 / count + 1.0 / RETRAININGS))
    return Estimate(mean, error, freedom, count)
