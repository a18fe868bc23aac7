"""How many entries a hyperparameter has, as far as the spec alone tells."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drmad_client.spec.job import HyperparameterSpec, ProblemSpec, TrainingSpec


def entries(
    hyperparameter: HyperparameterSpec, problem: ProblemSpec, training: TrainingSpec
) -> int | None:
    """The number of entries; None where only a worker knows it."""
    per = getattr(hyperparameter, "per", None)
    if per == "model":
        return 1
    if per == "step":
        return training.steps
    if hyperparameter.kind == "loss_weight" and hyperparameter.terms is not None:
        return hyperparameter.terms
    if problem.kind == "code":
        return None
    data, model = problem.data, problem.model
    match hyperparameter.kind:
        case "sample_weight":
            return data.train
        case "training_data":
            return data.train * prod(data.input_shape) if data.input_shape else None
        case "loss_weight":
            return data.classes
    if model.name != "mlp" or data.input_shape is None or data.classes is None:
        return None
    widths = [prod(data.input_shape), *model.hidden, data.classes]
    matrices, tensors = len(widths) - 1, 2 * (len(widths) - 1)
    match hyperparameter.kind:
        case "l2" | "l1":
            weights = sum(before * after for before, after in pairwise(widths))
            return {"unit": sum(widths[:-1]), "layer": matrices, "weight": weights}[per or ""]
        case "learning_rate" | "momentum":
            return tensors if per == "layer" else tensors * training.steps
        case "init_scale":
            return tensors
    return None
