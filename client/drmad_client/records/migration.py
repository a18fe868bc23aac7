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
    """The scalars of a state (MetaState.scalars) in version 2, from version 1 or 2.

    Any other version is returned as it is: the engine names it in its refusal.
    """
    if scalars["version"] != 1:
        return dict(scalars)
    migrated = _renamed(scalars, {"retreats": "rollbacks"}) | {"version": 2}
    if migrated.get("choice") is not None:
        migrated["choice"] = migrate_choice(migrated["choice"])
    return migrated


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
