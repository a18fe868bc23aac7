"""The former names of a spec's fields, for hints about old names and for stored jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {
    ("hypergradient", "thin"): "minibatch_subsampling",
    ("hypergradient", "knots"): "interpolation_nodes",
    ("hypergradient", "average"): "averaging_window",
    ("hypergradient", "stride"): "max_stride",
    ("hypergradient", "tolerance"): "max_adjoint_change",
    ("hypergradient", "threshold"): "min_cosine",
    ("meta", "tolerance"): "rollback_tolerance",
    ("meta", "retreats"): "max_rollbacks",
    ("replicas", "staleness"): "max_staleness",
}
"""The present name of a field, by its section of the spec and its former name."""

ONLY_FOR_METHOD = {("hypergradient", "tolerance"): "shortcut"}
"""Former names that one method alone gave up: `implicit` still has a `tolerance`."""


def new_name(section: str, field: str, fields: Mapping[str, Any]) -> str | None:
    """The present name of a former field; None for a name that was not renamed.

    `fields` are those of the section: a name may depend on the method beside it.
    """
    method = ONLY_FOR_METHOD.get((section, field))
    if method is not None and fields.get("method") != method:
        return None
    return RENAMED.get((section, field))


def renamed(fields: dict[str, Any]) -> dict[str, Any]:
    """A spec's fields under their present names; a spec without former names is equal to it."""
    return {
        section: (
            {new_name(section, name, parts) or name: value for name, value in parts.items()}
            if isinstance(parts, dict)
            else parts
        )
        for section, parts in fields.items()
    }
