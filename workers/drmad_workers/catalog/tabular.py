"""The model of tables: embeddings of categories beside numbers."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

MAX_EMBEDDING_DIM = 50
"""Bounds the chosen numbers of an embedding."""


class Tabular(nn.Module):
    """An embedding of every categorical column beside the numbers, then fully connected layers.

    An input row has its numbers first, and then one category number per categorical column. The
    numbers are of floating point; float32 holds category numbers up to 2^24 exactly.

    Attributes:
        embeddings: one per categorical column, shape (categories, embedding_dim).
        layers: the fully connected layers.
    """

    def __init__(
        self,
        numbers: int,
        categories: Sequence[int],
        outputs: int,
        hidden: Sequence[int],
        activation: Callable[[], nn.Module] = nn.ReLU,
        embedding_dim: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        """
        Args:
            numbers: the numeric inputs of a row.
            categories: the number of categories of each categorical column.
            outputs: the number of outputs.
            hidden: the widths of the hidden layers.
            activation: follows each hidden layer.
            embedding_dim: the numbers of an embedding; None takes min(50, (n + 1) // 2) for n
                categories.
            dropout: the share of the units of each hidden layer that training drops.
        """
        super().__init__()
        self._numbers = numbers
        dims = [embedding_dim or min(MAX_EMBEDDING_DIM, (n + 1) // 2) for n in categories]
        self.embeddings = nn.ModuleList(map(nn.Embedding, categories, dims))
        layers: list[nn.Module] = []
        width = numbers + sum(dims)
        for units in hidden:
            layers += [nn.Linear(width, units), activation()]
            layers += [nn.Dropout(dropout)] if dropout else []
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """
        Args:
            inputs: shape (rows, numbers + categorical columns).
        Returns:
            Shape (rows, outputs).
        """
        rows = inputs.flatten(1)
        numbers, categories = rows[:, : self._numbers], rows[:, self._numbers :].long()
        parts = [embedding(categories[:, i]) for i, embedding in enumerate(self.embeddings)]
        outputs: Tensor = self.layers(torch.cat([numbers, *parts], 1))
        return outputs
