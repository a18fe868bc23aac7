"""Tasks: losses and metrics against torch and scikit-learn, over several passes of the model."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn
from torch.nn import functional

from drmad_workers import L2, Problem, Stored, TrainingConfig
from drmad_workers.catalog import tasks
from drmad_workers.catalog.tasks import Task
from tests.workers.small import tuner_of

ROWS = 50
TRAINING = TrainingConfig("sgd", steps=2, batch_size=10, learning_rate=0.1, evaluation_rows=7)


def evaluated(task: Task, targets: Tensor) -> tuple[dict[str, float], Tensor]:
    """The metrics on the validation rows in passes of 7 rows, and the outputs of the model."""
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, 3, generator=draw, dtype=torch.float64)
    problem = Problem(
        nn.Linear(3, task.outputs),
        (inputs, targets),
        (inputs, targets),
        loss=task.loss,
        metrics=task.metrics,
    )
    tuner = tuner_of(problem, [L2(per="layer")], TRAINING, Stored())
    evaluation = tuner.evaluate(tuner.initial_values(), 0)
    model = evaluation.model
    outputs = inputs @ model["weight"].T + model["bias"]
    found = {name.removeprefix("validation_"): v for name, v in evaluation.metrics.items()}
    return {**found, "loss": evaluation.validation_loss}, outputs


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def test_regression_is_measured_in_the_units_of_the_target() -> None:
    scale, targets = 25.0, drawn(ROWS, 1)
    found, outputs = evaluated(tasks.regression(["price"], [scale]), targets)
    truth, guess = scale * targets[:, 0].numpy(), scale * outputs[:, 0].numpy()
    assert found == pytest.approx(
        {
            "loss": float(functional.mse_loss(outputs, targets)),
            "rmse": metrics.root_mean_squared_error(truth, guess),
            "mae": metrics.mean_absolute_error(truth, guess),
            "r2": metrics.r2_score(truth, guess),
        }
    )


def test_several_numbers_are_measured_each_in_its_unit() -> None:
    scales, targets = [3.0, 0.5], drawn(ROWS, 2)
    found, outputs = evaluated(tasks.regression(["a", "b"], scales), targets)
    expected: dict[str, Any] = {
        "loss": float(functional.mse_loss(outputs, targets)),
        "r2": metrics.r2_score(targets.numpy(), outputs.numpy()),
    }
    for number, (name, scale) in enumerate(zip("ab", scales, strict=True)):
        truth, guess = (scale * part[:, number].numpy() for part in (targets, outputs))
        expected[f"rmse_{name}"] = metrics.root_mean_squared_error(truth, guess)
        expected[f"mae_{name}"] = metrics.mean_absolute_error(truth, guess)
    assert found == pytest.approx(expected)


def test_binary_is_measured_by_error_and_area_under_the_curve() -> None:
    targets = (drawn(ROWS) > 0.3).long()
    found, outputs = evaluated(tasks.binary(), targets)
    logits, truth = outputs[:, 0], targets.numpy()
    assert found == pytest.approx(
        {
            "loss": float(functional.binary_cross_entropy_with_logits(logits, targets.double())),
            "error": 1.0 - metrics.accuracy_score(truth, (logits > 0).numpy()),
            "auc": metrics.roc_auc_score(truth, logits.numpy()),
        }
    )


def test_the_area_of_one_class_is_unknown() -> None:
    ones = torch.ones(4, dtype=torch.int64)
    assert np.isnan(float(tasks.area_under_curve(torch.zeros(4, 1), ones)))
    assert np.isnan(float(tasks.explained_share(torch.zeros(4, 1), torch.ones(4, 1))))


def test_labels_are_measured_together_and_each() -> None:
    targets = (drawn(ROWS, 2) > 0.3).double()
    found, outputs = evaluated(tasks.multilabel(["wet", "cold"]), targets)
    wrong = ((outputs > 0) != (targets > 0)).double()
    assert found == pytest.approx(
        {
            "loss": float(functional.binary_cross_entropy_with_logits(outputs, targets)),
            "error": float(wrong.mean()),
            "error_wet": float(wrong[:, 0].mean()),
            "error_cold": float(wrong[:, 1].mean()),
        }
    )
