"""The mean of a few figures with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""97.5 % quantiles of Student's t distribution with 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its interval at 95 % by Student's t distribution.

    Attributes:
        count: the number of figures; a single one has no interval.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


def mean_interval(figures: Sequence[float]) -> MeanInterval | None:
    """The mean of finite figures and its interval; None without any figure."""
    count = len(figures)
    if count == 0:
        return None
    mean = fmean(figures)
    if count == 1:
        return MeanInterval(mean, None, None, 1)
    half = student_quantile(count - 1) * stdev(figures) / sqrt(count)
    return MeanInterval(mean, mean - half, mean + half, count)


def student_quantile(degrees: int) -> float:
    """The 97.5 % quantile; beyond the table within 0.003 of it."""
    if degrees <= len(_QUANTILES):
        return _QUANTILES[degrees - 1]
    return 1.96 + 2.45 / degrees
