"""The engine's front door: a tuner that evaluates hyperparameters, and the outer loop."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from drmad_workers.data.examples import Examples
from drmad_workers.data.shards import Shards
from drmad_workers.errors import HypergradientError, TrainingDiverged
from drmad_workers.evaluation import (
    Clock,
    Evaluation,
    differentiated_run,
    evaluate,
    held_out_metrics,
    repeated_on_restart,
)
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.hypergradients.automatic.choice import Choice
from drmad_workers.hypergradients.automatic.usefulness import OuterLoop
from drmad_workers.hypergradients.backward_pass import BackwardPass, DifferentiatedRun
from drmad_workers.hypergradients.method import Method
from drmad_workers.hyperparameters.base import BoundHyperparameter, Kind
from drmad_workers.meta.config import MetaConfig
from drmad_workers.meta.confirmation import (
    FEWEST_DRAWS,
    Confirmation,
    Draw,
    Plan,
    allowed_draws,
    next_draw,
    number_of,
    outcome,
    plan_of,
)
from drmad_workers.meta.loss_history import levels, stop_reason
from drmad_workers.meta.state import MetaState, initial_state, require_fit
from drmad_workers.meta.update import (
    bounds_of,
    meta_update,
    outer_loop,
    projected,
    trial_points,
)
from drmad_workers.objective.held_out import model_state
from drmad_workers.objective.objective import Objective
from drmad_workers.online.outer_loop import run_windows
from drmad_workers.online.refusals import short_horizon
from drmad_workers.online.run import OnlineRun
from drmad_workers.online.state import TrainingState
from drmad_workers.problem import Problem
from drmad_workers.replica import Replica
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.progress import Monitor, OnProgress

logger = logging.getLogger(__name__)


class Tuner:
    """Trains a problem's model at given hyperparameters and differentiates the outer loss.

    Attributes:
        replica: the problem with the examples and the random streams of this replica.
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
        dtype: torch.dtype | None = None,
        shards: Shards | None = None,
    ) -> None:
        """
        Args:
            problem: the model, its data and its losses.
            kinds: the hyperparameters to tune.
            training: the settings of the training run.
            method: the method that computes hypergradients.
            seed: the seed of all random streams.
            replica: the number of the replica, which has its own w_0 and minibatches.
            device: that of all tensors.
            dtype: that of all tensors; None takes the precision of the training.
            shards: the distribution of the examples among replicas; None gives all of them.
        Raises:
            ProblemError: the problem cannot be tuned as stated; for example, no loss depends on a
                hyperparameter, or a loss has no second derivatives.
        """
        self.replica = Replica(
            problem, kinds, training, method, seed, replica, device, dtype, shards
        )
        self._method = self.replica.method

    @property
    def objective(self) -> Objective:
        return self.replica.objective

    @property
    def hyperparameters(self) -> dict[str, BoundHyperparameter]:
        """The tuned hyperparameters by name, bound to the problem."""
        return self.replica.hyperparameters

    @property
    def train_examples(self) -> Examples:
        """The training examples that this replica holds."""
        return self.replica.train_examples

    @property
    def valid_examples(self) -> Examples:
        """The validation examples that this replica holds."""
        return self.replica.valid_examples

    @property
    def copy_bytes(self) -> int:
        """The bytes of a point of the trajectory; see Replica."""
        return self.replica.copy_bytes

    def initial_values(self) -> dict[str, Tensor]:
        """The initial λ by name."""
        return self.replica.initial_values()

    def require(self, method: Method) -> None:
        """Raises ProblemError unless the method fits the training and the hyperparameters."""
        self.replica.require(method)

    def close(self) -> None:
        """Ends the processes that read data; a later run begins new ones."""
        self.replica.close()

    def evaluate(
        self,
        values: Mapping[str, Tensor],
        iteration: int,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
        choice: Choice | None = None,
        draw: int | None = None,
        outer: OuterLoop | None = None,
    ) -> Evaluation:
        """Does the work of one meta-iteration: trains at λ, measures, and differentiates by λ.

        Args:
            values: λ by name, before the transform.
            iteration: the number n of the meta-iteration.
            should_stop: polled every 20 ms or every step, whichever is longer.
            on_progress: called with (phase, step, total) as often.
            choice: the choice of the previous evaluation, from which `auto` continues.
            draw: with the seed and the replica it determines w_0 and every minibatch; None
                stands for n.
            outer: the outer loop, by which `auto` may look at another draw; None if it is not
                known.
        Raises:
            TrainingDiverged, HypergradientError, Stopped, ProblemError.
        """
        if self.replica.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.replica.device)
        draw = iteration if draw is None else draw
        monitor = Monitor(should_stop, on_progress)
        (evaluation,) = evaluate(
            [self.replica], self._method, values, iteration, draw, monitor, choice, outer=outer
        )
        return evaluation

    def train(
        self,
        values: Mapping[str, Tensor],
        iteration: int = 0,
        on_progress: OnProgress | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> dict[str, float]:
        """Trains once at λ and returns the held-out metrics, without any derivative.

        `iteration` determines w_0 and every minibatch, as in `evaluate`.

        Raises:
            TrainingDiverged: a loss, the weights or the validation loss are not finite.
            Stopped: `should_stop` returned True.
        """
        draw = self.replica.training.draw_of(iteration)
        return self.retrain(values, draw, should_stop, on_progress)[0]

    def retrain(
        self,
        values: Mapping[str, Tensor],
        draw: int,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
        keep_model: bool = False,
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """As `train`, with the w_0 and the minibatches of any draw, whatever `resample` says.

        Returns:
            The held-out metrics, and the model as in Evaluation; without `keep_model` no entries.
        Raises:
            TrainingDiverged: a loss, the weights or the validation loss are not finite.
            Stopped: `should_stop` answered true.
        """
        monitor = Monitor(should_stop, on_progress)

        def trained() -> tuple[dict[str, float], dict[str, Tensor]]:
            with self.replica.at_work():
                try:
                    self._run(values, draw, monitor).forward([])
                    metrics = held_out_metrics(self.replica, monitor)
                    return metrics, model_state(self.objective) if keep_model else {}
                finally:
                    self.objective.parameters.restore_given()

        metrics, model = repeated_on_restart(trained)
        loss, steps = metrics["validation_loss"], self.replica.training.steps
        if not math.isfinite(loss):
            raise TrainingDiverged(steps, steps, loss, "validation loss")
        return metrics, model

    def compare(
        self,
        values: Mapping[str, Tensor],
        methods: Sequence[Method],
        iteration: int = 0,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
    ) -> tuple[list[BackwardPass | HypergradientError], float]:
        """Differentiates one training run by each of the methods; see `evaluate`.

        Returns:
            The backward pass of each method, or the error with which it ended, and the seconds of
            training.
        """
        monitor = Monitor(should_stop, on_progress)
        draw = self.replica.training.draw_of(iteration)
        return repeated_on_restart(lambda: self._compare(values, methods, draw, monitor))

    def _compare(
        self,
        values: Mapping[str, Tensor],
        methods: Sequence[Method],
        draw: int,
        monitor: Monitor,
    ) -> tuple[list[BackwardPass | HypergradientError], float]:
        found: list[BackwardPass | HypergradientError] = []
        with self.replica.at_work():
            try:
                run = self._run(values, draw, monitor)
                clock = Clock(self.replica.device)
                run.forward(methods)
                clock.lap("forward")
                for method in methods:
                    try:
                        found += run.backward(method)
                    except HypergradientError as error:
                        found.append(error)
                return found, clock.seconds["forward"]
            finally:
                self.objective.parameters.restore_given()

    def _run(self, values: Mapping[str, Tensor], draw: int, monitor: Monitor) -> DifferentiatedRun:
        return differentiated_run([self.replica], values, draw, monitor)


@dataclass
class TuningResult:
    """The result of `tune`.

    Attributes:
        evaluations: one per meta-iteration, at the hyperparameters before its update.
        best: the hyperparameters of the best meta-iteration, as `confirmation` chose it; without a
            confirmation, by the smoothed validation losses. Those after the last window of an
            online run.
        state: the state from which `tune` continues.
        confirmation: the figures of the best, the last and the first meta-iteration from fresh
            draws, as in drmad_client.records.side_runs.confirmation; None if there were too few
            draws, and after an online run.
        training: the state of the training run of an online run, from which `tune` continues.
        limits: what an online run leaves out for these hyperparameters: a sentence each.
    """

    evaluations: list[Evaluation] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    state: MetaState | None = None
    confirmation: Confirmation | None = None
    training: TrainingState | None = None
    limits: list[str] = field(default_factory=list)


def tune(
    problem: Problem,
    kinds: Sequence[Kind],
    training: TrainingConfig | None = None,
    method: Method | None = None,
    meta: MetaConfig | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    on_iteration: Callable[[int, Evaluation], None] | None = None,
    state: MetaState | None = None,
    training_state: TrainingState | None = None,
) -> TuningResult:
    """Tunes in this process: evaluates and updates λ until the budget or the patience ends.

    Then it confirms the result, see meta.confirmation. With `meta.mode` online it trains once, and
    updates λ after every window, see drmad_workers.online.

    `state` continues an earlier result, bit for bit as if it had not been interrupted. Under other
    settings it keeps the hyperparameters, projected onto their bounds, and the memory of the outer
    optimizer; `auto` probes again if they change what it may choose. The confirmation has no
    candidates among earlier meta-iterations. An online run continues its training from
    `training_state`, and without it trains anew from the hyperparameters of `state`.

    Raises:
        ProblemError: the problem cannot be tuned as stated, see Tuner; or `state` belongs to
            hyperparameters of other names or shapes.
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
        shards=Shards(judging=0.0 if meta.mode == "online" else meta.judging_share, seed=seed),
    )
    state = state or initial_state(tuner.hyperparameters)
    require_fit(state, tuner.hyperparameters)
    bounds = bounds_of(tuner.hyperparameters)
    state = replace(state, hyperparameters=projected(state.hyperparameters, bounds))
    if meta.mode == "online":
        return _tune_online(tuner, state, meta, training_state, on_iteration)
    result = TuningResult()
    tried: dict[int, dict[str, Tensor]] = {}
    smoothed: list[tuple[int, float]] = []
    try:
        while stop_reason(state, meta) is None:
            iteration, values = state.iteration, state.hyperparameters
            outer = outer_loop(state, meta, bounds)
            evaluation = tuner.evaluate(values, iteration, choice=state.choice, outer=outer)
            trials = trial_losses(tuner, trial_points(state, bounds), iteration)
            if on_iteration is not None:
                on_iteration(iteration, evaluation)
            state = meta_update(
                state,
                evaluation.validation_loss,
                evaluation.hypergradient,
                meta,
                bounds,
                metrics=evaluation.metrics,
                cost=evaluation.cost + len(trials),
                trials=trials,
            )
            state = replace(state, choice=evaluation.choice)
            tried[iteration] = values
            smoothed.append((iteration, levels(state)["validation_loss"].mean))
            result.evaluations.append(evaluation)
        result.state = state
        best = state.best_iteration
        if best in tried:
            result.best = tried[best]
            fresh = tuner.replica.training.resample
            plan = plan_of(
                smoothed,
                best,
                smoothed[0][0],
                allowed_draws(meta.confirmation, state.runs),
                state.recent_losses if fresh else (),
                state.recent_metrics if fresh else (),
            )
            result.confirmation = _confirmed(tuner, plan, tried)
            if result.confirmation is not None:
                result.best = tried[result.confirmation.best.iteration]
    finally:
        tuner.close()
    return result


def trial_losses(
    tuner: Tuner,
    points: Sequence[Mapping[str, Tensor]],
    draw: int,
    should_stop: Callable[[], bool] | None = None,
    on_progress: OnProgress | None = None,
) -> list[float]:
    """The validation loss at each λ, with the weights and minibatches of a meta-iteration.

    Args:
        points: see meta.update.trial_points.
        draw: the draw of the meta-iteration, see Tuner.evaluate.
    Returns:
        A loss for each point; inf where training diverged.
    """
    losses = []
    for values in points:
        try:
            stream = tuner.replica.training.draw_of(draw)
            metrics, _ = tuner.retrain(values, stream, should_stop, on_progress)
        except TrainingDiverged:
            losses.append(math.inf)
        else:
            losses.append(metrics["validation_loss"])
    return losses


def _tune_online(
    tuner: Tuner,
    state: MetaState,
    meta: MetaConfig,
    training: TrainingState | None,
    on_iteration: Callable[[int, Evaluation], None] | None,
) -> TuningResult:
    """`tune` with mode online."""
    bound = tuner.hyperparameters
    bounds = bounds_of(bound)
    try:
        run = OnlineRun(
            tuner.replica,
            tuner.replica.method,
            meta.window,
            validation_batch=meta.validation_batch,
        )
        limits = short_horizon(bound.values(), meta.window, run.steps)
        for limit in limits:
            logger.warning("%s", limit)
        found = run_windows(run, state, meta, bounds, training, on_iteration)
    finally:
        tuner.close()
    return TuningResult(
        found.evaluations,
        found.state.hyperparameters,
        found.state,
        training=found.training,
        limits=limits,
    )


def _confirmed(
    tuner: Tuner, plan: Plan, tried: Mapping[int, Mapping[str, Tensor]]
) -> Confirmation | None:
    """The confirmation of a plan; `tried` holds the λ of each meta-iteration."""
    if plan.allowed < FEWEST_DRAWS:
        return None
    draws: list[Draw] = []
    while (following := next_draw(plan, draws)) is not None:
        iteration, index = following
        try:
            metrics, _ = tuner.retrain(tried[iteration], number_of(plan, index))
        except TrainingDiverged:
            draws.append(Draw(iteration, index, None))
        else:
            loss = metrics.pop("validation_loss")
            draws.append(Draw(iteration, index, loss, metrics))
    return outcome(plan, draws)
