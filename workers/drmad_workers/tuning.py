"""The engine's front door: a tuner that evaluates hyperparameters, and a loop around it."""

import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.data.shards import Shards
from drmad_workers.devices import resolve_device
from drmad_workers.errors import HypergradientError, TrainingDiverged
from drmad_workers.hypergradients import Method
from drmad_workers.hypergradients.auto import Auto, Choice
from drmad_workers.hypergradients.backward_pass import BackwardPass, DifferentiatedRun
from drmad_workers.hypergradients.method import require_derivatives
from drmad_workers.hyperparameters.kinds import (
    BoundHyperparameter,
    Kind,
    Setting,
    bind_all,
    slots_of,
)
from drmad_workers.meta.config import MetaConfig
from drmad_workers.meta.loss_history import stop_reason
from drmad_workers.meta.state import MetaState, initial_state
from drmad_workers.meta.update import meta_update
from drmad_workers.objective.held_out import diagnostic_figures, held_out_figures, model_state
from drmad_workers.objective.objective import Objective
from drmad_workers.preflight.derivatives import check_problem
from drmad_workers.problem import Problem
from drmad_workers.random_streams import WEIGHTS, seed_of
from drmad_workers.training.progress import Monitor, OnProgress
from drmad_workers.training.run import TrainingConfig, TrainingRun


@dataclass(frozen=True)
class Evaluation:
    """What one training run and its backward pass gave.

    Attributes:
        validation_loss: the outer loss at w_T.
        training_loss: mean inner loss over the last epoch (at most T steps), penalties at w_T.
        metrics: figures on held-out data, such as validation_error, test_error, test_loss.
        diagnostics: the problem's own figures of the hyperparameters.
        hypergradient: d validation_loss / dλ by name, in the shape of λ, on the CPU.
        model: weights and buffers at w_T by state_dict name, on the CPU.
        seconds: of the phases "forward", "evaluate" and "backward".
        peak_memory_bytes: of the device; on the CPU of the whole process so far.
        method: the one that was used.
        backward_steps: Hessian-vector products that it took.
        cost: of all training runs and walks, those of a look included, in plain training runs, by
            counting gradients and products (see Method.cost).
        choice: of `auto`, for the next meta-iteration: what it decided and measured.
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


class Tuner:
    """Trains a problem's model at given hyperparameters and differentiates the outcome.

    Attributes:
        hyperparameters: what is tuned, by name, as bound to the problem.
        train_examples, valid_examples: those that this replica holds.
    """

    def __init__(
        self,
        problem: Problem,
        kinds: Sequence[Kind],
        training: TrainingConfig,
        method: Method,
        seed: int = 0,
        replica: int = 0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        shards: Shards | None = None,
    ) -> None:
        """`shards` says which of the examples this replica trains and validates with.

        Raises:
            ProblemError: the problem cannot be tuned as stated, such as a hyperparameter that no
                loss depends on, or a loss without second derivatives.
        """
        self._device = resolve_device(device)
        self._training = training
        self._method = method
        self._seed = seed
        self._replica = replica
        train = Examples(problem.train, "train", self._device, dtype)
        valid = Examples(problem.valid, "valid", self._device, dtype)
        shards = shards or Shards()
        held = shards.positions("train", train.rows, replica)
        self.train_examples = train.part(held)
        self.valid_examples = valid.part(shards.positions("valid", valid.rows, replica))
        self._test = (
            None if problem.test is None else Examples(problem.test, "test", self._device, dtype)
        )
        slots = slots_of(problem.model)
        setting = Setting(
            problem,
            slots,
            train,
            steps=training.steps,
            learning_rate=training.learning_rate,
            momentum=training.first_decay,
            dtype=dtype,
            seed=seed,
        )
        self.hyperparameters: dict[str, BoundHyperparameter] = bind_all(kinds, setting)
        self.require(method)
        self._objective = Objective(
            problem,
            self.hyperparameters,
            slots,
            self._device,
            dtype,
            memory_rows=training.memory_rows,
            autocast=training.precision == "bfloat16",
        )
        self._objective.hvp = method.hvp
        self._epoch = self.train_examples.rows // max(1, training.batch_size)
        with self._own_randomness():
            self._objective.attach()
            self._objective.set_hyperparameters(self.initial_values())
            check_problem(self._objective, self._minibatches(0).join(0), self.valid_examples)

    @property
    def objective(self) -> Objective:
        return self._objective

    def initial_values(self) -> dict[str, Tensor]:
        """λ to start from, by name."""
        return {name: bound.initial.clone() for name, bound in self.hyperparameters.items()}

    def require(self, method: Method) -> None:
        """Raises ProblemError when the method does not fit the training or what is tuned."""
        method.check(self._training)
        require_derivatives(method, self.hyperparameters.values(), self._training)

    @property
    def copy_bytes(self) -> int:
        """Of the weights, or of all of Adam's state: what a point of the path takes."""
        rows = 1 + self._training.memory_rows if self._training.is_adam else 1
        return rows * self._objective.weights.numel() * self._objective.weights.element_size()

    def evaluate(
        self,
        values: Mapping[str, Tensor],
        iteration: int,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
        choice: Choice | None = None,
        draw: int | None = None,
    ) -> Evaluation:
        """One meta-iteration's work: train at λ, measure, and differentiate by λ.

        Args:
            values: λ by name (before the transform).
            iteration: n, number of the meta-iteration.
            draw: with the seed and the replica it fixes w_0 and every minibatch; None takes n.
            should_stop: polled every 20 ms or step, whichever is longer.
            on_progress: told (phase, step, total) as often.
            choice: that of the evaluation before, for `auto` to go on from.
        Raises:
            TrainingDiverged, HypergradientError, Stopped, ProblemError.
        """
        monitor = Monitor(should_stop, on_progress)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        with self._own_randomness():
            try:
                draw = iteration if draw is None else draw
                return self._evaluate(values, iteration, draw, monitor, choice)
            finally:
                self._objective.restore_given()

    def train(
        self,
        values: Mapping[str, Tensor],
        iteration: int = 0,
        on_progress: OnProgress | None = None,
    ) -> dict[str, float]:
        """One training run at λ and its held-out figures, without any derivative.

        `iteration` fixes w_0 and every minibatch, as in `evaluate`.

        Raises:
            TrainingDiverged: the validation loss is not finite either.
        """
        monitor = Monitor(None, on_progress)
        with self._own_randomness():
            try:
                passes = self._passes(values, iteration, monitor)
                passes.forward([])
                objective, poll = self._objective, monitor.poll
                figures = held_out_figures(objective, self.valid_examples, "validation", poll)
                if self._test is not None:
                    figures |= held_out_figures(objective, self._test, "test", poll)
            finally:
                self._objective.restore_given()
        loss, steps = figures["validation_loss"], self._training.steps
        if not math.isfinite(loss):
            raise TrainingDiverged(steps, steps, loss, "validation loss")
        return figures

    def compare(
        self,
        values: Mapping[str, Tensor],
        methods: Sequence[Method],
        iteration: int = 0,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
    ) -> tuple[list[BackwardPass | HypergradientError], float]:
        """What each of the methods makes of one and the same training run; see `evaluate`.

        A method that ended without a direction is told by its error. Also the seconds of training.
        """
        monitor = Monitor(should_stop, on_progress)
        found: list[BackwardPass | HypergradientError] = []
        with self._own_randomness():
            try:
                passes = self._passes(values, iteration, monitor)
                clock = Clock(self._device)
                passes.forward(methods)
                clock.lap("forward")
                for method in methods:
                    try:
                        found.append(passes.backward(method))
                    except HypergradientError as error:
                        found.append(error)
                return found, clock.seconds["forward"]
            finally:
                self._objective.restore_given()

    def _passes(
        self, values: Mapping[str, Tensor], draw: int, monitor: Monitor
    ) -> DifferentiatedRun:
        objective = self._objective
        objective.attach()
        objective.set_hyperparameters(values)
        draw = draw if self._training.resample else 0
        run = TrainingRun(objective, self._training, self._minibatches(draw), monitor)
        weights_seed = seed_of(WEIGHTS, self._seed, draw, self._replica)
        return DifferentiatedRun(run, self._training, weights_seed, self.valid_examples)

    def _evaluate(
        self,
        values: Mapping[str, Tensor],
        iteration: int,
        draw: int,
        monitor: Monitor,
        choice: Choice | None,
    ) -> Evaluation:
        objective = self._objective
        clock = Clock(self._device)
        passes = self._passes(values, draw, monitor)
        run, method = passes.run, self._method
        plan = None
        if isinstance(method, Auto):
            bound = self.hyperparameters.values()
            plan = method.plan(choice, iteration, values, self._training, bound, self.copy_bytes)
        passes.forward([method] if plan is None else plan.methods())
        clock.lap("forward")

        training_loss = run.training_loss(min(self._training.steps, max(1, self._epoch)))
        monitor.begin("evaluate", 1)
        metrics = held_out_figures(objective, self.valid_examples, "validation", monitor.poll)
        metrics.pop("validation_loss")
        if self._test is not None:
            metrics |= held_out_figures(objective, self._test, "test", monitor.poll)
        diagnostics = diagnostic_figures(objective)
        model = model_state(objective)
        clock.lap("evaluate")

        if plan is None:
            walk, choice = passes.backward(method), None
        else:
            walk, choice = plan.settle(passes.backward)
        clock.lap("backward")
        return Evaluation(
            validation_loss=walk.validation_loss,
            training_loss=training_loss,
            metrics=metrics,
            diagnostics=diagnostics,
            hypergradient=walk.hypergradient,
            model=model,
            seconds=clock.seconds,
            peak_memory_bytes=peak_memory_bytes(self._device),
            method=walk.method.name,
            backward_steps=walk.products,
            cost=passes.cost,
            choice=choice,
        )

    def _minibatches(self, iteration: int) -> Minibatches:
        stream = (self._seed, iteration, self._replica)
        return Minibatches(self.train_examples, self._training.batch_size, stream)

    def _own_randomness(self) -> AbstractContextManager[None]:
        devices = [self._device] if self._device.type == "cuda" else []
        return torch.random.fork_rng(devices)


class Clock:
    """Wall-clock seconds by phase; waits for the device at every lap."""

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
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass
class TuningResult:
    """What `tune` gave.

    Attributes:
        evaluations: one per meta-iteration, at the hyperparameters before its update; only the
            best and the last one keep their model and their hypergradient.
        best: hyperparameters of the meta-iteration with the lowest validation loss.
        state: to go on from, see `tune`.
    """

    evaluations: list[Evaluation] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    state: MetaState | None = None


def tune(
    problem: Problem,
    kinds: Sequence[Kind],
    training: TrainingConfig | None = None,
    method: Method | None = None,
    meta: MetaConfig | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    on_iteration: Callable[[int, Evaluation], None] | None = None,
    state: MetaState | None = None,
) -> TuningResult:
    """Tunes in this process: evaluate, update, repeat, until the budget or the patience is over.

    `state` goes on from an earlier result, bit for bit as if it had never stopped.
    """
    meta = meta or MetaConfig()
    tuner = Tuner(
        problem,
        kinds,
        training or TrainingConfig(),
        method or Auto(),
        seed=seed,
        device=device,
        dtype=dtype,
    )
    state = state or initial_state(tuner.hyperparameters)
    bounds = {name: (b.lower, b.upper) for name, b in tuner.hyperparameters.items()}
    result = TuningResult()
    while stop_reason(state, meta) is None:
        iteration, values = state.iteration, state.hyperparameters
        evaluation = tuner.evaluate(values, iteration, choice=state.choice)
        if on_iteration is not None:
            on_iteration(iteration, evaluation)
        state = meta_update(
            state, evaluation.validation_loss, evaluation.hypergradient, meta, bounds
        )
        state = replace(state, choice=evaluation.choice)
        if state.best_iteration == iteration:
            result.best = values
        result.evaluations.append(evaluation)
    result.state = state
    return result
