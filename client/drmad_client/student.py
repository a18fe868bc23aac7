"""Student's t distribution, for intervals of means."""

from __future__ import annotations

import math

# The quantiles of Student's t at 97.5 % for 1, 2, ..., 30 degrees of freedom.
_T = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip
_Z = 1.959964


def quantile(freedom: float) -> float:
    """The quantile of Student's t at 97.5 %, for at least one degree of freedom.

    Between whole numbers it interpolates. Above 30 it expands the normal quantile z to
    z + (z³ + z) / 4ν + (5 z⁵ + 16 z³ + 3 z) / 96 ν², which is right to four digits there.
    """
    if freedom >= len(_T):
        second = (5.0 * _Z**5 + 16.0 * _Z**3 + 3.0 * _Z) / 96.0
        return _Z + (_Z**3 + _Z) / (4.0 * freedom) + second / freedom**2
    below = max(1, math.floor(freedom))
    share = max(0.0, freedom - below)
    return (1.0 - share) * _T[below - 1] + share * _T[min(below, len(_T) - 1)]
