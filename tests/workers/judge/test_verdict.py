"""The judge itself: closed forms, torch's own optimizers, and faults that it must report."""

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import L2, InitScale, Problem, SampleWeight, Stored, TrainingConfig
from tests.workers.judge.optimizers import DampedSGD
from tests.workers.judge.plain_training import Recipe, plain_training
from tests.workers.judge.tuned import Layer, units_of
from tests.workers.judge.verdict import (
    Direction,
    central_differences,
    directions_of,
    faults,
    wrong_slopes,
    wrong_weights,
)


def line() -> Problem:
    """ℓ = (w x - y)² / 2 with one row, x = 2, y = 3; w_0 = 1."""

    def start(model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.fill_(1.0)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (outputs - targets).square().sum(1)

    data = (torch.tensor([[2.0]]), torch.tensor([[3.0]]))
    return Problem(nn.Linear(1, 1, bias=False), data, data, loss=loss, initialize=start)


ONE_STEP = TrainingConfig("sgd", steps=1, batch_size=1, learning_rate=0.1, momentum=0.0)


def test_one_step_is_the_closed_form() -> None:
    """w_1 = s - α (c x (s x - y) + 2 e^λ s) at c = σ(μ), s = e^ν; f = (w_1 x - y)² / 2."""
    recipe = Recipe(line, (L2(per="model"), SampleWeight(), InitScale()), ONE_STEP)
    raw = {"l2": -1.0, "sample_weight": 0.4, "init_scale": 0.2}
    values = {name: torch.tensor([value], dtype=torch.float64) for name, value in raw.items()}
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    weight, scale = leaves["sample_weight"].sigmoid(), leaves["init_scale"].exp()
    slope = weight * 2.0 * (2.0 * scale - 3.0) + 2.0 * leaves["l2"].exp() * scale
    loss = 0.5 * (2.0 * (scale - 0.1 * slope) - 3.0).square().sum()
    expected = torch.autograd.grad(loss, list(leaves.values()))
    assert plain_training(recipe, values).validation_loss == pytest.approx(loss.item(), rel=1e-12)
    found = central_differences(recipe, values, directions_of(values))
    assert found == pytest.approx([float(each) for each in expected], rel=1e-8)


def test_damped_sgd_is_sgd_with_dampening_after_a_step_at_rest() -> None:
    """torch does not damp its first step: a gradient of zero first leaves a velocity of 0."""
    draw = torch.Generator().manual_seed(0)
    one, other = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    ours = DampedSGD([{"params": [one], "lr": 0.1, "momentum": 0.6, "weight_decay": 0.2}])
    torchs = torch.optim.SGD([other], 0.1, momentum=0.6, dampening=0.6, weight_decay=0.2)
    torchs.state[other]["momentum_buffer"] = torch.zeros_like(other)
    for _ in range(5):
        one.grad = torch.randn(3, generator=draw, dtype=torch.float64)
        other.grad = one.grad.clone()
        ours.step()
        torchs.step()
    torch.testing.assert_close(one, other, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(3, 2), [[0, 1, 2], [0, 1, 2]]),
        (nn.Embedding(2, 3), [[0, 0, 0], [1, 1, 1]]),
        (nn.Conv1d(2, 2, 1), [[[0], [1]], [[0], [1]]]),
        (nn.Conv1d(4, 4, 1, groups=2), [[[0], [1]], [[0], [1]], [[2], [3]], [[2], [3]]]),
        (nn.ConvTranspose1d(2, 3, 1), [[[0], [0], [0]], [[1], [1], [1]]]),
    ],
)
def test_a_unit_is_an_input_of_the_layer(module: nn.Module, expected: list[object]) -> None:
    name, parameter = next(module.named_parameters())
    assert units_of(Layer(name, module, parameter), "unit").tolist() == expected


def test_faults_are_reported() -> None:
    """A hypergradient that is off by 1e-4 of itself, and weights by 1e-6."""
    direction = Direction("l2", torch.ones(1, dtype=torch.float64))
    right = {"l2": torch.tensor([0.5], dtype=torch.float64)}
    assert wrong_slopes(right, [direction], [0.5], 1e-5) == []
    assert len(wrong_slopes(right, [direction], [0.50005], 1e-5)) == 1
    assert len(wrong_slopes({"l2": torch.tensor([torch.nan])}, [direction], [0.5], 1e-5)) == 1
    weights = {"weight": torch.ones(2)}
    assert wrong_weights(weights, weights, 1e-9) == []
    assert len(wrong_weights({"weight": torch.ones(2) + 1e-6}, weights, 1e-9)) == 1
    assert len(wrong_weights({}, weights, 1e-9)) == 1


def test_the_engine_is_right_in_one_step() -> None:
    assert faults(Recipe(line, (SampleWeight(),), ONE_STEP), [Stored()]) == []


def test_a_hyperparameter_without_effect_gives_no_verdict() -> None:
    recipe = Recipe(line, (L2(per="model", init=-30.0),), ONE_STEP)
    with pytest.raises(ValueError, match="l2 must move the validation loss"):
        faults(recipe, [Stored()])
