"""Built-in models."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotated_types import Len
from torch import nn

from drmad_client.spec import bounds
from drmad_client.spec.bounds import Bounds
from drmad_client.spec.defaults import CNN, MLP, TABULAR
from drmad_workers.catalog.tabular import Tabular
from drmad_workers.errors import ProblemError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """The form of the examples and of what is predicted.

    Attributes:
        inputs: the shape of one example.
        outputs: the number of outputs.
        image: (channels, rows, columns) of one example that is an image.
        categories: the number of categories of each categorical column, the unknown one included;
            these columns are the last ones.
    """

    inputs: Shape
    outputs: int
    image: Shape | None = None
    categories: Shape = ()


Builder = Callable[[Mapping[str, Any], Form], nn.Module]

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


def build_model(
    name: str,
    options: Mapping[str, Any],
    input_shape: Sequence[int],
    outputs: int,
    image: Sequence[int] | None = None,
    categories: Sequence[int] = (),
) -> nn.Module:
    """A model of the catalog with fresh weights, by torch's default initialization.

    `mlp` takes hidden (a list of layer widths) and activation ("tanh" or "relu").
    `cnn` takes channels (of each convolution), activation and batch_norm.
    `tabular` takes hidden, activation, embedding_dim and dropout; see Tabular.

    Args:
        input_shape, outputs, image, categories: see Form.
    Raises:
        ProblemError: an unknown name or option, or one that does not fit the data.
    """
    if name not in MODELS:
        raise ProblemError(
            f"model must be one of {', '.join(MODELS)}, got {name!r}", "problem.model.name"
        )
    builder, defaults = MODELS[name]
    given = defaults | dict(options)
    if unknown := given.keys() - defaults.keys():
        raise ProblemError(
            f"{name} takes {', '.join(defaults)}, got {', '.join(sorted(unknown))}",
            "problem.model",
        )
    if given["activation"] not in ACTIVATIONS:
        raise ProblemError(
            f"activation must be one of {', '.join(ACTIVATIONS)}, got {given['activation']!r}",
            "problem.model.activation",
        )
    if categories and name != "tabular":
        raise ProblemError(
            f"{name} takes numbers alone, and the data has categorical columns: use tabular",
            "problem.model.name",
        )
    shape = None if image is None else tuple(image)
    return builder(given, Form(tuple(input_shape), outputs, shape, tuple(categories)))


def mlp(options: Mapping[str, Any], form: Form) -> nn.Module:
    """Fully connected layers of widths `hidden`, each followed by the activation."""
    hidden = options["hidden"]
    _require_sizes(hidden, "hidden", bounds.Mlp.hidden, bounds.Mlp.hidden_layers)
    widths = [math.prod(form.inputs), *hidden]
    layers: list[nn.Module] = [nn.Flatten()] if len(form.inputs) > 1 else []
    for width, following in zip(widths, hidden, strict=False):
        layers += [nn.Linear(width, following), ACTIVATIONS[options["activation"]]()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], form.outputs))


def tabular(options: Mapping[str, Any], form: Form) -> nn.Module:
    """Embeddings of the categorical columns, then fully connected layers."""
    _require_sizes(options["hidden"], "hidden", bounds.Mlp.hidden, bounds.Mlp.hidden_layers)
    if not bounds.DROPOUT.hold(options["dropout"]):
        raise ProblemError(
            f"dropout must be {bounds.DROPOUT}, got {options['dropout']}",
            "problem.model.dropout",
        )
    return Tabular(
        math.prod(form.inputs) - len(form.categories),
        form.categories,
        form.outputs,
        options["hidden"],
        ACTIVATIONS[options["activation"]],
        options["embedding_dim"],
        options["dropout"],
    )


def cnn(options: Mapping[str, Any], form: Form) -> nn.Module:
    """Convolutions with mean pooling, which is smooth: second derivatives pass through it."""
    image, input_shape = form.image, form.inputs
    if image is None:
        raise ProblemError(
            "cnn needs images, examples of shape (channels, rows, columns) or (rows, columns), "
            f"got shape {input_shape}; use mlp",
            "problem.model.name",
        )
    channels = options["channels"]
    _require_sizes(channels, "channels", bounds.Cnn.channels, bounds.Cnn.convolutions)
    before, rows, columns = image
    layers: list[nn.Module] = []
    for after in channels:
        layers.append(nn.Conv2d(before, after, 3, padding=1))
        if options["batch_norm"]:
            layers.append(nn.BatchNorm2d(after))
        layers += [ACTIVATIONS[options["activation"]](), nn.AvgPool2d(2)]
        before, rows, columns = after, rows // 2, columns // 2
    if not rows or not columns:
        raise ProblemError(
            f"{len(channels)} convolutions need images of at least {2 ** len(channels)} rows and "
            f"columns, got {image[1:]}; ask for fewer channels",
            "problem.model.channels",
        )
    layers += [nn.Flatten(), nn.Linear(before * rows * columns, form.outputs)]
    if input_shape == image:
        return nn.Sequential(*layers)
    flatten = [nn.Flatten()] if len(input_shape) > 1 else []
    return nn.Sequential(*flatten, nn.Unflatten(1, image), *layers)


MODELS: dict[str, tuple[Builder, dict[str, Any]]] = {
    "mlp": (mlp, MLP),
    "cnn": (cnn, CNN),
    "tabular": (tabular, TABULAR),
}
"""By name, what builds the model, and the options with their defaults."""


def _require_sizes(sizes: Sequence[int], name: str, each: Bounds, length: Len) -> None:
    whole = all(isinstance(size, int) and each.hold(size) for size in sizes)
    if not whole or len(sizes) < length.min_length:
        raise ProblemError(
            f"{name} must be a list of at least {length.min_length} whole numbers, each {each}, "
            f"got {list(sizes)!r}",
            f"problem.model.{name}",
        )
