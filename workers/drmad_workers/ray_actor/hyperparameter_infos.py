"""What a worker reports of the hyperparameters that it has bound to the problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drmad_client.spec.job import JobSpec
from drmad_workers.hyperparameters.base import BoundHyperparameter, Group

MAX_GROUPS = 128
"""Bounds the groups of a hyperparameter that are reported one by one."""


def hyperparameter_infos(
    spec: JobSpec, bound: Mapping[str, BoundHyperparameter]
) -> list[dict[str, Any]]:
    """The fields of drmad_client.records.job.HyperparameterInfo, one entry per hyperparameter.

    The only one that the spec does not name is the weight of the examples of an attribution.
    """
    kinds = {h.name or h.kind: h.kind for h in spec.hyperparameters}
    return [
        {
            "name": name,
            "kind": kinds.get(name, "sample_weight"),
            "shape": list(hyperparameter.initial.shape),
            "transform": hyperparameter.transform,
            "lower": hyperparameter.lower,
            "upper": hyperparameter.upper,
            "groups": _reported_groups(hyperparameter.groups),
        }
        for name, hyperparameter in bound.items()
    ]


def _reported_groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The groups, if there are several and at most MAX_GROUPS; otherwise none."""
    if not 1 < len(groups) <= MAX_GROUPS:
        return []
    return [group._asdict() for group in groups]
