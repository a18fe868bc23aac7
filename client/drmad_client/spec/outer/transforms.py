"""The transforms from the raw values that are tuned to the user's units."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Transform = Literal["identity", "exp", "sigmoid"]


def to_user_units(
    raw: NDArray[np.floating[Any]], transform: Transform
) -> NDArray[np.floating[Any]]:
    """The values in the user's units: raw, exp(raw) or 1 / (1 + exp(-raw)), of the same shape."""
    values = raw
    if transform == "exp":
        values = np.exp(raw)
    elif transform == "sigmoid":
        # No overflow on one side; on the other, the smallest weights keep their digits and order.
        values = np.exp(-np.logaddexp(0.0, -raw))
    return values
