"""Plain training with torch.optim.

It takes from the engine the draw of the weights and the order of the minibatches.
"""

import time
from dataclasses import dataclass

import torch
from experiments.gradient_scores import Weights, weights_of

from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.objective.parameters.weight_draw import draw_weights
from drmad_workers.random_streams import WEIGHTS, seed_of
from lds_study.cells import BATCH, STEPS, Cell

CHECKPOINTS = 10


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
            checkpoints.append((weights_of(model), cell.learning_rate * factor(step)))
            away += time.process_time() - paused
    return PlainRun(checkpoints, time.process_time() - started - away)
