"""The inner training run: its settings, its forward pass, and what is kept of its path."""

import math
from dataclasses import dataclass
from typing import Protocol, get_args

import torch
from torch import Tensor

from drmad_workers.batches import Minibatches
from drmad_workers.dynamics import Momentum, Optimizer, make_dynamics
from drmad_workers.errors import ProblemError, TrainingDiverged
from drmad_workers.monitor import Monitor
from drmad_workers.objective import Objective
from drmad_workers.problem import Batch

CHECK_EVERY = 100
"""On a GPU the losses are looked at this often, so that no step waits for the device."""


@dataclass(frozen=True)
class TrainingConfig:
    """How the model is trained in every meta-iteration.

    Attributes:
        optimizer: "sgd" (torch's momentum) or "damped_sgd" (the papers': learning rate α is
            worth α(1-γ) of torch's).
        steps: T, at least 1.
        batch_size: rows of a minibatch.
        learning_rate: α > 0.
        momentum: γ in [0, 1).
        resample: fresh first weights and minibatches in every meta-iteration; otherwise those of
            the first one come again. (How w_0 is drawn is `Problem.initialize`'s to say.)
    """

    optimizer: Optimizer = "sgd"
    steps: int = 1000
    batch_size: int = 100
    learning_rate: float = 0.05
    momentum: float = 0.9
    resample: bool = True

    def __post_init__(self) -> None:
        optimizers = get_args(Optimizer)
        if self.optimizer not in optimizers:
            raise ProblemError(
                f"optimizer must be one of {', '.join(optimizers)}, got {self.optimizer!r}",
                "training.optimizer",
            )
        if self.steps < 1:
            raise ProblemError(f"steps must be at least 1, got {self.steps}", "training.steps")
        if not 0.0 < self.learning_rate < math.inf:
            raise ProblemError(
                f"learning_rate must be a positive number, got {self.learning_rate}",
                "training.learning_rate",
            )
        if not 0.0 <= self.momentum < 1.0:
            raise ProblemError(
                f"momentum must be at least 0 and below 1, got {self.momentum}",
                "training.momentum",
            )

    def dynamics(self) -> Momentum:
        return make_dynamics(self.optimizer, self.learning_rate, self.momentum)


class Recorder(Protocol):
    """Keeps of the path what a method needs to walk it backwards."""

    next_step: int
    """The next step that it wants to see; never again when that lies behind the last."""

    def visit(self, step: int, run: "TrainingRun") -> None:
        """Called with the state before `step` (after the last one: `step` = T)."""


class TrainingRun:
    """One training run: the state w_t, v_t as it moves, and minibatches that come again.

    Attributes:
        objective: its `weights` hold w_t.
        velocity: v_t, shape (P,).
        losses: the loss of every step on its minibatch, shape (T,), penalties left out.
    """

    def __init__(
        self,
        objective: Objective,
        config: TrainingConfig,
        minibatches: Minibatches,
        monitor: Monitor,
    ) -> None:
        self.objective = objective
        self.dynamics = config.dynamics()
        self.steps = config.steps
        self.monitor = monitor
        self.velocity = torch.zeros_like(objective.weights)
        self.gradient = torch.empty_like(objective.weights)
        self.losses = torch.zeros(config.steps, dtype=objective.dtype, device=objective.device)
        self._minibatches = minibatches

    def batch(self, step: int, count: int = 1) -> Batch:
        """The joined minibatches of `count` steps; also sets the seed of the model's own noise."""
        if self.objective.stochastic:
            torch.manual_seed(self._minibatches.step_seed(step))
        return self._minibatches.join(step, count)

    def forward(self, recorder: Recorder) -> None:
        """Trains from w_0, which stands in the objective, to w_T.

        Raises:
            TrainingDiverged: a loss or the last weights are not finite.
            Stopped: the monitor was told to stop.
        """
        self.monitor.begin("forward", self.steps)
        on_cpu = self.objective.device.type == "cpu"
        for step in range(self.steps):
            if step == recorder.next_step:
                recorder.visit(step, self)
            loss = self._step(step)
            self.losses[step] = loss
            if on_cpu:
                value = float(loss)
                if not math.isfinite(value):
                    raise TrainingDiverged(step, self.steps, value, "loss")
            elif step % CHECK_EVERY == CHECK_EVERY - 1:
                self._check_losses(step + 1)
            self.monitor.advance()
        self._check_losses(self.steps)
        largest = float(self.objective.weights.abs().max())
        if not math.isfinite(largest):
            raise TrainingDiverged(self.steps, self.steps, largest, "weights")
        if recorder.next_step == self.steps:
            recorder.visit(self.steps, self)
        self.monitor.end()

    def repeat(self, start: int, stop: int, path: Tensor) -> None:
        """Recomputes w_start .. w_{stop-1} from the state at `start` into the rows of `path`."""
        for step in range(start, stop):
            path[step - start].copy_(self.objective.weights)
            if step < stop - 1:
                self._step(step)
                self.monitor.advance(0)

    def training_loss(self, window: int) -> float:
        """Mean loss of the last `window` steps, plus the penalties at the last weights."""
        return float(self.losses[-window:].mean()) + self.objective.penalty()

    def _step(self, step: int) -> Tensor:
        loss = self.objective.inner_gradient(self.batch(step), self.gradient)
        self.dynamics.step(self.objective.weights, self.velocity, self.gradient)
        return loss

    def _check_losses(self, stop: int) -> None:
        bad = (~self.losses[:stop].isfinite()).nonzero()
        if len(bad):
            step = int(bad[0])
            raise TrainingDiverged(step, self.steps, float(self.losses[step]), "loss")
