"""Buffers that training changes: the validation loss depends on λ through them too."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import L2, Batch, Problem, SampleWeight
from drmad_workers.hyperparameters.base import Kind
from tests.workers.cases.small import (
    CLASSES,
    EXACT,
    FEATURES,
    WIDTH,
    H,
    class_weighted,
    each_loss,
    problem_of,
    recipe_of,
)
from tests.workers.judge.verdict import Refusal, assert_right, assert_right_or_refused

L2_PER_LAYER: tuple[Kind, ...] = (L2(per="layer", init=-5.0),)


def normalised(norm: nn.Module, *more: nn.Module) -> nn.Sequential:
    first = nn.Linear(FEATURES, WIDTH, bias=False)
    return nn.Sequential(first, norm, nn.Tanh(), *more, nn.Linear(WIDTH, CLASSES))


def batch_norm() -> Problem:
    """The penalty moves the running statistics together with the weights."""
    second = nn.Linear(WIDTH, WIDTH, bias=False)
    model = normalised(nn.BatchNorm1d(WIDTH), second, nn.BatchNorm1d(WIDTH), nn.Tanh())
    return problem_of(model, None)


def batch_norm_and_dropout() -> Problem:
    return problem_of(normalised(nn.BatchNorm1d(WIDTH), nn.Dropout(0.3)), None)


def cumulative_batch_norm() -> Problem:
    """Without a momentum the running statistics are means over all steps so far."""
    return problem_of(normalised(nn.BatchNorm1d(WIDTH, momentum=None)), None)


def frozen_batch_norm() -> Problem:
    """Its statistics stand still, as in fine-tuning."""
    return problem_of(normalised(nn.BatchNorm1d(WIDTH).eval()), None)


def instance_norm() -> Problem:
    channels = nn.Conv1d(1, 4, 3, padding=1)
    norm = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
    rest = (nn.Tanh(), nn.Flatten(), nn.Linear(4 * FEATURES, CLASSES))
    return problem_of(nn.Sequential(nn.Unflatten(1, (1, -1)), channels, norm, *rest), None)


def spectral_norm() -> Problem:
    """Every step moves the vectors of the power iteration by which the weights are divided."""
    first = nn.utils.parametrizations.spectral_norm(nn.Linear(FEATURES, WIDTH))
    return problem_of(nn.Sequential(first, nn.Tanh(), nn.Linear(WIDTH, CLASSES)))


class Hidden(nn.Module):
    """A perceptron that keeps its hidden layer for the loss."""

    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        self.hidden = torch.tanh(self.first(inputs))
        outputs: Tensor = self.last(self.hidden)
        return outputs


class Annealed(Hidden):
    """Counts its steps in a buffer."""

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.step += 1
        return super().forward(inputs)


def counter() -> Problem:
    """An auxiliary loss of the first 16 steps."""

    def loss(forward: Annealed, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
        fit = each_loss(forward(batch.inputs), batch.targets).mean()
        share = (1.0 - forward.step / 16.0).clamp(min=0.0)
        return fit + share * (tuned["h"] * forward.hidden[:, :CLASSES].square().mean(0)).sum()

    return problem_of(Annealed(), loss)


class Taught(nn.Module):
    """A moving average of the weights, the teacher, in a buffer that every step writes."""

    teacher: Tensor

    def __init__(self, rebind: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)
        self.rebind = rebind
        self.register_buffer("teacher", torch.zeros(CLASSES, FEATURES))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                if self.rebind:
                    self.teacher = 0.9 * self.teacher + 0.1 * self.layer.weight
                else:
                    self.teacher.mul_(0.9).add_(self.layer.weight, alpha=0.1)
        outputs: Tensor = self.layer(inputs)
        return outputs


def taught(forward: Taught, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    outputs: Tensor = forward(batch.inputs)
    distance: Tensor = (outputs - batch.inputs @ forward.teacher.t()).square().mean(0)
    return each_loss(outputs, batch.targets).mean() + (tuned["h"] * distance).sum()


def teacher_in_place() -> Problem:
    return problem_of(Taught(rebind=False), taught)


def teacher_rebound() -> Problem:
    return problem_of(Taught(rebind=True), taught)


class Centred(nn.Module):
    """Subtracts a running mean, kept with its graph cut, in training too."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        if self.training:
            self.mean.copy_(self.mean.lerp(hidden.mean(0).detach(), 0.3))
        outputs: Tensor = self.last(hidden - self.mean)
        return outputs


def running_mean() -> Problem:
    return problem_of(Centred())


SAMPLE_WEIGHTS: tuple[Kind, ...] = (SampleWeight(),)
CASES: dict[str, tuple[Callable[[], Problem], tuple[Kind, ...]]] = {
    "batch norm, l2": (batch_norm, L2_PER_LAYER),
    "batch norm and dropout, sample weights": (batch_norm_and_dropout, SAMPLE_WEIGHTS),
    "cumulative batch norm, l2": (cumulative_batch_norm, L2_PER_LAYER),
    "frozen batch norm, l2": (frozen_batch_norm, L2_PER_LAYER),
    "instance norm with running statistics, l2": (instance_norm, L2_PER_LAYER),
    "spectral norm": (spectral_norm, H),
    "counter": (counter, H),
    "teacher in place": (teacher_in_place, H),
    "teacher rebound": (teacher_rebound, H),
    "running mean": (running_mean, H),
}


@pytest.mark.parametrize("name", CASES)
def test_buffers_are_part_of_what_is_differentiated(name: str) -> None:
    build, kinds = CASES[name]
    assert_right(recipe_of(build, kinds), EXACT, draws=(0, 1))


class Rotary(nn.Module):
    """Positions as rotations of pairs of features: a complex buffer."""

    rotation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        angles = torch.linspace(0.5, 2.5, WIDTH // 2)
        self.register_buffer("rotation", torch.polar(torch.ones(WIDTH // 2), angles))

    def forward(self, inputs: Tensor) -> Tensor:
        pairs = torch.view_as_complex(torch.tanh(self.first(inputs)).view(-1, WIDTH // 2, 2))
        turned = torch.view_as_real(pairs * self.rotation).flatten(1)
        outputs: Tensor = self.last(turned + turned.square())
        return outputs


class RotaryInReal(Rotary):
    """The same with real numbers: the remedy where complex buffers are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rotation", torch.view_as_real(self.rotation).clone())

    def forward(self, inputs: Tensor) -> Tensor:
        real, imaginary = torch.tanh(self.first(inputs)).view(-1, WIDTH // 2, 2).unbind(2)
        cosine, sine = self.rotation.unbind(1)
        both = (real * cosine - imaginary * sine, real * sine + imaginary * cosine)
        turned = torch.stack(both, dim=2).flatten(1)
        outputs: Tensor = self.last(turned + turned.square())
        return outputs


def test_complex_buffers_keep_their_imaginary_parts() -> None:
    refusal = Refusal(("model",), "rotation", lambda: problem_of(RotaryInReal()))
    assert_right_or_refused(recipe_of(lambda: problem_of(Rotary())), EXACT, refusal)


class Masked(nn.Module):
    """Registers a buffer at the first forward pass."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        if not hasattr(self, "mask"):
            self.register_buffer("mask", torch.ones(inputs.shape[1]).to(inputs))
        outputs: Tensor = self.layer(inputs * self.mask)
        return outputs


class Counted(Masked):
    """Registers a buffer at the first forward pass, and writes it in every step."""

    seen: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        if not hasattr(self, "seen"):
            self.register_buffer("seen", torch.zeros(()).to(inputs))
        if self.training:
            self.seen += 0.1
        return super().forward(inputs) * torch.cos(self.seen)


@pytest.mark.parametrize("model", [Masked, Counted])
def test_buffers_of_the_first_forward_pass(model: type[nn.Module]) -> None:
    def called_once() -> Problem:
        """The remedy: build() calls the model once, in evaluation mode."""
        problem = problem_of(model(), class_weighted)
        problem.model.eval()(torch.zeros(1, FEATURES))
        problem.model.train()
        return problem

    refusal = Refusal(("model",), r"build\(\)|__init__", called_once)
    assert_right_or_refused(recipe_of(lambda: problem_of(model())), EXACT, refusal)
