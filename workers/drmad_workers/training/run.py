"""The inner training run: its settings, its forward pass, and what is kept of its path."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from drmad_client.spec.optimizers import OPTIMIZERS, OptimizerName, OptimizerTraits
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.errors import ProblemError, TrainingDiverged
from drmad_workers.objective.losses import total
from drmad_workers.objective.objective import Objective
from drmad_workers.objective.products import Linearization
from drmad_workers.problem import Batch
from drmad_workers.training.cuda_graph import training_step
from drmad_workers.training.optimizers import InnerOptimizer
from drmad_workers.training.optimizers.registry import optimizer_class
from drmad_workers.training.progress import Monitor

Precision = Literal["float32", "bfloat16"]

CHECK_EVERY = 100
"""On a GPU the losses are looked at this often, so that no step waits for the device."""


@dataclass(frozen=True)
class TrainingConfig:
    """How the model is trained in every meta-iteration.

    Attributes:
        optimizer: "sgd" (torch's momentum), "damped_sgd" (the papers': learning rate α is
            worth α(1-γ) of torch's), "adam" or "adamw" (both torch's).
        steps: T, at least 1.
        batch_size: rows of a minibatch.
        learning_rate: α > 0.
        momentum: γ in [0, 1); the two of SGD.
        betas: β₁ and β₂ in [0, 1); this and the rest of the two of Adam.
        eps: ε > 0.
        weight_decay: ω >= 0: added to the gradient as ω w, as torch's SGD and Adam do; for adamw
            decoupled from it.
        precision: "bfloat16" takes the losses under autocast; weights, memory and hypergradient
            stay in float32.
        resample: fresh first weights and minibatches in every meta-iteration; otherwise those of
            the first one come again. (How w_0 is drawn is `Problem.initialize`'s to say.)
    """

    optimizer: OptimizerName = "sgd"
    steps: int = 1000
    batch_size: int = 100
    learning_rate: float = 0.05
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    precision: Precision = "float32"
    resample: bool = True

    def __post_init__(self) -> None:
        def require(holds: bool, field: str, what: str) -> None:
            if not holds:
                raise ProblemError(
                    f"{field} must be {what}, got {getattr(self, field)!r}", f"training.{field}"
                )

        for field, allowed in (("optimizer", OPTIMIZERS), ("precision", get_args(Precision))):
            require(getattr(self, field) in allowed, field, f"one of {', '.join(allowed)}")
        require(self.steps >= 1, "steps", "at least 1")
        for field in ("learning_rate", "eps"):
            require(0.0 < getattr(self, field) < math.inf, field, "a positive number")
        require(0.0 <= self.momentum < 1.0, "momentum", "at least 0 and below 1")
        pair = len(self.betas) == 2 and all(0.0 <= beta < 1.0 for beta in self.betas)
        require(pair, "betas", "two numbers, each at least 0 and below 1")
        require(0.0 <= self.weight_decay < math.inf, "weight_decay", "at least 0")

    @property
    def traits(self) -> OptimizerTraits:
        """The optimizer's row in the table."""
        return OPTIMIZERS[self.optimizer]

    @property
    def first_decay(self) -> float:
        """γ, of Adam β₁: what the hyperparameter `momentum` tunes."""
        return self.betas[0] if self.traits.first_decay == "betas" else self.momentum

    @property
    def memory_rows(self) -> int:
        """Rows of the state, shape (P,) each, that the optimizer keeps beside the weights."""
        return optimizer_class(self.optimizer).memory_rows

    @property
    def path_rows(self) -> int:
        """Rows of the state that an approximate trajectory carries; see InnerOptimizer."""
        return optimizer_class(self.optimizer).path_rows

    def dynamics(self, objective: Objective) -> InnerOptimizer:
        """The update rule, at the rates that the objective's hyperparameters state."""
        return optimizer_class(self.optimizer).configured(
            self,
            learning_rate=objective.rate("learning_rate", self.learning_rate),
            momentum=objective.rate("momentum", self.first_decay),
            weight_decay=objective.rate("weight_decay", self.weight_decay),
        )


class TrajectoryRecorder(Protocol):
    """Keeps of the path what a method needs to walk it backwards."""

    next_step: int
    """The next step that it wants to see; never again when that lies behind the last."""

    def visit(self, step: int, run: "TrainingRun") -> None:
        """Called with the state before `step` (after the last one: `step` = T)."""


class TrainingRun:
    """One training run: the state as it moves, and minibatches that come again.

    Attributes:
        objective: its `weights` hold w_t.
        state: w_t and the memory of the optimizer (v_t), shape (1 + S, P).
        point: the rows of the state at which a step's reverse is linearised.
        path: the rows of them that a stand-in for the path must carry.
        losses: the loss of every step on its minibatch, shape (T,), penalties left out.

    Where the objective stacks R replicas, the state has shape (1 + S, R, P), the losses (T, R).
    """

    def __init__(
        self,
        objective: Objective,
        config: TrainingConfig,
        minibatches: Minibatches,
        monitor: Monitor,
    ) -> None:
        self.objective = objective
        self.dynamics = config.dynamics(objective)
        self.steps = config.steps
        self.monitor = monitor
        self.state = objective.state
        self.state[1:].zero_()
        self.point = self.state[: self.dynamics.point_rows]
        self.path = self.state[: self.dynamics.path_rows]
        self.gradient = torch.empty_like(objective.weights)
        self.losses = objective.weights.new_zeros(config.steps, *objective.weights.shape[:-1])
        self._minibatches = minibatches

    def batch(self, step: int, count: int = 1, every: int = 1) -> Batch:
        """The joined minibatches of `count` steps; also sets the seed of the model's own noise.

        Of every so many of them the first alone.
        """
        if self.objective.stochastic:
            torch.manual_seed(self._minibatches.step_seed(step))
        return self._minibatches.join(step, count, every)

    def index(self, step: int, count: int = 1, every: int = 1) -> Tensor:
        """Positions of the examples of `batch`, shape (rows,)."""
        return self._minibatches.index(step, count, every)

    def epoch(self, rows: int) -> Iterator[tuple[Batch, float]]:
        """The minibatches of the first epoch, joined up to about `rows`, and their share of it."""
        total = self._minibatches.per_epoch
        each = max(1, rows // self._minibatches.batch_size)
        for start in range(0, total, each):
            count = min(each, total - start)
            yield self.batch(start, count), count / total

    def forward(self, recorder: TrajectoryRecorder) -> None:
        """Trains from w_0, which stands in the objective, to w_T.

        Raises:
            TrainingDiverged: a loss or the last weights are not finite.
            Stopped: the monitor was told to stop.
        """
        self.monitor.begin("forward", self.steps)
        on_cpu = self.objective.device.type == "cpu"
        take = training_step(self)
        for step in range(self.steps):
            if step == recorder.next_step:
                recorder.visit(step, self)
            loss = take(step)
            self.losses[step] = loss
            if on_cpu:
                value = float(total(loss))
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
        """Recomputes the points start .. stop-1 from the state at `start` into those of `path`.

        `path` has shape (at least stop - start, *point.shape).
        """
        for step in range(start, stop):
            path[step - start].copy_(self.point)
            if step < stop - 1:
                self.take(step)
                self.monitor.advance(0)

    def linearize(self, start: int, stop: int) -> list[tuple[Tensor, Linearization]]:
        """As `repeat`, but keeps every point with the graph of its gradient.

        The gradient that the training takes anyway is then the first half of a product.
        """
        objective = self.objective
        kept: list[tuple[Tensor, Linearization]] = []
        with objective.elsewhere():
            for step in range(start, stop):
                point = self.point.clone()
                at = objective.linearize(self.batch(step), point[0])
                kept.append((point, at))
                if step < stop - 1:
                    objective.gradient_of(at, self.gradient)
                    self.dynamics.step(step, self.state, self.gradient)
                    self.monitor.advance(0)
        return kept

    def training_loss(self, window: int) -> float:
        """Mean loss of the last `window` steps, plus the penalties at the last weights."""
        return float(self.losses[-window:].mean()) + self.objective.penalty()

    def take(self, step: int) -> Tensor:
        """One step of training; its loss, penalties left out."""
        loss = self.objective.inner_gradient(self.batch(step), self.gradient)
        self.dynamics.step(step, self.state, self.gradient)
        return loss

    def _check_losses(self, stop: int) -> None:
        bad = (~self.losses[:stop].isfinite()).nonzero()
        if len(bad):
            step = int(bad[0][0])
            raise TrainingDiverged(step, self.steps, float(total(self.losses[step])), "loss")
