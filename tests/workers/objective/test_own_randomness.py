"""Draws of a user's loss and model: repeated under the engine's seeds, or refused by name."""

import random
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    Batch,
    CustomTensor,
    Hyperparameter,
    Method,
    Problem,
    ProblemError,
    Replay,
    SampleWeight,
    Stored,
    TrainingConfig,
)
from tests.workers.plain_training import require_right
from tests.workers.small import CLASSES, small_problem, tuner_of

TRAINING = TrainingConfig(steps=8, batch_size=4, learning_rate=0.2, momentum=0.5)
OWN = torch.Generator().manual_seed(3)


def of_python(inputs: Tensor) -> Tensor:
    return inputs * random.uniform(0.5, 1.5)


def of_numpy(inputs: Tensor) -> Tensor:
    return inputs + torch.from_numpy(np.random.normal(size=tuple(inputs.shape)))


def of_torch(inputs: Tensor) -> Tensor:
    return inputs + torch.randn_like(inputs)


class Noisy(nn.Module):
    def __init__(self, noise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.noise = noise
        self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.net(self.noise(inputs) if self.training else inputs)
        return outputs


def draw_by_numpy_and_python(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.copy_(torch.from_numpy(np.random.normal(size=tuple(parameter.shape))))
        parameter.mul_(random.uniform(0.4, 0.6))


def weighted(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    losses = nn.functional.cross_entropy(forward(batch.inputs), batch.targets, reduction="none")
    return (losses * tuned["by_class"][batch.targets]).mean()


def noisy_problem(noise: Callable[[Tensor], Tensor]) -> Problem:
    problem = small_problem(Noisy(noise))
    problem.inner_loss, problem.initialize = weighted, draw_by_numpy_and_python
    start = torch.linspace(-0.5, 0.5, CLASSES, dtype=torch.float64)
    problem.hyperparameters = {"by_class": Hyperparameter(start, "exp")}
    return problem


@pytest.mark.parametrize("noise", [of_python, of_numpy, of_torch])
@pytest.mark.parametrize("method", [Stored(), Replay(), Replay(hvp="finite_difference")])
def test_draws_of_every_global_generator_are_those_of_a_plain_loop(
    noise: Callable[[Tensor], Tensor], method: Method
) -> None:
    tuner = tuner_of(noisy_problem(noise), [CustomTensor("by_class")], TRAINING, method)
    random.seed(5)
    np.random.seed(5)
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # type: ignore[index]
    found = tuner.evaluate(tuner.initial_values(), 0)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), states[2])
    require_right(found, lambda: noisy_problem(noise), TRAINING, tuner.initial_values(), "by_class")


def test_a_held_out_loss_that_draws_has_one_value() -> None:
    problem = noisy_problem(of_torch)
    problem.outer_loss = lambda forward, tuned, batch: nn.functional.cross_entropy(
        forward(of_numpy(batch.inputs)), batch.targets
    )
    tuner = tuner_of(problem, [CustomTensor("by_class")], TRAINING)
    first = tuner.evaluate(tuner.initial_values(), 0)
    random.seed(1)
    np.random.seed(1)
    again = tuner.evaluate(tuner.initial_values(), 0)
    assert first.validation_loss == again.validation_loss
    assert torch.equal(first.hypergradient["by_class"], again.hypergradient["by_class"])


class OwnGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.draw = torch.Generator().manual_seed(1)
        self.last = nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        noise = torch.randn(inputs.shape, generator=self.draw, dtype=inputs.dtype)
        outputs: Tensor = self.last(inputs + noise)
        return outputs


class ModuleLevel(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs * torch.rand(inputs.shape, generator=OWN))


def captured() -> Problem:
    own = np.random.default_rng(0)
    problem = noisy_problem(lambda inputs: inputs)

    def loss(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return weighted(forward, tuned, batch) * own.uniform(0.5, 1.5)

    problem.inner_loss = loss
    return problem


def counting() -> Problem:
    calls: list[int] = []
    problem = noisy_problem(lambda inputs: inputs)

    def loss(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        calls.append(1)
        return weighted(forward, tuned, batch) / len(calls)

    problem.inner_loss = loss
    return problem


def with_model(model: nn.Module) -> Problem:
    problem = noisy_problem(lambda inputs: inputs)
    problem.model = nn.Sequential(model).double()
    return problem


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: with_model(OwnGenerator()), "the attribute '0.draw' of the model"),
        (lambda: with_model(ModuleLevel(4, CLASSES)), "the variable 'OWN' of forward"),
        (captured, "the variable 'own' of loss"),
        (counting, "other state in buffers"),
    ],
)
def test_a_loss_that_differs_under_the_same_seeds_is_refused(
    build: Callable[[], Problem], words: str
) -> None:
    with pytest.raises(ProblemError) as error:
        tuner_of(build(), [CustomTensor("by_class")], TRAINING)
    assert error.value.field == "problem.inner_loss"
    assert words in str(error.value)
    assert "global generator" in str(error.value)


def test_a_model_with_its_own_generator_is_refused_as_the_model() -> None:
    problem = small_problem(nn.Sequential(OwnGenerator()))
    with pytest.raises(ProblemError, match=r"'0\.draw'") as error:
        tuner_of(problem, [SampleWeight()], TRAINING)
    assert error.value.field == "model"
