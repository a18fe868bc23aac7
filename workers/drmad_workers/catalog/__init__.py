"""Built-in data sets and models, and the problems built from them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from drmad_workers.catalog.data import DATA_SETS, load_data
from drmad_workers.catalog.models import MODELS, build_model
from drmad_workers.catalog.places import Places
from drmad_workers.catalog.split import Split
from drmad_workers.problem import Initialize, Problem
from drmad_workers.random_streams import Purpose, seed_of

__all__ = ["DATA_SETS", "MODELS", "Places", "Split", "build_model", "build_problem", "load_data"]


def build_problem(
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    seed: int = 0,
    places: Places | None = None,
    initialize: Initialize = "reset",
) -> Problem:
    """The problem of a model and a data set of the catalog; its task gives the loss and metrics.

    Args:
        model, data: {"name": ..., and the options of `build_model` and `load_data`}.
        seed: the seed of the model's weights.
        places: the folders from which data may be read.
        initialize: see Problem; by default every training run draws weights of its own.
    Raises:
        ProblemError: an unknown name or option, or missing files.
    """
    data_options = {name: value for name, value in data.items() if name != "name"}
    model_options = {name: value for name, value in model.items() if name != "name"}
    split = load_data(data.get("name", ""), data_options, places)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(Purpose.MODEL_WEIGHTS, seed))
        network = build_model(
            model.get("name", ""),
            model_options,
            split.input_shape,
            split.task.outputs,
            split.image,
            split.categories,
        )
    diagnostics = {}
    if split.wrong is not None and split.wrong.any():
        diagnostics = label_noise_diagnostics(split.wrong)
    return Problem(
        model=network,
        train=split.train,
        valid=split.valid,
        test=split.test,
        loss=split.task.loss,
        columns=split.columns,
        metrics=split.task.metrics,
        diagnostics=diagnostics,
        initialize=initialize,
    )


def label_noise_diagnostics(
    wrong: Tensor,
) -> dict[str, Callable[[Mapping[str, Tensor]], float | None]]:
    """How well sample weights separate wrong labels from right ones.

    `label_noise_precision` is the fraction of wrong labels among the n lowest weights, where n is
    the number of wrong labels. `label_noise_auc` is the probability that a wrong label has a lower
    weight than a right one; ties count half. Both are None without sample weights.

    `wrong` is a mask of shape (training examples,). The weights are the first hyperparameter of
    that shape that is not a schedule over equally many steps.
    """

    def precision(values: Mapping[str, Tensor]) -> float | None:
        weights = weights_among(values)
        if weights is None:
            return None
        lowest = weights.argsort(stable=True)[: int(wrong.sum())]
        return float(wrong[lowest].double().mean())

    def auc(values: Mapping[str, Tensor]) -> float | None:
        weights = weights_among(values)
        if weights is None or bool(wrong.all()):
            return None
        right, low = weights[~wrong].sort().values, weights[wrong]
        below = torch.searchsorted(right, low, right=False)
        upto = torch.searchsorted(right, low, right=True)
        return float(1.0 - (0.5 * (below + upto)).double().mean() / len(right))

    def weights_among(values: Mapping[str, Tensor]) -> Tensor | None:
        found = {name: value for name, value in values.items() if value.shape == wrong.shape}
        schedules = ("learning_rate", "momentum")
        return next((found[name] for name in found if name not in schedules), None)

    return {"label_noise_precision": precision, "label_noise_auc": auc}
