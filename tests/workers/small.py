"""Small random problems, and their exact hypergradient by plain autograd through the training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from drmad_workers import (
    Evaluation,
    Hyperparameter,
    Method,
    Problem,
    Replay,
    TrainingConfig,
    Tuner,
)
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.problem import Batch

CLASSES = 3


def small_problem(
    model: nn.Module | None = None, rows: int = 12, features: int = 4, seed: int = 0
) -> Problem:
    """Random inputs in float64 and random labels; a tuner converts them to its dtype."""
    draw = torch.Generator().manual_seed(seed)

    def part(count: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(count, features, generator=draw, dtype=torch.float64)
        return inputs, torch.randint(CLASSES, (count,), generator=draw)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model or nn.Sequential(nn.Linear(features, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    return Problem(model.double(), part(rows), part(9))


def mixing_problem(rows: int = 12, seed: int = 0) -> Problem:
    """A loss of the user's own: outputs are mixed by a tensor that also enters the outer loss."""
    problem = small_problem(rows=rows, seed=seed)

    def inner(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        outputs = forward(batch.inputs) @ hyperparameters["mixing"]
        losses = nn.functional.cross_entropy(outputs, batch.targets, reduction="none")
        if "sample_weight" in hyperparameters:
            losses = losses * hyperparameters["sample_weight"][batch.index]
        return losses.mean()

    def outer(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        outputs = forward(batch.inputs)
        loss = nn.functional.cross_entropy(outputs, batch.targets)
        return loss + 0.1 * hyperparameters["mixing"].square().mean()

    problem.inner_loss, problem.outer_loss = inner, outer
    start = torch.eye(CLASSES, dtype=torch.float64) + 0.1
    problem.hyperparameters = {"mixing": Hyperparameter(start)}
    return problem


def tuner_of(
    problem: Problem, kinds: list[Kind], training: TrainingConfig, method: Method | None = None
) -> Tuner:
    return Tuner(problem, kinds, training, method or Replay(), dtype=torch.float64)


def shaken(tuner: Tuner, scale: float = 0.5) -> dict[str, Tensor]:
    """Initial hyperparameters with noise, so that no two are alike."""
    draw = torch.Generator().manual_seed(7)
    return {
        name: value + scale * torch.randn(value.shape, generator=draw, dtype=value.dtype)
        for name, value in tuner.initial_values().items()
    }


def finite_difference(
    tuner: Tuner, values: dict[str, Tensor], name: str, coordinate: int, step: float = 1e-5
) -> float:
    """Central difference of the validation loss over whole training runs."""
    losses = []
    for sign in (1.0, -1.0):
        moved = values[name].clone()
        moved.view(-1)[coordinate] += sign * step
        losses.append(tuner.evaluate({**values, name: moved}, 0).validation_loss)
    return (losses[0] - losses[1]) / (2.0 * step)


def largest_difference(actual: Evaluation, expected: Mapping[str, Tensor]) -> float:
    """Over all hyperparameters, relative to the largest component of each."""
    assert actual.hypergradient.keys() == expected.keys()
    return max(relative(actual.hypergradient[name], expected[name]) for name in expected)


def relative(actual: Tensor, expected: Tensor) -> float:
    largest = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((actual - expected).abs().max() / largest)


def unrolled(
    problem: Problem, training: TrainingConfig, values: Mapping[str, Tensor], l2_per: str | None
) -> dict[str, Tensor]:
    """Hypergradient by autograd through every stored step; written without the engine's parts.

    Knows the kinds l2 (`l2_per`), sample_weight and mixing; the minibatches are the engine's,
    w_0 is the model's.
    """
    raw = {name: value.clone().requires_grad_() for name, value in values.items()}
    examples = Examples(problem.train, "train", torch.device("cpu"), torch.float64)
    minibatches = Minibatches(examples, training.batch_size, (0, 0, 0))
    weights = {name: p.detach().clone().requires_grad_() for name, p in named(problem.model)}
    velocity = {name: torch.zeros_like(value) for name, value in weights.items()}
    gain = 1.0 - training.momentum if training.optimizer == "damped_sgd" else 1.0
    for step in range(training.steps):
        loss = _inner(problem, weights, raw, minibatches.join(step), l2_per)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        for name, gradient in zip(list(weights), gradients, strict=True):
            velocity[name] = training.momentum * velocity[name] - gain * gradient
            weights[name] = weights[name] + training.learning_rate * velocity[name]
    inputs, targets = problem.valid
    outputs = torch.func.functional_call(problem.model, weights, (inputs,))
    outer = nn.functional.cross_entropy(outputs, targets)
    if "mixing" in raw:
        outer = outer + 0.1 * raw["mixing"].square().mean()
    return dict(zip(raw, torch.autograd.grad(outer, list(raw.values())), strict=True))


def named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters())


def _inner(
    problem: Problem,
    weights: Mapping[str, Tensor],
    raw: Mapping[str, Tensor],
    batch: Batch,
    l2_per: str | None,
) -> Tensor:
    outputs = torch.func.functional_call(problem.model, dict(weights), (batch.inputs,))
    if "mixing" in raw:
        outputs = outputs @ raw["mixing"]
    losses = nn.functional.cross_entropy(outputs, batch.targets, reduction="none")
    if "sample_weight" in raw:
        losses = losses * raw["sample_weight"][batch.index].sigmoid()
    total = losses.mean()
    if l2_per is not None:
        start = 0
        for name in ("0.weight", "2.weight"):
            matrix = weights[name]
            rows, columns = matrix.shape
            count = {"weight": rows * columns, "unit": columns, "layer": 1, "model": 1}[l2_per]
            penalties = raw["l2"][start : start + count].exp()
            spread = penalties.view(-1, columns if count > 1 else 1)
            total = total + (matrix.square() * spread).sum()
            start += count if l2_per != "model" else 0
    return total
