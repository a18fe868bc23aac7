"""A job's state as the release before version 2 wrote it, and the same state in version 2."""

from typing import Any


def shortcut_1(horizon: int, **fields: Any) -> dict[str, Any]:
    """The settings of a shortcut, in version 1."""
    return {
        "method": "shortcut",
        "hvp": "exact",
        "horizon": horizon,
        "budget": 16,
        "knots": None,
        "average": None,
        "stride": 10,
        "tolerance": 0.12,
        "thin": None,
        "contraction": False,
        "curvature": "hessian",
        "preset": None,
    } | fields


def shortcut_2(horizon: int, **fields: Any) -> dict[str, Any]:
    """The settings of a shortcut, in version 2."""
    return {
        "method": "shortcut",
        "hvp": "exact",
        "horizon": horizon,
        "budget": 16,
        "interpolation_nodes": None,
        "averaging_window": None,
        "max_stride": 10,
        "max_adjoint_change": 0.12,
        "minibatch_subsampling": None,
        "contraction": False,
        "curvature": "hessian",
        "preset": None,
    } | fields


STORED = {"method": "stored", "hvp": "exact", "horizon": None}
FOUND = {"cost": 1.2, "cosine": 0.95, "signs": 0.9, "length": 1.01, "products": 8, "seconds": 0.02}
NOTHING = dict.fromkeys(FOUND) | {"cost": 1.5}

CHOICE_1: dict[str, Any] = {
    "method": shortcut_1(10),
    "reason": "due",
    "looked": 5,
    "due": 15,
    "interval": 10,
    "growth": 1.25,
    "moments": {"l2": [0.5, 0.25]},
    "figures": [
        {"method": STORED, **NOTHING},
        {"method": shortcut_1(25, knots=4, average=3, stride=5, tolerance=None, thin=2), **NOTHING},
        {"method": shortcut_1(10), **FOUND},
    ],
}
CHOICE_2: dict[str, Any] = {
    "method": shortcut_2(10),
    "reason": "scheduled",
    "last_probe": 5,
    "next_probe": 15,
    "interval": 10,
    "growth": 1.25,
    "moments": {"l2": [0.5, 0.25]},
    "probes": [
        {"method": STORED, **NOTHING},
        {
            "method": shortcut_2(
                25,
                interpolation_nodes=4,
                averaging_window=3,
                max_stride=5,
                max_adjoint_change=None,
                minibatch_subsampling=2,
            ),
            **NOTHING,
        },
        {"method": shortcut_2(10), **FOUND},
    ],
}
SCALARS_1: dict[str, Any] = {
    "version": 1,
    "iteration": 7,
    "best_iteration": 6,
    "best_validation_loss": 0.75,
    "reference_loss": 0.8,
    "stale": 1,
    "recent_losses": [0.9, 0.8, 0.75],
    "step_scale": 0.5,
    "retreats": 1,
    "choice": CHOICE_1,
}
SCALARS_2: dict[str, Any] = {
    "version": 2,
    "iteration": 7,
    "best_iteration": 6,
    "best_validation_loss": 0.75,
    "reference_loss": 0.8,
    "stale": 1,
    "recent_losses": [0.9, 0.8, 0.75],
    "step_scale": 0.5,
    "rollbacks": 1,
    "choice": CHOICE_2,
}
SCALARS_3: dict[str, Any] = SCALARS_2 | {
    "version": 3,
    "best_error": None,
    "best_bound": None,
    "recent_metrics": [{}, {}, {}],
    "runs": 7.0,
}
SCALARS_4: dict[str, Any] = SCALARS_3 | {"version": 4, "start_figures": None}
