"""Ranks of values, and how far two orders agree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ranks(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The rank of each value from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    means = np.cumsum(counts) - (counts + 1) / 2.0
    return np.asarray(means[inverse.ravel()], dtype=np.float64)


def rank_correlation(
    one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]
) -> float | None:
    """Spearman's rank correlation; None where all values of one side are equal or not finite."""
    kept = np.isfinite(one.ravel()) & np.isfinite(other.ravel())
    if kept.sum() < 2:
        return None
    first, second = ranks(one.ravel()[kept]), ranks(other.ravel()[kept])
    first, second = first - first.mean(), second - second.mean()
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / lengths if lengths > 0.0 else None
