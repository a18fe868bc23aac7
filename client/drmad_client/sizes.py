"""How many entries a hyperparameter has, as far as the spec alone tells."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drmad_client.specs import HyperparameterSpec, ProblemSpec, TrainingSpec


def entries(
    hyperparameter: HyperparameterSpec, problem: ProblemSpec, training: TrainingSpec
) -> int | None:
    """The number of entries; None where only the user's code knows it."""
    per = getattr(hyperparameter, "per", None)
    if per == "model":
        return 1
    if per == "step":
        return training.steps
    if hyperparameter.kind == "loss_weight" and hyperparameter.terms is not None:
        return hyperparameter.terms
    if problem.kind == "code":
        return None
    data = problem.data
    widths = [prod(data.input_shape), *problem.model.hidden, data.classes]
    matrices, tensors = len(widths) - 1, 2 * (len(widths) - 1)
    match hyperparameter.kind:
        case "l2" | "l1":
            weights = sum(before * after for before, after in pairwise(widths))
            return {"unit": sum(widths[:-1]), "layer": matrices, "weight": weights}[per or ""]
        case "learning_rate" | "momentum":
            return tensors if per == "layer" else tensors * training.steps
        case "init_scale":
            return tensors
        case "sample_weight":
            return data.train
        case "training_data":
            return data.train * widths[0]
        case "loss_weight":
            return data.classes
    return None
