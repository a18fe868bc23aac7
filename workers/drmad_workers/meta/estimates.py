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
    variance = noise.deviation**2
    centre = (width - 1) / 2.0
    lag = 0.0
    if width > 1:
        squares = width * (width * width - 1) / 12.0
        slope = math.fsum((i - centre) * value for i, value in enumerate(used)) / squares
        lag = max(0.0, slope * slope - variance / squares) * centre * centre
    return Estimate(mean, math.sqrt(variance / width + lag), noise.freedom, width)


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
