"""The built-in models: one class each, and their union."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Annotated, Literal

from pydantic import Field

from drmad_client.spec import bounds
from drmad_client.spec.base import Spec
from drmad_client.spec.defaults import CNN, MLP

_Width = Annotated[int, bounds.Mlp.hidden]
_Channels = Annotated[int, bounds.Cnn.channels]


class Model(Spec):
    """Base of the built-in models."""

    def matrices(self, inputs: Sequence[int], classes: int) -> list[tuple[int, int]] | None:
        """Inputs and outputs of each weight matrix; None where only a worker knows them.

        `inputs` is the shape of one example.
        """
        return None


class MlpModel(Model):
    """A fully connected network with a linear output layer."""

    name: Literal["mlp"] = "mlp"
    hidden: Annotated[list[_Width], bounds.Mlp.hidden_layers] = Field(
        default=MLP["hidden"],
        description="Number of units of each hidden layer, from the input to the output.",
    )
    activation: Literal["tanh", "relu"] = Field(
        default=MLP["activation"], description="Nonlinearity after each hidden layer."
    )

    def matrices(self, inputs: Sequence[int], classes: int) -> list[tuple[int, int]] | None:
        widths = [prod(inputs), *self.hidden, classes]
        return list(pairwise(widths))


class CnnModel(Model):
    """Convolutions of 3 x 3, each followed by pooling over 2 x 2, and a linear output layer."""

    name: Literal["cnn"] = "cnn"
    channels: Annotated[list[_Channels], bounds.Cnn.convolutions] = Field(
        default=CNN["channels"],
        description="Number of channels of each convolution; each convolution halves the height "
        "and the width of the image.",
    )
    activation: Literal["tanh", "relu"] = Field(
        default=CNN["activation"], description="Nonlinearity after each convolution."
    )
    batch_norm: bool = Field(
        default=CNN["batch_norm"],
        description="Whether batch normalisation precedes each nonlinearity.",
    )


ModelSpec = Annotated[MlpModel | CnnModel, Field(discriminator="name")]
