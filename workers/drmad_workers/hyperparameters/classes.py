"""The classes of the training targets."""

import torch
from torch import Tensor

from drmad_workers.data.examples import Examples
from drmad_workers.errors import ProblemError


def classes_of(train: Examples, name: str) -> tuple[int, Tensor]:
    """The number of classes and the class of every training example, shape (rows,), int64.

    A negative class stands for a row that the loss ignores (-100 in torch).

    Args:
        train: the training examples.
        name: the name of the hyperparameter that has one entry per class.
    Raises:
        ProblemError: the targets are not class numbers, or do not fit into memory.
    """
    targets = train.all_targets()
    if targets is None or targets.dtype != torch.int64 or targets.ndim != 1:
        raise ProblemError(
            f"{name} per class needs training targets that are class numbers (int64) and "
            "fit into memory",
            f"hyperparameters.{name}",
        )
    classes = int(targets.max()) + 1
    if classes < 1:
        raise ProblemError(
            f"{name} per class needs training targets of at least one class, got negative "
            "numbers alone, which stand for ignored rows",
            f"hyperparameters.{name}",
        )
    return classes, targets
