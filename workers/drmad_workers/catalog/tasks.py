"""What a model of the catalog predicts: the number of its outputs, its loss and its metrics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from drmad_workers.problem import AllRows, Loss, error_rate


@dataclass(frozen=True)
class Task:
    """What is predicted.

    Attributes:
        name: "classification", "binary", "multilabel" or "regression".
        outputs: the number of outputs of the model.
        loss: (outputs, targets) -> (rows,), with outputs of shape (rows, outputs).
        metrics: see Problem.metrics.
    """

    name: str
    outputs: int
    loss: Loss
    metrics: Mapping[str, Loss | AllRows] = field(default_factory=dict)


def classification(classes: int) -> Task:
    """A class number, shape (rows,), by cross entropy; `error` is the share of wrong classes."""
    loss = nn.CrossEntropyLoss(reduction="none")
    return Task("classification", classes, loss, {"error": error_rate})


def binary() -> Task:
    """A class of 0 or 1, shape (rows,), by the cross entropy of one logit.

    The metrics are `error`, the share of wrong classes at a probability of one half, and `auc`, the
    area under the ROC curve; it is nan for rows of one class alone.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        logits = outputs[:, 0]
        return binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")

    def error(outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs[:, 0] > 0) != (targets > 0)).double().mean()

    return Task("binary", 1, loss, {"error": error, "auc": AllRows(area_under_curve)})


def area_under_curve(outputs: Tensor, targets: Tensor) -> Tensor:
    """The probability that a row of class 1 has a larger output than one of class 0."""
    from sklearn.metrics import roc_auc_score

    if targets.min() == targets.max():
        return torch.tensor(float("nan"))
    return torch.tensor(float(roc_auc_score(targets.cpu().numpy(), outputs[:, 0].cpu().numpy())))


def multilabel(labels: Sequence[str]) -> Task:
    """Labels of 0 and 1, shape (rows, labels), by the mean of their binary cross entropies.

    `error` is the share of wrong labels, and `error_<label>` that of one label.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(1)

    def error(column: int | slice) -> Loss:
        def measure(outputs: Tensor, targets: Tensor) -> Tensor:
            wrong = (outputs > 0) != (targets > 0)
            return wrong[:, column].double().mean()

        return measure

    each = {f"error_{label}": error(number) for number, label in enumerate(labels)}
    return Task("multilabel", len(labels), loss, {"error": error(slice(None)), **each})


def regression(names: Sequence[str], scales: Sequence[float]) -> Task:
    """Numbers, shape (rows, targets), by the mean of their squared errors.

    The targets are standardised, and so is the loss; `scales` are the standard deviations by which
    they were divided. The metrics are in the targets' own units: `rmse` and `mae`, the root of the
    mean square and the mean of the absolute errors, and `r2`, 1 - Σ error² / Σ (target - mean)²
    over the rows. Several targets have `rmse_<target>` and `mae_<target>` each, and `r2` is their
    mean.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean(1)

    metrics: dict[str, Loss | AllRows] = {}
    for number, (name, scale) in enumerate(zip(names, scales, strict=True)):
        ending = "" if len(names) == 1 else f"_{name}"
        metrics[f"rmse{ending}"] = AllRows(_of_column(number, scale, root_mean_square))
        metrics[f"mae{ending}"] = _of_column(number, scale, mean_absolute)
    return Task("regression", len(names), loss, {**metrics, "r2": AllRows(explained_share)})


def root_mean_square(errors: Tensor) -> Tensor:
    return errors.square().mean().sqrt()


def mean_absolute(errors: Tensor) -> Tensor:
    return errors.abs().mean()


def explained_share(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 - Σ error² / Σ (target - mean)², averaged over the targets; nan for a constant target."""
    errors = (outputs - targets).double().square().sum(0)
    spread = (targets - targets.mean(0)).double().square().sum(0)
    return torch.where(spread > 0, 1.0 - errors / spread, torch.nan).mean()


def _of_column(number: int, scale: float, measure: Callable[[Tensor], Tensor]) -> Loss:
    def of_column(outputs: Tensor, targets: Tensor) -> Tensor:
        return scale * measure((outputs - targets)[:, number].double())

    return of_column
