"""The sizes of a problem on which the number of a hyperparameter's entries depends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProblemSizes:
    """None stands for a size that only a worker can find out.

    Attributes:
        steps: inner steps T.
        train: training examples.
        inputs: numbers of one example.
        classes: classes of the targets.
        matrices: inputs and outputs of each weight matrix.
        tensors: trainable parameter tensors.
    """

    steps: int
    train: int | None = None
    inputs: int | None = None
    classes: int | None = None
    matrices: list[tuple[int, int]] | None = None
    tensors: int | None = None
