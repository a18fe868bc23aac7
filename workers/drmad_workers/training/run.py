"""The inner training run: its state, its steps and its forward pass."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import cycle
from typing import Protocol

import torch
from torch import Tensor

from drmad_workers.data.minibatches import Minibatches, StackedMinibatches
from drmad_workers.data.pass_order import Order
from drmad_workers.errors import TrainingDiverged
from drmad_workers.global_generators import seed_all
from drmad_workers.objective.inner import Linearization, total
from drmad_workers.objective.objective import Objective
from drmad_workers.problem import Batch
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.cuda_graph import training_step
from drmad_workers.training.kept_minibatches import KeptMinibatches
from drmad_workers.training.optimizers import InnerOptimizer
from drmad_workers.training.progress import Monitor
from drmad_workers.training.window import WHOLE, Window

CHECK_EVERY = 100
"""Steps between two checks of the losses on a GPU, so that no other step waits for the device."""

RECORDED_STEPS = 100
"""The least steps of a window in which a GPU replays a recorded step."""


class TrajectoryRecorder(Protocol):
    """Keeps of the trajectory what a method needs in its backward pass."""

    next_step: int
    """The next step at which `visit` is called; none if it is not ahead."""

    def visit(self, step: int, run: "TrainingRun") -> None:
        """Called with the state before `step`; `step` = T is the state after the last step."""


class TrainingRun:
    """One training run: its current state, and minibatches that can be drawn again.

    Attributes:
        objective: the objective, whose parameters hold w_t.
        dynamics: the inner optimizer.
        steps: T.
        monitor: receives progress and requests to stop.
        state: w_t with the carried values, and the optimizer's memory (v_t): (1 + S, P + Q).
        optimizer_state: the part of it that the optimizer moves, shape (1 + S, P).
        point: the rows of the state at which the reverse of a step is linearised.
        path: the rows of the state that an approximate trajectory must contain.
        losses: the loss of every step on its minibatch, shape (T,), without penalties.
        accumulate: the minibatches of a step; step t takes accumulate × t and those that follow it.
        clip: what clips the gradients; None for nothing.
        clipped: whether the gradient of each step was clipped, shape (T,).
        window: where the run begins in the training that it continues; its steps are numbered from
            0 all the same.
        kept: the minibatches of a window, which its backward pass reads again.

    With R replicas the state has shape (1 + S, R, P) and the losses have shape (T, R).
    """

    def __init__(
        self,
        objective: Objective,
        config: TrainingConfig,
        minibatches: Minibatches | StackedMinibatches,
        monitor: Monitor,
        window: Window = WHOLE,
        dynamics: InnerOptimizer | None = None,
        kept: KeptMinibatches | None = None,
    ) -> None:
        """
        Args:
            dynamics: the optimizer at the same settings and rates; None makes it.
            kept: the minibatches that an earlier run of the same window keeps; None keeps new ones.
        """
        self.objective = objective
        self.dynamics: InnerOptimizer = dynamics or config.dynamics(objective)
        self.dynamics.first = window.first
        self.steps = config.steps
        self.monitor = monitor
        self.state = objective.parameters.state
        self.window = window
        if window.start is None:
            self.state[1:].zero_()
        self.optimizer_state = self.state[..., : objective.parameters.weights.shape[-1]]
        self.point = self.state[: self.dynamics.point_rows]
        self.path = self.state[: self.dynamics.path_rows]
        weights = objective.parameters.weights
        self.gradient = torch.empty_like(weights)
        self.losses = weights.new_zeros(config.steps, *weights.shape[:-1])
        self.accumulate = config.accumulate
        self.clip = config.clip
        self.clipped = self.losses.bool()
        self._minibatches = minibatches
        self.kept = kept
        if kept is None and window.start is not None:
            self.kept = KeptMinibatches()

    @property
    def reads_gradient(self) -> bool:
        """Whether the reverse of a step of the true trajectory reads the gradient."""
        return self.clip is not None or self.dynamics.reads_gradient_at(None)

    def to_start(self, state: Tensor) -> None:
        """Places the run at the state from which it continues a training."""
        self.state.copy_(state)
        self.objective.parameters.load_carried()

    def batch(self, first: int, count: int = 1, every: int = 1) -> Batch:
        """`count` minibatches from `first` on, joined; also sets the seed of the model's own noise.

        Uses the first of every `every` minibatches.
        """
        return self._joined(self._number(first), count, every)

    def _joined(self, number: int, count: int, every: int = 1) -> Batch:
        """`batch` by the number of the first minibatch in the whole training."""
        if self.objective.parameters.stochastic:
            seed_all(self._minibatches.step_seed(number))
        if self.kept is None or count > 1:
            return self._minibatches.join(number, count, every)
        batch = self.kept.find(number)
        if batch is None:
            batch = self._minibatches.join(number)
            self.kept.keep(number, batch)
        return batch

    def _number(self, minibatch: int) -> int:
        """The number in the whole training of a minibatch of this run."""
        return self.accumulate * self.window.first + minibatch

    def expect(self, order: Order) -> None:
        """States the minibatches that a pass is about to read, if other processes read them.

        Those of a window that are kept are not read again.
        """
        kept = self.kept
        if kept is not None and not order.joins:
            order = replace(order, numbers=(each for each in order.numbers if each not in kept))
        self._minibatches.expect(order)

    def order(self, steps: Iterable[int], joined: int = 1) -> Order:
        """The minibatches of these steps; see step_order."""
        first = self.window.first
        return step_order((first + step for step in steps), self.accumulate, joined)

    def epochs(self) -> Order:
        """The minibatches of the first epoch again and again."""
        return Order(cycle(range(self._minibatches.per_epoch)), joins=True)

    def parts(self, step: int, count: int = 1) -> range:
        """The first minibatch of each of the `accumulate` parts of `count` steps.

        A part has `count` minibatches, as the steps have without accumulation.
        """
        first = self.accumulate * step
        return range(first, first + self.accumulate * count, count)

    def index(self, step: int, count: int = 1, every: int = 1) -> Tensor:
        """The positions of the examples that `count` steps use, shape (rows,); see `batch`."""
        parts = map(self._number, self.parts(step, count))
        return torch.cat([self._minibatches.index(part, count, every) for part in parts], -1)

    def epoch_part(self, start: int, rows: int) -> tuple[Batch, float, int]:
        """Minibatches of the first epoch from `start` on, joined to about `rows` rows.

        Returns the batch, its share of the epoch, and the first minibatch that follows it; 0 at the
        end of the epoch.
        """
        total = self._minibatches.per_epoch
        count = min(max(1, rows // self._minibatches.batch_size), total - start)
        return self._joined(start, count), count / total, (start + count) % total

    def forward(self, recorder: TrajectoryRecorder) -> None:
        """Trains from w_0, the current weights, to w_T.

        Raises:
            TrainingDiverged: a loss or the last weights are not finite.
            Stopped: the caller asked to stop.
        """
        self.monitor.begin("forward", self.steps)
        self.expect(self.order(range(self.steps)))
        on_cpu = self.state.device.type == "cpu"
        # Recording a step takes longer than the few steps of a short window.
        records = self.window.start is None or self.steps >= RECORDED_STEPS
        take = training_step(self) if records else self.take
        parameters, traced = self.objective.parameters, self.objective.inner.traced
        verifies, signature = self.window.verifies, self.window.signature
        if verifies and signature is None:
            signature = parameters.signature()
        for step in range(self.steps):
            if step == recorder.next_step:
                recorder.visit(step, self)
            if verifies and step == self.steps - 1:
                traced.check()
            loss = take(step)
            self.losses[step] = loss
            if on_cpu:
                value = float(total(loss))
                if not math.isfinite(value):
                    raise TrainingDiverged(step, self.steps, value, "loss")
            elif step % CHECK_EVERY == CHECK_EVERY - 1:
                self._check_losses(step + 1)
            self.monitor.advance()
        if not on_cpu:
            self._check_losses(self.steps)
        if verifies and signature is not None:
            parameters.require_signature(signature)
        least, most = torch.aminmax(parameters.weights)
        largest = float(torch.maximum(-least, most))
        if not math.isfinite(largest):
            raise TrainingDiverged(self.steps, self.steps, largest, "weights")
        self.objective.workers.require_same(parameters.weights)
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
        """Like `repeat`, but keeps every point with the graph of its gradient.

        The gradient that the training needs is then the first half of a product. Its values are
        held only where the reverse of a step reads them.
        """
        inner = self.objective.inner
        kept: list[tuple[Tensor, Linearization]] = []
        with inner.parameters.elsewhere():
            for step in range(start, stop):
                point = self.point.clone()
                count = self.optimizer_state.shape[-1]
                self.objective.parameters.load_carried()
                weights, out = point[0][:count], self.gradient if step < stop - 1 else None
                if not self.reads_gradient:
                    at = inner.linearize_into(self.batch(step), out, weights)
                else:
                    at = inner.linearize(self.batch(step), weights)
                    inner.flat_gradient(at.gradients, self.gradient)
                kept.append((point, at))
                if step < stop - 1:
                    self._clip_gradient(step)
                    self.dynamics.step(step, self.optimizer_state, self.gradient)
                    if at.carried is not None:
                        self.objective.parameters.carried_flat.copy_(at.carried.flat)
                    self.monitor.advance(0)
        return kept

    def training_loss(self, window: int) -> float:
        """The mean loss of the last `window` steps, plus the penalties at the last weights."""
        penalty = self.objective.penalties.value(self.objective.parameters.weights)
        return float(self.losses[-window:].mean()) + penalty

    def take(self, step: int) -> Tensor:
        """Takes one training step; returns its loss, without penalties."""
        loss = self.compute_gradient(step)
        self.dynamics.step(step, self.optimizer_state, self.gradient)
        return loss

    def compute_gradient(self, step: int) -> Tensor:
        """Writes the gradient that the optimizer takes, clipped; moves the carried values.

        Returns the loss, without penalties.
        """
        if self.accumulate == 1:
            loss = self.gradient_on(self.batch(step))
        else:
            loss, _ = self.mean_gradient(step, 1, 1, self.gradient)
        self._clip_gradient(step)
        return loss

    def mean_gradient(
        self, step: int, count: int, every: int, out: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Writes the mean gradient of the parts of `count` steps, before clipping, into `out`.

        Moves the carried values once per part. Returns the mean loss, and the carried values before
        each part, shape (Q,).
        """
        parameters = self.objective.parameters
        part, loss = torch.empty_like(out), self.losses.new_zeros(self.losses.shape[1:])
        out.zero_()
        parameters.load_carried()
        carried = []
        for first in self.parts(step, count):
            carried.append(parameters.carried_flat.clone())
            loss += self.objective.inner.gradient(self.batch(first, count, every), part)
            parameters.store_carried()
            out.add_(part, alpha=1.0 / self.accumulate)
        return loss / self.accumulate, carried

    def gradient_on(self, batch: Batch) -> Tensor:
        """Writes the gradient on a batch before clipping; moves the carried values."""
        parameters = self.objective.parameters
        parameters.load_carried()
        loss = self.objective.inner.gradient(batch, self.gradient)
        parameters.store_carried()
        return loss

    def _clip_gradient(self, step: int) -> None:
        if self.clip is not None:
            self.clipped[step] = self.clip.apply(self.gradient)

    def _check_losses(self, stop: int) -> None:
        bad = (~self.losses[:stop].isfinite()).nonzero()
        if len(bad):
            step = int(bad[0][0])
            raise TrainingDiverged(step, self.steps, float(total(self.losses[step])), "loss")


def step_order(steps: Iterable[int], accumulate: int, joined: int = 1) -> Order:
    """The minibatches of these steps, in the direction of the steps.

    A step takes `accumulate` minibatches, and may read them in both directions. The minibatches of
    up to `joined` steps are read together.
    """

    def numbers() -> Iterator[int]:
        before = -1
        for step in steps:
            parts = range(accumulate * step, accumulate * (step + 1))
            yield from parts if step > before else reversed(parts)
            before = step

    return Order(numbers(), accumulate * joined if accumulate > 1 else 1, joined > 1)
