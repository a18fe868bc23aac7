from __future__ import annotations

import numpy as np
import pytest

from drmad_client.spec.outer.transforms import to_user_units


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_small_sample_weights_keep_their_order(precision: type[np.floating]) -> None:
    raw = np.array([-80.0, -40.0, -20.0, 0.0, 20.0, 1000.0], dtype=precision)
    weights = to_user_units(raw, "sigmoid")
    assert weights.dtype == precision
    np.testing.assert_allclose(weights[:4], 1.0 / (1.0 + np.exp(-raw[:4])), rtol=1e-5)
    np.testing.assert_allclose(weights[4:], 1.0)
