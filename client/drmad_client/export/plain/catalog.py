"""The models and tasks of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from drmad_client.export.plain.statement import Problem, error_rate
from drmad_client.export.plain.uses import USES

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class Tabular(nn.Module):
    """Embeddings of the categorical columns beside the numbers, then fully connected layers."""

    def __init__(
        self, numbers: int, categories: list[int], outputs: int, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self._numbers = numbers
        dims = [options["embedding_dim"] or min(50, (n + 1) // 2) for n in categories]
        self.embeddings = nn.ModuleList(map(nn.Embedding, categories, dims))
        layers: list[nn.Module] = []
        width = numbers + sum(dims)
        for units in options["hidden"]:
            layers += [nn.Linear(width, units), ACTIVATIONS[options["activation"]]()]
            layers += [nn.Dropout(options["dropout"])] if options["dropout"] else []
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.flatten(1)
        numbers, categories = rows[:, : self._numbers], rows[:, self._numbers :].long()
        parts = [embedding(categories[:, i]) for i, embedding in enumerate(self.embeddings)]
        outputs: Tensor = self.layers(torch.cat([numbers, *parts], 1))
        return outputs


def build_model(
    options: Mapping[str, Any], inputs: Tensor, outputs: int, categories: list[int]
) -> nn.Module:
    """A new model for inputs of this shape.

    Args:
        options: those of the job.
        inputs: of all rows; images are (rows, channels, height, width) or (rows, height, width).
        outputs: the number of outputs.
        categories: the number of categories of each categorical column, which are the last ones.
    """
    if "tabular" in USES:
        width = inputs[0].numel()
        return Tabular(width - len(categories), categories, outputs, options)
    activation = ACTIVATIONS[options["activation"]]
    layers: list[nn.Module] = []
    if "mlp" in USES:
        layers += [nn.Flatten()] if inputs.ndim > 2 else []
        widths = [inputs[0].numel(), *options["hidden"]]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
    image = tuple(options["image"] or ((1,) * (4 - inputs.ndim) + tuple(inputs.shape[1:])))
    if tuple(inputs.shape[1:]) != image:
        layers += [nn.Flatten()] if inputs.ndim > 2 else []
        layers += [nn.Unflatten(1, image)]
    channels, height, breadth = image
    for after in options["channels"]:
        layers.append(nn.Conv2d(channels, after, 3, padding=1))
        layers += [nn.BatchNorm2d(after)] if options["batch_norm"] else []
        layers += [activation(), nn.AvgPool2d(2)]
        channels, height, breadth = after, height // 2, breadth // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * breadth, outputs))


def catalog_problem(settings: Mapping[str, Any], data: Mapping[str, Tensor] | None) -> Problem:
    """The problem of a job of the catalog, from the tensors of its data."""
    if data is None:
        raise SystemExit("name the file of the data: python recipe.py data.safetensors")
    inputs, targets = data["train_inputs"], data["train_targets"]
    if "one task" in USES:
        task = settings["task"]
    else:
        task = task_of(targets)
    outputs = int(targets.max()) + 1 if task == "classification" else targets[:1].numel()
    train, valid, test = (
        (data[f"{part}_inputs"], data[f"{part}_targets"]) if f"{part}_inputs" in data else None
        for part in ("train", "valid", "test")
    )
    categories = []
    if "tabular" in USES:
        categories = data["categories"].tolist() if "categories" in data else []
    model = build_model(settings["model"], inputs, settings["outputs"] or outputs, categories)
    loss, metrics = TASKS[task]
    problem = Problem(model, train, valid, test, loss, metrics, initialize="reset")
    if "weights of groups" in USES:
        problem.columns = {
            name.removeprefix("column:"): values
            for name, values in data.items()
            if name.startswith("column:")
        }
    return problem


def task_of(targets: Tensor) -> str:
    return "regression" if targets.is_floating_point() else "classification"


def binary_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    logits = outputs[:, 0]
    return binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")


def binary_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs[:, 0] > 0) != (targets > 0)).double().mean()


def label_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(1)


def label_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs > 0) != (targets > 0)).double().mean()


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean(1)


TASKS: dict[str, tuple[Callable[[Any, Any], Tensor], dict[str, Any]]] = {}
"""By name, the loss of every row and the metrics. The targets of a regression are standardised."""
if "classification" in USES:
    TASKS["classification"] = nn.CrossEntropyLoss(reduction="none"), {"error": error_rate}
if "binary" in USES:
    TASKS["binary"] = binary_loss, {"error": binary_error}
if "multilabel" in USES:
    TASKS["multilabel"] = label_loss, {"error": label_error}
if "regression" in USES:
    TASKS["regression"] = squared_error, {}
