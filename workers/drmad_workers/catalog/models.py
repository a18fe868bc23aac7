"""Built-in models."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from drmad_workers.errors import ProblemError

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [50], "activation": "tanh"},
    "cnn": {"channels": [8, 16], "activation": "relu", "batch_norm": False},
}
"""The options of each model with their defaults, by name of the model."""


def build_model(
    name: str,
    options: Mapping[str, Any],
    input_shape: Sequence[int],
    classes: int,
    image: Sequence[int] | None = None,
) -> nn.Module:
    """A model of the catalog with fresh weights, by torch's default initialization.

    `mlp` takes hidden (a list of layer widths) and activation ("tanh" or "relu").
    `cnn` takes channels (of each convolution), activation and batch_norm.

    Args:
        input_shape: the shape of one example.
        image: (channels, rows, columns) of one example, if it is an image.
    Raises:
        ProblemError: an unknown name or option, or one that does not fit the data.
    """
    if name not in MODELS:
        raise ProblemError(
            f"model must be one of {', '.join(MODELS)}, got {name!r}", "problem.model.name"
        )
    given = MODELS[name] | dict(options)
    unknown = given.keys() - MODELS[name].keys()
    if unknown:
        raise ProblemError(
            f"{name} takes {', '.join(MODELS[name])}, got {', '.join(sorted(unknown))}",
            "problem.model",
        )
    if given["activation"] not in ACTIVATIONS:
        raise ProblemError(
            f"activation must be tanh or relu, got {given['activation']!r}",
            "problem.model.activation",
        )
    if name == "mlp":
        return mlp(given["hidden"], given["activation"], input_shape, classes)
    if image is None:
        raise ProblemError(
            "cnn needs images, examples of shape (channels, rows, columns) or (rows, columns), "
            f"got shape {tuple(input_shape)}: use mlp",
            "problem.model.name",
        )
    network = cnn(given["channels"], given["activation"], given["batch_norm"], image, classes)
    if tuple(input_shape) == tuple(image):
        return network
    flatten = [nn.Flatten()] if len(input_shape) > 1 else []
    return nn.Sequential(*flatten, nn.Unflatten(1, tuple(image)), *network)


def mlp(
    hidden: Sequence[int], activation: str, input_shape: Sequence[int], classes: int
) -> nn.Module:
    _require_sizes(hidden, "hidden", "layer widths")
    widths = [math.prod(input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) > 1 else []
    for width, following in zip(widths, hidden, strict=False):
        layers += [nn.Linear(width, following), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def cnn(
    channels: Sequence[int], activation: str, batch_norm: bool, image: Sequence[int], classes: int
) -> nn.Sequential:
    """Convolutions with mean pooling, which unlike max pooling has smooth derivatives."""
    _require_sizes(channels, "channels", "numbers of channels")
    before, rows, columns = image
    layers: list[nn.Module] = []
    for after in channels:
        layers.append(nn.Conv2d(before, after, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(after))
        layers += [ACTIVATIONS[activation](), nn.AvgPool2d(2)]
        before, rows, columns = after, rows // 2, columns // 2
    if not rows or not columns:
        raise ProblemError(
            f"{len(channels)} convolutions need images of at least {2 ** len(channels)} rows and "
            f"columns, got {tuple(image[1:])}: shorten channels",
            "problem.model.channels",
        )
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * rows * columns, classes))


def _require_sizes(sizes: Sequence[int], name: str, what: str) -> None:
    if any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ProblemError(
            f"{name} must be a list of {what} of at least 1, got {list(sizes)!r}",
            f"problem.model.{name}",
        )
