"""Migration of records of earlier releases: a job's state (version 1), the choices of `auto`.

Each function returns a new dict. Applied to the current form, it changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHOICE_FIELDS = {"looked": "last_probe", "due": "next_probe", "figures": "probes"}
SHORTCUT_FIELDS = {
    "knots": "interpolation_nodes",
    "average": "averaging_window",
    "stride": "max_stride",
    "tolerance": "max_adjoint_change",
    "thin": "minibatch_subsampling",
}


def migrate_scalars(scalars: Mapping[str, Any]) -> dict[str, Any]:
    """The scalars of a state (MetaState.scalars) in version 4, from versions 1 to 4.

    Any other version is returned as it is: the engine names it in its refusal. Versions 1 and 2
    kept neither metrics nor costs; a meta-iteration then counts as one training run, the least that
    it can have cost. Up to version 3 all validation examples were differentiated.
    """
    if scalars["version"] == 3:
        return {**scalars, "start_figures": None, "version": 4}
    if scalars["version"] not in (1, 2):
        return dict(scalars)
    migrated = dict(scalars)
    if scalars["version"] == 1:
        migrated = _renamed(scalars, {"retreats": "rollbacks"})
        if migrated.get("choice") is not None:
            migrated["choice"] = migrate_choice(migrated["choice"])
    added: dict[str, Any] = {
        "best_error": None,
        "best_bound": None,
        "recent_metrics": [{} for _ in migrated["recent_losses"]],
        "start_figures": None,
        "runs": float(migrated["iteration"]),
    }
    return migrated | added | {"version": 4}


def migrate_choice(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A choice of `auto` (Choice.as_dict) under the present names."""
    migrated = _renamed(fields, CHOICE_FIELDS)
    migrated["method"] = migrate_method(migrated["method"])
    migrated["probes"] = [
        {**probe, "method": migrate_method(probe["method"])} for probe in migrated["probes"]
    ]
    if migrated["reason"] == "due":
        migrated["reason"] = "scheduled"
    return migrated


def migrate_method(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method, with its name under "method"; only the shortcut's changed."""
    if settings["method"] != "shortcut":
        return dict(settings)
    return _renamed(settings, SHORTCUT_FIELDS)


def _renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in fields.items()}
