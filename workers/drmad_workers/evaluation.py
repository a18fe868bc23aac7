"""The evaluation of hyperparameters: a training run, its metrics and its hypergradient.

One code path serves one replica and a batch of R replicas; one replica is a batch of one.
"""

import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from drmad_workers.data.minibatches import Minibatches, StackedMinibatches
from drmad_workers.errors import Restart, TrainingDiverged
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.hypergradients.automatic.choice import Choice
from drmad_workers.hypergradients.automatic.usefulness import OtherDraw, OuterLoop
from drmad_workers.hypergradients.backward_pass import BackwardPass, DifferentiatedRun, ReplicaRun
from drmad_workers.hypergradients.method import Method
from drmad_workers.objective.held_out import diagnostic_figures, held_out_figures, model_state
from drmad_workers.objective.objective import Objective
from drmad_workers.replica import Replica
from drmad_workers.training.progress import Monitor
from drmad_workers.training.run import TrainingRun, step_order

logger = logging.getLogger(__name__)

T = TypeVar("T")

OTHER_DRAW = 2**40
"""Draws from this one on are those that a probe of `auto` looks at beside its own."""


@dataclass(frozen=True)
class Evaluation:
    """The results of one training run and its backward pass.

    Attributes:
        validation_loss: the outer loss at w_T: on the examples that judge, if there are any.
        training_loss: the mean inner loss over the last epoch (at most T steps), with the
            penalties at w_T.
        metrics: metrics on held-out data, such as validation_error, test_error, test_loss;
            fitted_loss, see held_out_metrics; and clipped_steps, the share of steps whose gradient
            was clipped, where gradients are.
        diagnostics: the problem's own diagnostics of the hyperparameters.
        hypergradient: d validation_loss / dλ by name, in the shape of λ, on the CPU.
        model: weights and buffers at w_T by state_dict name, on the CPU; of a model with frozen
            parameters only what training changes.
        seconds: the wall-clock seconds of the phases "forward", "evaluate" and "backward", for
            all replicas of a batch together.
        peak_memory_bytes: the peak memory of the device; on the CPU the peak of the process.
        method: the name of the method that computed the hypergradient.
        backward_steps: the number of Hessian-vector products.
        cost: the cost of all training runs and backward passes, fidelity probes included, in
            plain training runs, by counting gradients and products (see Method.cost).
        choice: the decision of `auto` and its measurements, for the next meta-iteration.
    """

    validation_loss: float
    training_loss: float
    metrics: dict[str, float]
    diagnostics: dict[str, float]
    hypergradient: dict[str, Tensor]
    model: dict[str, Tensor]
    seconds: dict[str, float]
    peak_memory_bytes: int
    method: str
    backward_steps: int
    cost: float
    choice: Choice | None = None


def differentiated_run(
    replicas: Sequence[Replica],
    values: Mapping[str, Tensor],
    draw: int,
    monitor: Monitor,
    stacked: Objective | None = None,
) -> DifferentiatedRun:
    """The training run of the replicas at λ, which DifferentiatedRun.forward starts.

    Args:
        replicas: one replica, or R replicas whose weights `stacked` holds side by side.
        values: λ by name.
        draw: with the seed and the replica it determines w_0 and every minibatch.
        monitor: receives progress.
        stacked: the objective of R replicas; None for one replica.
    """
    training = replicas[0].training
    runs = [replica.training_run(values, draw, monitor) for replica in replicas]
    run = runs[0].run
    if stacked is not None:
        stacked.parameters.attach()
        stacked.set_hyperparameters(values)
        run = TrainingRun(stacked, training, minibatches_of(replicas, draw, True), monitor)
    return DifferentiatedRun(run, runs, training)


def minibatches_of(
    replicas: Sequence[Replica], draw: int, side_by_side: bool
) -> Minibatches | StackedMinibatches:
    """The minibatches of a training run of one replica, or of several side by side."""
    singles = [replica.minibatches(draw) for replica in replicas]
    if not side_by_side:
        return singles[0]
    return StackedMinibatches(singles, replicas[0].train_examples)


def evaluate(
    replicas: Sequence[Replica],
    method: Method,
    values: Mapping[str, Tensor],
    iteration: int,
    draw: int,
    monitor: Monitor,
    choice: Choice | None = None,
    stacked: Objective | None = None,
    outer: OuterLoop | None = None,
) -> list[Evaluation]:
    """Trains at λ, measures on held-out data and differentiates; one Evaluation per replica.

    Leaves the user's model with the weights that it was given.

    Args:
        replicas, values, draw, monitor, stacked: see `differentiated_run`.
        method: the method; `auto` takes one replica only.
        iteration: the number of the meta-iteration.
        choice: the choice of `auto` in the previous meta-iteration.
        outer: the outer loop, by which `auto` may look at another draw; None if it is not known.
    """
    return repeated_on_restart(
        lambda: _evaluate(
            replicas, method, values, iteration, draw, monitor, choice, stacked, outer
        )
    )


def repeated_on_restart(work: Callable[[], T]) -> T:
    """The result of `work`, which is repeated for as long as it raises Restart."""
    while True:
        try:
            return work()
        except Restart as restart:
            logger.info("the run is repeated: %s", restart)
            restart.learn()


def _evaluate(
    replicas: Sequence[Replica],
    method: Method,
    values: Mapping[str, Tensor],
    iteration: int,
    draw: int,
    monitor: Monitor,
    choice: Choice | None,
    stacked: Objective | None,
    outer: OuterLoop | None,
) -> list[Evaluation]:
    device = replicas[0].device
    with replicas[0].at_work():
        try:
            clock = Clock(device)
            draw_of = replicas[0].training.draw_of
            differentiated = differentiated_run(replicas, values, draw_of(draw), monitor, stacked)
            plan, another = None, None
            if isinstance(method, Auto):
                (replica,) = replicas
                bound = replica.hyperparameters.values()
                plan = method.plan(
                    choice, iteration, values, replica.training, bound, replica.copy_bytes, outer
                )
                if replica.training.resample and plan.reason is not None:
                    another = AnotherDraw(replica, values, OTHER_DRAW + draw, monitor)
            differentiated.forward([method] if plan is None else plan.methods())
            clock.lap("forward")

            monitor.begin("evaluate", len(replicas))
            measured = []
            for replica, own in zip(replicas, differentiated.replicas, strict=True):
                replica.objective.parameters.attach()
                replica.objective.parameters.load_carried()
                measured.append(measure(replica, own, monitor))
            clock.lap("evaluate")

            if plan is None:
                passes, choice = differentiated.backward(method), None
            else:
                settled, choice = plan.settle(
                    lambda each: differentiated.backward(each)[0],
                    None if another is None else another.as_seen(),
                )
                passes = [settled]
                differentiated.cost += 0.0 if another is None else another.cost
            clock.lap("backward")
            order = step_order(range(replicas[0].training.steps), replicas[0].training.accumulate)
            minibatches_of(replicas, draw_of(draw + 1), stacked is not None).expect(order)
        finally:
            replicas[0].objective.parameters.attach()
            replicas[0].objective.parameters.restore_given()
    peak = peak_memory_bytes(device)
    return [
        Evaluation(
            validation_loss=(
                backward.validation_loss if own.judged_loss is None else own.judged_loss
            ),
            training_loss=own.training_loss,
            metrics=own.metrics,
            diagnostics=own.diagnostics,
            hypergradient=backward.hypergradient,
            model=own.model,
            seconds=clock.seconds,
            peak_memory_bytes=peak,
            method=backward.method.name,
            backward_steps=backward.products,
            cost=differentiated.cost,
            choice=choice,
        )
        for own, backward in zip(measured, passes, strict=True)
    ]


class AnotherDraw:
    """Another draw of a replica at the same λ, for `auto`.

    Attributes:
        cost: the plain training runs that it took, by counting.
    """

    def __init__(
        self, replica: Replica, values: Mapping[str, Tensor], draw: int, monitor: Monitor
    ) -> None:
        self._replica = replica
        self._values = values
        self._draw = draw
        self._monitor = monitor
        self._run: DifferentiatedRun | None = None
        self._retrained = 0.0

    def as_seen(self) -> OtherDraw:
        return OtherDraw(self._forward, self._backward, self._loss_at)

    @property
    def cost(self) -> float:
        return self._retrained + (0.0 if self._run is None else self._run.cost)

    def _forward(self, methods: Sequence[Method]) -> float:
        self._run = self._started(self._values)
        self._run.forward(methods)
        return held_out_metrics(self._replica, self._monitor)["validation_loss"]

    def _backward(self, method: Method) -> BackwardPass:
        assert self._run is not None
        return self._run.backward(method)[0]

    def _loss_at(self, values: Mapping[str, Tensor]) -> float:
        """The validation loss of the draw at other hyperparameters."""
        self._retrained += 1.0
        try:
            self._started(values).forward([])
            loss = held_out_metrics(self._replica, self._monitor)["validation_loss"]
        except TrainingDiverged:
            loss = math.inf
        finally:
            self._replica.objective.set_hyperparameters(self._values)
        return loss if math.isfinite(loss) else math.inf

    def _started(self, values: Mapping[str, Tensor]) -> DifferentiatedRun:
        return differentiated_run([self._replica], values, self._draw, self._monitor)


@dataclass(frozen=True)
class Measurements:
    """The measurements of a trained replica; see Evaluation.

    `judged_loss` is the outer loss on the examples that judge; None if there are none.
    """

    training_loss: float
    metrics: dict[str, float]
    diagnostics: dict[str, float]
    model: dict[str, Tensor]
    judged_loss: float | None = None


def measure(replica: Replica, own: ReplicaRun, monitor: Monitor) -> Measurements:
    """Measures a replica at w_T, which stands in its objective."""
    objective = replica.objective
    training_loss = own.run.training_loss(replica.epoch_steps)
    metrics = held_out_metrics(replica, monitor)
    loss = metrics.pop("validation_loss")
    judged_loss = None if replica.judging_examples is None else loss
    if own.run.clip is not None:
        metrics["clipped_steps"] = float(own.run.clipped.double().mean())
    return Measurements(
        training_loss, metrics, diagnostic_figures(objective), model_state(objective), judged_loss
    )


def held_out_metrics(replica: Replica, monitor: Monitor) -> dict[str, float]:
    """The loss and the metrics of a replica on its validation data and on the test data.

    Where a part of the validation data judges, "validation_..." belongs to that part, and
    `fitted_loss` is the loss on the other one, which is differentiated.
    """
    objective, poll = replica.objective, monitor.poll
    judging = replica.judging_examples
    judges = replica.valid_examples if judging is None else judging
    metrics = held_out_figures(objective, judges, "validation", poll)
    if judging is not None:
        fitted = held_out_figures(objective, replica.valid_examples, "fitted", poll)
        metrics["fitted_loss"] = fitted["fitted_loss"]
    if replica.test_examples is not None:
        metrics |= held_out_figures(objective, replica.test_examples, "test", poll)
    return metrics


class Clock:
    """Wall-clock seconds by phase; each lap waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now


def peak_memory_bytes(device: torch.device) -> int:
    """The peak memory of a GPU since its last reset; on the CPU that of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
