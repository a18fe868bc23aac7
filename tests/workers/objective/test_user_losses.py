"""Losses as users write them: derivatives by inputs, norms, checkpoints, ignored rows."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from drmad_workers import (
    Batch,
    CustomTensor,
    HypergradientDiverged,
    Hyperparameter,
    LossWeight,
    OneStep,
    Problem,
    ProblemError,
    Replay,
    Stored,
    TrainingConfig,
    error_rate,
)
from tests.workers.plain_training import require_right
from tests.workers.small import CLASSES, small_problem, tuner_of

TRAINING = TrainingConfig(steps=12, batch_size=4, learning_rate=0.1, momentum=0.5)


def residual(forward: nn.Module, inputs: Tensor) -> Tensor:
    """The mean square of u' + u - sin 3x."""
    inputs = inputs.clone().requires_grad_()
    outputs = forward(inputs)
    (slope,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
    loss: Tensor = (slope + outputs - torch.sin(3 * inputs)).square().mean()
    return loss


def physics() -> Problem:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))
    points = torch.linspace(0.0, 2.0, 30, dtype=torch.float64)[:, None]

    def inner(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        start: Tensor = (forward(batch.inputs.new_zeros(1, 1)) - 1.0).square().mean()
        whole: Tensor = tuned["terms"][0] * residual(forward, batch.inputs)
        return whole + tuned["terms"][1] * start

    return Problem(
        model,
        (points[::2], points[::2]),
        (points[1::2], points[1::2]),
        inner_loss=inner,
        outer_loss=lambda forward, tuned, batch: residual(forward, batch.inputs),
        hyperparameters={"terms": Hyperparameter(torch.zeros(2, dtype=torch.float64), "exp")},
        metrics={"size": lambda outputs, targets: outputs.abs().mean()},
        initialize="reset",
    )


@pytest.mark.parametrize("method", [Stored(), Replay(hvp="finite_difference")])
def test_losses_may_differentiate_by_their_inputs(method: Stored | Replay) -> None:
    tuner = tuner_of(physics(), [CustomTensor("terms")], TRAINING, method)
    found = tuner.evaluate(tuner.initial_values(), 0)
    require_right(found, physics, TRAINING, tuner.initial_values(), "terms")
    assert tuner.train(tuner.initial_values())["validation_loss"] == found.validation_loss


def keep_start(model: nn.Module) -> None:
    model.reset_parameters()  # type: ignore[operator]
    model.start.copy_(model.weight)  # type: ignore[operator, arg-type]


def proximal(distance: Callable[[Tensor], Tensor]) -> Problem:
    """A penalty on the distance from the first weights, which is 0 at the first step."""
    torch.manual_seed(2)
    problem = small_problem(nn.Linear(4, CLASSES))
    problem.model.register_buffer("start", torch.zeros(CLASSES, 4, dtype=torch.float64))
    problem.initialize = keep_start

    def inner(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        moved = forward.weight - forward.start  # type: ignore[operator]
        near = distance(moved)
        return nn.functional.cross_entropy(forward(batch.inputs), batch.targets) + tuned["h"] * near

    problem.inner_loss = inner
    problem.hyperparameters = {"h": Hyperparameter(torch.zeros((), dtype=torch.float64), "exp")}
    return problem


def test_a_norm_at_zero_is_refused_with_its_line_and_a_remedy_that_works() -> None:
    with pytest.raises(ProblemError) as error:
        tuner_of(proximal(torch.Tensor.norm), [CustomTensor("h")], TRAINING)
    assert error.value.field == "problem.inner_loss"
    assert "second derivative of the training loss must be finite" in str(error.value)
    assert f"{Path(__file__).name}:" in str(error.value)
    assert "near = distance(moved)" in str(error.value)

    def build() -> Problem:
        return proximal(lambda moved: (moved.square().sum() + 1e-12).sqrt())

    tuner = tuner_of(build(), [CustomTensor("h")], TRAINING)
    found = tuner.evaluate(tuner.initial_values(), 0)
    assert torch.isfinite(found.hypergradient["h"])


def test_a_method_that_never_reaches_the_first_weights_takes_a_norm_at_zero() -> None:
    for method in (Replay(horizon=3), OneStep()):
        tuner = tuner_of(proximal(torch.Tensor.norm), [CustomTensor("h")], TRAINING, method)
        assert torch.isfinite(tuner.evaluate(tuner.initial_values(), 0).hypergradient["h"])


def test_a_gradient_that_is_not_finite_at_the_first_weights_names_its_line() -> None:
    def root(moved: Tensor) -> Tensor:
        return moved.square().sum().sqrt()

    with pytest.raises(ProblemError) as error:
        tuner_of(proximal(root), [CustomTensor("h")], TRAINING, OneStep())
    assert "the gradient of the training loss must be finite" in str(error.value)
    assert "return moved.square().sum().sqrt()" in str(error.value)
    assert "1e-12" in str(error.value)


def test_a_derivative_that_is_undefined_later_names_the_step_and_the_cause() -> None:
    error = HypergradientDiverged(7, float("nan"), 1e8)
    assert "is not finite at step 7" in str(error)
    assert "a norm or a root at 0" in str(error)
    assert "explode" not in str(error)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = checkpoint(
            lambda x: torch.tanh(x), self.first(inputs), use_reentrant=self.reentrant
        )
        outputs: Tensor = self.last(hidden)
        return outputs


def weighted_problem(model: nn.Module) -> Problem:
    problem = small_problem(model)

    def inner(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        losses = nn.functional.cross_entropy(forward(batch.inputs), batch.targets, reduction="none")
        return (losses * tuned["by_class"][batch.targets]).mean()

    problem.inner_loss, problem.initialize = inner, "reset"
    start = torch.linspace(-0.5, 0.5, CLASSES, dtype=torch.float64)
    problem.hyperparameters = {"by_class": Hyperparameter(start, "exp")}
    return problem


def test_a_reentrant_checkpoint_is_refused_and_the_other_works() -> None:
    for method in (Stored(), Stored(hvp="finite_difference")):
        problem = weighted_problem(Checkpointed(reentrant=True))
        with pytest.raises(ProblemError, match="use_reentrant=False") as error:
            tuner_of(problem, [CustomTensor("by_class")], TRAINING, method)
        assert error.value.field == "model"

    def build() -> Problem:
        return weighted_problem(Checkpointed(reentrant=False))

    for working in (Stored(), Replay(), Stored(hvp="finite_difference")):
        tuner = tuner_of(build(), [CustomTensor("by_class")], TRAINING, working)
        values = tuner.initial_values()
        require_right(tuner.evaluate(values, 0), build, TRAINING, values, "by_class")


def ignoring() -> Problem:
    torch.manual_seed(5)
    problem = small_problem(rows=16)
    problem.initialize = "reset"
    problem.train[1][::3] = -100
    problem.metrics = {"error": error_rate}
    return problem


def test_ignored_rows_have_no_weight_of_a_class() -> None:
    tuner = tuner_of(ignoring(), [LossWeight(init=-0.2)], TRAINING)
    values = tuner.initial_values()
    assert values["loss_weight"].shape == (CLASSES,)
    require_right(tuner.evaluate(values, 0), ignoring, TRAINING, values, "loss_weight")


def test_targets_that_are_all_ignored_have_no_class() -> None:
    problem = ignoring()
    problem.train[1].fill_(-100)
    with pytest.raises(ProblemError, match="ignored rows") as error:
        tuner_of(problem, [LossWeight()], TRAINING)
    assert error.value.field == "hyperparameters.loss_weight"
