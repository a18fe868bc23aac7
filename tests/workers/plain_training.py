"""A training run as plain PyTorch has it, and its derivative by central differences, in float64.

It takes the rows of each minibatch and the seeds of each draw from the engine, and nothing else.
"""

import random
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from drmad_workers import Evaluation, Problem, TrainingConfig
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.objective.parameters.weight_draw import draw_weights
from drmad_workers.problem import Batch
from drmad_workers.random_streams import WEIGHTS, seed_of

CPU = torch.device("cpu")


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def held_out_loss(
    problem: Problem, training: TrainingConfig, values: Mapping[str, Tensor]
) -> float:
    """The outer loss after SGD at the transformed hyperparameters `values` of the inner loss."""
    model = problem.model.double()
    seed_everything(seed_of(WEIGHTS, 0, 0, 0))
    with torch.no_grad():
        draw_weights(model, problem.initialize)
    model.train()
    examples = Examples(problem.train, "train", CPU, torch.float64)
    minibatches = Minibatches(examples, training.batch_size, (0, 0, 0))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=training.learning_rate, momentum=training.momentum
    )
    for step in range(training.steps):
        batch = minibatches.join(step)
        seed_everything(minibatches.step_seed(step))
        if problem.inner_loss is not None:
            loss = problem.inner_loss(model, values, batch)
        else:
            losses = problem.loss(model(batch.inputs), batch.targets)
            if "loss_weight" in values:
                kept = batch.targets >= 0
                losses = losses[kept] * values["loss_weight"][batch.targets[kept]]
            loss = losses.sum() / training.batch_size
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    inputs, targets = problem.valid
    batch = Batch((inputs.double(), targets), torch.arange(len(inputs)))
    if problem.outer_loss is not None:
        return float(problem.outer_loss(model, values, batch).detach())
    with torch.no_grad():
        return float(problem.loss(model(batch.inputs), targets).mean())


def require_right(
    found: Evaluation,
    build: Callable[[], Problem],
    training: TrainingConfig,
    raw: Mapping[str, Tensor],
    name: str,
    tolerance: float = 1e-5,
) -> None:
    """Asserts the validation loss, and the derivative by e^λ of `name` along a direction.

    The central difference over 2e-5 is exact to about 1e-8 relative to the derivative.
    """
    direction = torch.linspace(0.5, -1.0, raw[name].numel(), dtype=torch.float64)
    direction = direction.view(raw[name].shape)

    def at(offset: float) -> float:
        moved = {n: value.double().exp() for n, value in raw.items()}
        moved[name] = (raw[name].double() + offset * direction).exp()
        return held_out_loss(build(), training, moved)

    expected = (at(1e-5) - at(-1e-5)) / 2e-5
    along = float((found.hypergradient[name].double() * direction).sum())
    assert abs(found.validation_loss - at(0.0)) <= tolerance * abs(at(0.0))
    assert abs(along - expected) <= tolerance * abs(expected)
    assert abs(expected) > 1e-6
