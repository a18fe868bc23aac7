"""A training run that advances window by window, and is differentiated window by window.

[Franceschi2017] Forward and reverse gradient-based hyperparameter optimization, 1703.01785: there
hyperparameters move "in real time", while the model trains.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from drmad_workers.evaluation import Clock, Evaluation, Measurements, measure, peak_memory_bytes
from drmad_workers.hypergradients.automatic.auto import STORED_BYTES, Auto
from drmad_workers.hypergradients.backward_pass import DifferentiatedRun, ReplicaRun
from drmad_workers.hypergradients.method import (
    PRODUCT,
    Adjoint,
    Method,
    require_derivatives,
)
from drmad_workers.hypergradients.replay import Replay
from drmad_workers.hypergradients.stored import Stored
from drmad_workers.hyperparameters.rates import BoundRate
from drmad_workers.objective.parameters.flat_parameters import Signature
from drmad_workers.online.earlier_windows import EarlierWindow, EarlierWindows
from drmad_workers.online.refusals import require_window, steps_before
from drmad_workers.online.state import TrainingState, carry_all, place, taken
from drmad_workers.online.validation_rows import ValidationRows
from drmad_workers.random_streams import WEIGHTS, seed_of
from drmad_workers.replica import Replica
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.kept_minibatches import KeptMinibatches
from drmad_workers.training.optimizers import InnerOptimizer
from drmad_workers.training.progress import Monitor
from drmad_workers.training.run import TrainingRun
from drmad_workers.training.schedules import ConstantSchedule, TableSchedule
from drmad_workers.training.window import Window
from drmad_workers.trajectory.full import FullTrajectory

VERIFIED_STEPS = 100
"""A run compares its traces with their functions, and looks for values of the model that have
changed, at least every so many steps, in whole windows. A trace that is in use is also compared in
its first call, and in the calls 8, 32, 128, .. of the whole run (see objective.traces)."""


class OnlineRun:
    """One training run of a replica, at other hyperparameters in every window.

    The weights, the memory of the optimizer, the values that training changes beside them, the
    position in the schedule and the order of the minibatches carry over from window to window. The
    hypergradient of a window is the derivative of the outer loss at its end by the hyperparameters
    of its steps; the state at its begin is a constant. With a horizon beyond the window it is that
    by a shift of the hyperparameters in all of these last steps, see earlier_windows: as many of
    them as the run has taken since it began, or since it went on from a state.

    Attributes:
        window: the steps of a window.
        method: the method that differentiates a window.
        step: the number of steps taken.
        draw: with the seed it determines w_0 and every minibatch.
        is_verified: whether the state is one to go back to, see `advance`.
    """

    def __init__(
        self,
        replica: Replica,
        method: Method,
        window: int,
        monitor: Monitor | None = None,
        validation_batch: int | None = None,
    ) -> None:
        """
        Args:
            replica: the problem with its examples.
            method: the method; `auto` takes an exact one, which costs least over a window.
            window: the steps of a window; the run has a whole number of windows.
            monitor: receives progress.
            validation_batch: see MetaConfig.
        Raises:
            ProblemError: the window does not fit the run, or the method or a hyperparameter does
                not fit a window.
        """
        require_window(window, method, replica.training, replica.hyperparameters.values())
        self.window = window
        self.step = 0
        self.draw = 0
        self.is_verified = True
        self._replica = replica
        self._monitor = monitor or Monitor()
        self._validation = ValidationRows(replica.valid_examples, validation_batch)
        self._factors = replica.training.factors
        self._constant = replace(replica.training, steps=window, schedule=ConstantSchedule())
        bound = replica.hyperparameters.values()
        self._moves_rates = self._factors is not None or any(
            isinstance(each, BoundRate) for each in bound
        )
        self._dynamics: InnerOptimizer | None = None
        self._added = self._peak_bytes = 0
        self.method = self._chosen(method)
        self._earlier = EarlierWindows(steps_before(method, window))
        self.method.check(self._constant)
        require_derivatives(self.method, replica.hyperparameters.values(), self._constant)

    def _chosen(self, method: Method) -> Method:
        if isinstance(method, Stored) and (method.horizon or 0) >= self.window:
            return replace(method, horizon=None)
        if not isinstance(method, Auto):
            return method
        small = self.window * self._replica.copy_bytes <= STORED_BYTES
        return Stored(hvp=method.hvp) if small else Replay(hvp=method.hvp)

    @property
    def steps(self) -> int:
        """The steps of the whole run."""
        return self._replica.training.steps

    @property
    def steps_before(self) -> int:
        """The steps before a window that its backward pass goes on through."""
        return self._earlier.steps

    @property
    def is_done(self) -> bool:
        return self.step >= self.steps

    @property
    def is_last(self) -> bool:
        """Whether the next window is the last one."""
        return self.step + self.window >= self.steps

    @contextmanager
    def open(self, state: TrainingState | None = None, draw: int = 0) -> Iterator[None]:
        """Holds the model for the run: inside, `advance` may be called and nothing else trains.

        On exit the user's model has the weights again that it was given.

        Args:
            state: the state from which the run continues; None begins it.
            draw: the draw of a run that begins.
        """
        parameters = self._replica.objective.parameters
        with self._replica.at_work():
            try:
                parameters.attach()
                self.go_to(state, draw)
                yield
            finally:
                parameters.restore_given()

    def go_to(self, state: TrainingState | None, draw: int = 0) -> None:
        """Continues from a state, or begins with None; `open` must hold the model.

        Raises:
            ProblemError: the state belongs to another problem, or lies within a window.
        """
        replica, parameters = self._replica, self._replica.objective.parameters
        self.step, self.draw = (0, draw) if state is None else (state.step, state.draw)
        if state is not None:
            require_window(self.window, self.method, replica.training, (), state.step)
            parameters.restore_given()
            carry_all(state, parameters)
        stream = replica.training.draw_of(self.draw)
        parameters.draw(
            seed_of(WEIGHTS, *replica.stream(stream)), replica.objective.problem.initialize
        )
        parameters.state[1:].zero_()
        if state is not None:
            place(state, parameters)
        self._minibatches = replica.minibatches(stream)
        self._signature: Signature = parameters.signature()
        self._state = parameters.state.clone()
        self._earlier.go_to(self.step, self.draw, () if state is None else state.earlier)
        replica.objective.inner.traced.begin()
        self.is_verified = True

    def state(self) -> TrainingState:
        """The state between two windows, as a value."""
        parameters, kept = self._replica.objective.parameters, self._earlier.kept
        return taken(parameters, self._state, self.step, self.draw, tuple(kept))

    def advance(
        self,
        values: Mapping[str, Tensor],
        measures: bool = False,
        keep_model: bool = False,
        verifies: bool = False,
    ) -> Evaluation:
        """Trains one window at λ, and differentiates it.

        Some windows compare the traces that they have used, and what training has changed, with
        what was assumed (`is_verified` is then true). Where it was wrong, the windows since the
        last verified one are wrong too, and have to be repeated.

        Args:
            values: λ by name, before the transform.
            measures: whether to measure the metrics on held-out data; `metrics` is empty otherwise.
            keep_model: whether the result has the model; it is empty otherwise.
            verifies: verifies the window though its turn has not come, so that the run may end.
        Raises:
            Restart: an assumption was wrong. Call its `learn`, and `go_to` the last verified state.
            TrainingDiverged, HypergradientError, Stopped.
        """
        replica = self._replica
        clock = Clock(replica.device)
        verifies = verifies or self.verifies_next
        replica.objective.set_hyperparameters(values)
        run, own, differentiated = self._next(verifies)
        differentiated.forward([self.method])
        end = run.state.clone()
        taken = self._taken(run, values, differentiated)
        training_loss = run.training_loss(self.window)
        clock.lap("forward")
        measured = measure(replica, own, self._monitor) if measures or keep_model else None
        clock.lap("evaluate")
        (passed,) = differentiated.backward(self.method)
        clock.lap("backward")
        self._move(end, verifies, taken)
        if not self.is_done:
            run.expect(run.order(range(self.window, 2 * self.window)))
        found = measured or Measurements(training_loss, {}, {}, {})
        if measured or not self._peak_bytes:
            self._peak_bytes = peak_memory_bytes(replica.device)
        return Evaluation(
            validation_loss=passed.validation_loss,
            training_loss=found.training_loss,
            metrics=found.metrics,
            diagnostics=found.diagnostics,
            hypergradient=passed.hypergradient,
            model=found.model if keep_model else {},
            seconds=clock.seconds,
            peak_memory_bytes=self._peak_bytes,
            method=passed.method.name,
            backward_steps=passed.products,
            cost=self._cost(differentiated.cost),
        )

    def train(self, values: Mapping[str, Tensor]) -> None:
        """Trains one window at λ without its hypergradient, and verifies it.

        It leaves the state that `advance` leaves, bit for bit.

        Raises:
            Restart, TrainingDiverged, Stopped: see `advance`.
        """
        self._replica.objective.set_hyperparameters(values)
        run, _, differentiated = self._next(verifies=True)
        differentiated.forward([self.method] if self._earlier.steps else [])
        taken = self._taken(run, values, differentiated)
        self._move(run.state.clone(), True, taken)

    def _next(self, verifies: bool) -> tuple[TrainingRun, ReplicaRun, DifferentiatedRun]:
        """The run of the next window; the objective must have its hyperparameters."""
        run = self._run_from(Window(self.step, self._state, self._signature, verifies))
        stream = self._replica.stream(self._replica.training.draw_of(self.draw))
        valid = self._validation.of(self.step // self.window, stream)
        goes_on = self._through_earlier if self._earlier.kept else None
        own = ReplicaRun(run, 0, valid, goes_on)
        self._added = 0
        return run, own, DifferentiatedRun(run, [own], self._config(self.step))

    def _run_from(self, window: Window, kept: KeptMinibatches | None = None) -> TrainingRun:
        """The run of a window, at the hyperparameters that the objective holds."""
        config = self._config(window.first)
        objective, monitor = self._replica.objective, self._monitor
        run = TrainingRun(
            objective, config, self._minibatches, monitor, window, self._dynamics, kept
        )
        if not self._moves_rates:
            self._dynamics = run.dynamics
        return run

    def _through_earlier(
        self, adjoint: Adjoint, hypergradient: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Takes the backward pass of a window through those before it."""

        def run_of(earlier: EarlierWindow) -> TrainingRun:
            window = Window(earlier.first, self._state, self._signature, verifies=False)
            return self._run_from(window, earlier.minibatches)

        objective = self._replica.objective
        total, self._added = self._earlier.continued(objective, adjoint, hypergradient, run_of)
        return total

    def _taken(
        self, run: TrainingRun, values: Mapping[str, Tensor], differentiated: DifferentiatedRun
    ) -> EarlierWindow | None:
        """What later windows read of one that is trained; None if they read nothing."""
        if not self._earlier.steps:
            return None
        recorder = differentiated.recorder(self.method)
        assert isinstance(recorder, FullTrajectory)
        return EarlierWindow(self.step, dict(values), recorder.points, run.kept)

    def _move(self, end: Tensor, verified: bool, taken: EarlierWindow | None) -> None:
        """Goes to the end of a window."""
        self._state = end
        self.step += self.window
        self.is_verified = verified
        if taken is not None:
            self._earlier.kept.append(taken)
        if verified:
            self._earlier.drop_old()

    @property
    def verifies_next(self) -> bool:
        """Whether the next window is verified: the first, the last and one in VERIFIED_STEPS."""
        number, every = self.step // self.window, max(1, VERIFIED_STEPS // self.window)
        return number % every == 0 or self.is_last

    def _config(self, first: int) -> TrainingConfig:
        """The training of a window: its steps from `first` on, with their part of the schedule."""
        if self._factors is None:
            return self._constant
        factors = self._factors[first : first + self.window]
        return replace(self._constant, schedule=TableSchedule(factors))

    def _cost(self, window: float) -> float:
        """The cost of a window in plain training runs.

        Every window takes the gradient of the outer loss, which counts by its rows here. A run of
        mode restart takes a single one, which does not count.
        """
        replica = self._replica
        rows = replica.training.batch_size * replica.training.accumulate
        window += PRODUCT * self._added / self.window
        return (window * self.window + self._validation.count / rows) / self.steps
