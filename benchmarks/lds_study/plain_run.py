"""Plain training with torch.optim, and the scores that need nothing but it: TracIn, influence.

It takes from the engine the draw of the weights and the order of the minibatches.

[Pruthi2020] Estimating training data influence by tracing gradient descent, 2002.08484.
[Koh2017] Understanding black-box predictions via influence functions, 1703.04730, with the
Gauss-Newton matrix in the place of the Hessian, as [Grosse2023], 2308.03296.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vjp, vmap

from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.objective.weight_draw import draw_weights
from drmad_workers.random_streams import WEIGHTS, seed_of
from lds_study.cells import BATCH, STEPS, Cell

Weights = dict[str, Tensor]

CHECKPOINTS = 10
DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SOLVER_STEPS = 50


@dataclass(frozen=True)
class PlainRun:
    """A plain training run.

    Attributes:
        checkpoints: weights after each tenth of the steps, with the learning rate there; the last
            are those at the end.
        seconds: CPU seconds of the steps.
    """

    checkpoints: list[tuple[Weights, float]]
    seconds: float

    @property
    def end(self) -> Weights:
        return self.checkpoints[-1][0]


def plain_run(cell: Cell, seed: int, draw: int) -> PlainRun:
    problem = cell.problem()
    model = problem.model
    torch.manual_seed(seed_of(WEIGHTS, seed, draw, 0))
    with torch.no_grad():
        draw_weights(model, "reset")
    examples = Examples(problem.train, "train", torch.device("cpu"), torch.float32)
    minibatches = Minibatches(examples, BATCH, (seed, draw, 0))
    batches = [minibatches.join(step) for step in range(STEPS)]
    optimizer, factor = cell.plain_optimizer(model), cell.factor()
    checkpoints = []
    started, away = time.process_time(), 0.0
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = cell.learning_rate * factor(step)
        loss = (problem.loss(model(batch.inputs), batch.targets) * 0.5).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if (step + 1) % (STEPS // CHECKPOINTS) == 0:
            paused = time.process_time()
            weights = {name: p.detach().clone() for name, p in model.named_parameters()}
            checkpoints.append((weights, cell.learning_rate * factor(step)))
            away += time.process_time() - paused
    return PlainRun(checkpoints, time.process_time() - started - away)


class Losses:
    """The losses of a cell as functions of the weights."""

    def __init__(self, cell: Cell) -> None:
        self._problem = cell.problem()
        self._model = self._problem.model
        self.train: tuple[Tensor, Tensor] = self._problem.train
        self._valid: tuple[Tensor, Tensor] = self._problem.valid

    def outputs(self, weights: Weights, inputs: Tensor) -> Tensor:
        found: Tensor = functional_call(self._model, weights, (inputs,))
        return found

    def of_example(self, weights: Weights, inputs: Tensor, target: Tensor) -> Tensor:
        outputs = self.outputs(weights, inputs[None])
        return torch.nn.functional.cross_entropy(outputs, target[None])

    def validation(self, weights: Weights) -> Tensor:
        inputs, targets = self._valid
        return torch.nn.functional.cross_entropy(self.outputs(weights, inputs), targets)

    def along(self, weights: Weights, direction: Weights) -> Tensor:
        """<∇ℓ_i, direction> of every training example, shape (examples,)."""

        def one(inputs: Tensor, target: Tensor) -> Tensor:
            found = jvp(lambda w: self.of_example(w, inputs, target), (weights,), (direction,))
            along: Tensor = found[1]
            return along

        found: Tensor = vmap(one)(*self.train)
        return found

    def gauss_newton(self, weights: Weights, direction: Weights) -> Weights:
        """The Gauss-Newton matrix of the training loss times a vector; weights are one half."""
        inputs, targets = self.train

        def outputs(at: Weights) -> Tensor:
            return self.outputs(at, inputs)

        values, tangent = jvp(outputs, (weights,), (direction,))[:2]

        def loss_gradient(at: Tensor) -> Tensor:
            found: Tensor = grad(lambda z: 0.5 * torch.nn.functional.cross_entropy(z, targets))(at)
            return found

        curved = jvp(loss_gradient, (values,), (tangent,))[1]
        back = vjp(outputs, weights)[1]
        (product,) = back(curved)
        return dict(product)


def tracin(losses: Losses, run: PlainRun) -> Tensor:
    """What each example adds to the validation loss: -Σ_k η_k <∇ℓ_i, ∇f> [Pruthi2020]."""
    total = torch.zeros(len(losses.train[1]))
    for weights, rate in run.checkpoints:
        total -= rate * losses.along(weights, grad(losses.validation)(weights))
    return total


def influences(losses: Losses, run: PlainRun) -> Iterator[tuple[float, Tensor]]:
    """For each damping what each example adds: -<∇ℓ_i, (G + damping)⁻¹ ∇f> [Koh2017]."""
    gradient = grad(losses.validation)(run.end)
    for damping in DAMPINGS:
        solved = _solve(losses, run.end, gradient, damping)
        yield damping, -losses.along(run.end, solved)


def _solve(losses: Losses, weights: Weights, right: Weights, damping: float) -> Weights:
    """(G + damping)⁻¹ right by conjugate gradients."""

    def dot(one: Weights, other: Weights) -> float:
        return float(sum((one[name] * other[name]).sum() for name in one))

    solved = {name: torch.zeros_like(part) for name, part in right.items()}
    residual = {name: part.clone() for name, part in right.items()}
    direction, squared = dict(residual), dot(right, right)
    first = squared
    for _ in range(SOLVER_STEPS):
        product = losses.gauss_newton(weights, direction)
        product = {name: product[name] + damping * direction[name] for name in direction}
        step = squared / dot(direction, product)
        solved = {name: solved[name] + step * direction[name] for name in solved}
        residual = {name: residual[name] - step * product[name] for name in residual}
        before, squared = squared, dot(residual, residual)
        if squared < 1e-10 * first:
            break
        direction = {
            name: residual[name] + squared / before * direction[name] for name in direction
        }
    return solved
