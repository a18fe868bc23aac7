"""What the heads of Hugging Face models are trained for: the losses and metrics of their logits.

The losses are per row. Labels of -100 do not count, as in transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from drmad_workers.problem import AllRows, Loss

TaskName = Literal["classification", "token_classification", "masked_lm", "causal_lm"]
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]
IGNORED = -100
"""The label of a token that does not count."""


@dataclass(frozen=True)
class Task:
    """The losses of a head, as functions of (logits, content).

    Attributes:
        loss: see Problem.loss.
        metrics: see Problem.metrics.
        targets: see Problem.targets; None where rows have no class.
    """

    loss: Loss
    metrics: Mapping[str, Loss | AllRows]
    targets: Callable[[Any], Tensor] | None = None


def task_of(name: TaskName, problem_type: ProblemType, per_token: bool) -> Task:
    """The losses and metrics of a task.

    Args:
        name: the task.
        problem_type: what a classification predicts.
        per_token: whether every token of a minibatch has the same weight, or every row.
    """
    if name == "classification":
        return CLASSIFICATIONS[problem_type]
    tokens = shifted_tokens if name == "causal_lm" else all_tokens
    reduced = by_token if per_token else by_row

    def loss(logits: Tensor, content: Any) -> Tensor:
        return reduced(*token_losses(*tokens(logits, content["labels"])))

    def row_sums(logits: Tensor, content: Any) -> Tensor:
        each = token_errors if name == "token_classification" else token_losses
        values, counted = each(*tokens(logits, content["labels"]))
        return torch.stack([values.sum(1), counted.sum(1)], 1).double()

    if name == "token_classification":
        return Task(loss, {"error": AllRows(mean_over_tokens, row_sums)})
    return Task(loss, {"perplexity": AllRows(lambda sums: mean_over_tokens(sums).exp(), row_sums)})


def all_tokens(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (rows, length, classes) and the label of each token, (rows, length).

    Virtual tokens of a learned prompt stand before the others, and have no labels.
    """
    return logits[:, -labels.shape[1] :], labels


def shifted_tokens(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of each token with the label of the next one, both (rows, length - 1, ..)."""
    logits, labels = all_tokens(logits, labels)
    return logits[:, :-1], labels[:, 1:]


def token_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The cross entropy of each token, and whether it counts, both (rows, length)."""
    losses = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(labels.shape), labels != IGNORED


def token_errors(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the class of each token is wrong, and whether it counts, both (rows, length)."""
    counted = labels != IGNORED
    return (logits.argmax(2) != labels) & counted, counted


def by_row(losses: Tensor, counted: Tensor) -> Tensor:
    """The mean over the tokens of each row, shape (rows,)."""
    return losses.sum(1) / counted.sum(1).clamp_min(1)


def by_token(losses: Tensor, counted: Tensor) -> Tensor:
    """Shares of the rows whose mean is the mean over all tokens of the minibatch, (rows,)."""
    return losses.sum(1) * len(losses) / counted.sum().clamp_min(1)


def mean_over_tokens(sums: Tensor) -> Tensor:
    """The mean over the tokens of all rows, from the sum and the count of each row, (rows, 2)."""
    total, count = sums.sum(0)
    return total / count.clamp_min(1)


def cross_entropy(logits: Tensor, content: Any) -> Tensor:
    return functional.cross_entropy(
        logits, content["labels"], ignore_index=IGNORED, reduction="none"
    )


def squared_error(logits: Tensor, content: Any) -> Tensor:
    labels = content["labels"].to(logits.dtype).view(logits.shape)
    return (logits - labels).square().mean(1)


def binary_cross_entropy(logits: Tensor, content: Any) -> Tensor:
    labels = content["labels"].to(logits.dtype)
    return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)


def class_error(logits: Tensor, content: Any) -> Tensor:
    """The share of rows whose class is wrong."""
    return (logits.argmax(1) != content["labels"]).double().mean()


def label_error(logits: Tensor, content: Any) -> Tensor:
    """The share of labels, of several per row, that are wrong."""
    return ((logits > 0) != (content["labels"] > 0.5)).double().mean()


CLASSIFICATIONS: Mapping[ProblemType, Task] = {
    "regression": Task(squared_error, {}),
    "single_label_classification": Task(
        cross_entropy, {"error": class_error}, lambda content: content["labels"]
    ),
    "multi_label_classification": Task(binary_cross_entropy, {"error": label_error}),
}
"""The tasks of a head with an output per row, by transformers' problem_type."""
