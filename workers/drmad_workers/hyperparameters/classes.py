"""The classes of the training targets."""

import torch
from torch import Tensor

from drmad_workers.application import targets_of
from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.base import Setting

ROWS = 4096
"""The examples whose classes are read at a time."""


def classes_of(setting: Setting, name: str) -> tuple[int, Tensor]:
    """The number of classes and the class of every training example, shape (rows,), int64.

    A negative class stands for a row that the loss ignores (-100 in torch).

    Args:
        setting: the problem and its training examples.
        name: the name of the hyperparameter that has one entry per class.
    Raises:
        ProblemError: the targets are not class numbers, or the problem does not say which they are.
    """
    found = [targets_of(setting.problem, batch.content) for batch in setting.train.chunks(ROWS)]
    targets = [part for part in found if part is not None]
    if len(targets) < len(found) or any(t.dtype != torch.int64 or t.ndim != 1 for t in targets):
        raise ProblemError(
            f"{name} per class needs training targets that are class numbers, shape (rows,), "
            "int64: for minibatches that are no pair (inputs, targets), state the problem's "
            "targets, content -> classes",
            f"hyperparameters.{name}",
        )
    joined = torch.cat(targets)
    classes = int(joined.max()) + 1
    if classes < 1:
        raise ProblemError(
            f"{name} per class needs training targets of at least one class, got negative "
            "numbers alone, which stand for ignored rows",
            f"hyperparameters.{name}",
        )
    return classes, joined
