"""The record of a meta-iteration: its figures, per hyperparameter and per replica."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from drmad_client.spec.outer.transforms import to_user_units
from drmad_workers.meta.aggregation import Held
from drmad_workers.meta.estimates import Estimate
from drmad_workers.ray_actor.messages import ReplicaResult
from drmad_workers.ray_actor.packed_state import flat


def replica_figures(
    result: ReplicaResult, held: Held, staleness: int, aggregated: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The fields of drmad_client.records.job.ReplicaFigures.

    The cosine to the aggregated hypergradient covers the coordinates that the replica holds.
    """
    evaluation = result.evaluation

    def held_part(gradient: Mapping[str, Tensor]) -> Tensor:
        return flat({n: g[held[n]] if n in held else g for n, g in gradient.items()})

    own, others = held_part(evaluation.hypergradient), held_part(aggregated)
    lengths = float(own.norm() * others.norm())
    return {
        "replica": result.replica,
        "validation_loss": evaluation.validation_loss,
        "hypergradient_norm": float(own.norm()),
        "cosine_to_mean": float(own @ others) / lengths if lengths > 0.0 else 0.0,
        "staleness": staleness,
        "seconds": evaluation.seconds,
        "peak_memory_bytes": evaluation.peak_memory_bytes,
        "train_examples": result.train_examples,
        "valid_examples": result.valid_examples,
        "node": result.node,
        "device": result.device,
    }


def hyperparameter_summary(
    raw: Tensor, info: Mapping[str, Any], hypergradient: Tensor
) -> dict[str, Any]:
    """The fields of drmad_client.records.job.HyperparameterSummary."""
    values, gradient = to_user_units(raw.numpy(), info["transform"]), hypergradient.flatten()
    quantiles = np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1.0]).tolist()
    names = ("minimum", "lower_quartile", "median", "upper_quartile", "maximum")
    return {
        **dict(zip(names, quantiles, strict=True)),
        "hypergradient_norm": float(gradient.norm()),
        "groups": [
            {
                "label": group["label"],
                "median": float(np.median(values.ravel()[group["start"] : group["stop"]])),
                "hypergradient_norm": float(gradient[group["start"] : group["stop"]].norm()),
            }
            for group in info.get("groups", ())
        ],
    }


def smoothed_figures(levels: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """The fields of drmad_client.records.side_runs.confirmation.Interval by name of the figure."""
    found: dict[str, dict[str, float | None]] = {}
    for name, level in levels.items():
        low, high = level.interval()
        found[name] = {"mean": level.mean, "low": low, "high": high}
    return found


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def finite_means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over the replicas; figures whose mean is not finite are left out."""
    return {name: value for name, value in _means(figures).items() if math.isfinite(value)}


def not_finite_means(figures: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """The means that `finite_means` leaves out: nan, inf or -inf."""
    return {name: str(value) for name, value in _means(figures).items() if not math.isfinite(value)}


def _means(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: _mean([figure[name] for figure in figures]) for name in figures[0]}


def _mean(values: Sequence[float]) -> float:
    # math.fsum raises where infinite values of both signs meet, and where the sum overflows.
    return mean(values) if all(map(math.isfinite, values)) else sum(values) / len(values)
