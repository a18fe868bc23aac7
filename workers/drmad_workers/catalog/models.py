"""Built-in models."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from drmad_workers.errors import ProblemError

MODELS = ("mlp",)


def build_model(
    name: str, options: Mapping[str, Any], input_shape: Sequence[int], classes: int
) -> nn.Module:
    """A catalogued model with fresh weights.

    `mlp`: hidden (list of layer widths, default [50]), activation ("tanh" or "relu"); torch's
    own initialisation, uniform in ± 1/√fan_in.
    """
    if name not in MODELS:
        raise ProblemError(
            f"model must be one of {', '.join(MODELS)}, got {name!r}", "problem.model.name"
        )
    given = {"hidden": [50], "activation": "tanh"} | dict(options)
    unknown = given.keys() - {"hidden", "activation"}
    if unknown:
        raise ProblemError(
            f"mlp takes hidden and activation, got {', '.join(sorted(unknown))}", "problem.model"
        )
    return mlp(given["hidden"], given["activation"], input_shape, classes)


def mlp(
    hidden: Sequence[int], activation: str, input_shape: Sequence[int], classes: int
) -> nn.Module:
    activations = {"tanh": nn.Tanh, "relu": nn.ReLU}
    if activation not in activations:
        raise ProblemError(
            f"activation must be tanh or relu, got {activation!r}", "problem.model.activation"
        )
    if any(not isinstance(width, int) or width < 1 for width in hidden):
        raise ProblemError(
            f"hidden must be a list of layer widths of at least 1, got {hidden!r}",
            "problem.model.hidden",
        )
    widths = [math.prod(input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) > 1 else []
    for width, following in zip(widths, hidden, strict=False):
        layers += [nn.Linear(width, following), activations[activation]()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))
