"""Spearman's rank correlation, with an interval by the bootstrap.

[Efron1979] Bootstrap methods: another look at the jackknife, Annals of Statistics 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95
LEAST = 5
"""The smallest number of pairs of which an interval is given."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of two sequences, in [-1, 1].

    Attributes:
        value: the correlation; None if one of the sequences is constant, or has one entry.
        low, high: the interval at LEVEL; None with fewer than LEAST pairs.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> RankCorrelation:
    """Spearman's rank correlation, and its percentile interval over RESAMPLES resamples of pairs.

    Equal entries share their mean rank. An entry of infinity ranks last. The resamples are drawn
    under a fixed seed.

    Raises:
        ValueError: the sequences differ in length, or hold a nan.
    """
    pairs = np.array([first, second], dtype=np.float64)
    if np.isnan(pairs).any():
        raise ValueError("both sequences must be numbers, got nan")
    count = pairs.shape[1]
    (value,) = _correlations(pairs[:, None, :])
    if np.isnan(value):
        return RankCorrelation(None)
    if count < LEAST:
        return RankCorrelation(float(value))
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    found = np.concatenate([_correlations(pairs[:, part]) for part in np.array_split(drawn, 10)])
    tail = 100.0 * (1.0 - LEVEL) / 2.0
    low, high = np.nanpercentile(found, [tail, 100.0 - tail])
    return RankCorrelation(float(value), float(low), float(high))


def _correlations(pairs: Array) -> Array:
    """Of (2, samples, count) the correlation of each sample, (samples,); nan where it has none."""
    ranks = _ranks(pairs)
    centred = ranks - ranks.mean(axis=-1, keepdims=True)
    products = (centred[0] * centred[1]).sum(axis=-1)
    scales = np.sqrt(np.square(centred).sum(axis=-1).prod(axis=0))
    found: Array = np.divide(
        products, scales, out=np.full_like(products, np.nan), where=scales > 0.0
    )
    return found


def _ranks(values: Array) -> Array:
    """The mean rank of every entry along the last axis, counted from 0."""
    below = (values[..., None, :] < values[..., :, None]).sum(axis=-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(axis=-1)
    ranks: Array = below + (equal - 1) / 2.0
    return ranks
