"""From the raw numbers that are tuned to the user's own units."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Transform = Literal["identity", "exp", "sigmoid"]


def to_user_units(
    raw: NDArray[np.floating[Any]], transform: Transform
) -> NDArray[np.floating[Any]]:
    """The values in the user's units: raw, exp(raw) or 1 / (1 + exp(-raw)), of the same shape."""
    if transform == "exp":
        return np.exp(raw)
    if transform == "sigmoid":
        # tanh does not overflow where exp(-raw) would.
        return 0.5 * (1.0 + np.tanh(0.5 * raw))
    return raw
