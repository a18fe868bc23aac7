"""An online run that stays open between the windows of a job, one training run after the other."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TypeVar

from torch import Tensor

from drmad_workers.errors import EngineError, Restart
from drmad_workers.evaluation import Evaluation
from drmad_workers.online.run import OnlineRun
from drmad_workers.online.state import TrainingState
from drmad_workers.replica import Replica
from drmad_workers.training.progress import Monitor, OnProgress

logger = logging.getLogger(__name__)

T = TypeVar("T")
Values = Mapping[str, Tensor]
"""λ by name, before the transform."""


class OnlineSession:
    """Takes the windows of one replica, each of them verified.

    The windows of a job are numbered through its training runs: window n is the first of a run if
    the number of windows of a run divides n, and then n is the draw of the run.

    Attributes:
        next: the number of the window that follows; None before the first one.
        state_bytes: the size of a training state.
    """

    def __init__(self, replica: Replica, window: int, validation_batch: int | None = None) -> None:
        """
        Args:
            replica: the problem of the replica. Nothing else may use it while the session is open.
            window: the steps of a window.
            validation_batch: see MetaConfig.
        """
        self.next: int | None = None
        self.state_bytes = replica.objective.parameters.state.nbytes
        self._should_stop: Callable[[], bool] | None = None
        self._on_progress: OnProgress | None = None
        monitor = Monitor(self._stops, self._note)
        self._run = OnlineRun(replica, replica.method, window, monitor, validation_batch)
        self._windows = self._run.steps // window
        self._opened: ExitStack | None = None
        self._kept: TrainingState | None = None

    def take(
        self,
        values: Values,
        number: int,
        ends: bool = False,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
    ) -> Evaluation:
        """Trains window `number` at λ and differentiates it.

        The windows that an OnlineRun verifies by itself are measured, and have the model.

        Args:
            ends: measures the window, after which the patience ends the job.
            should_stop, on_progress: see Tuner.evaluate.
        Raises:
            EngineError: the session holds the state of another window.
            TrainingDiverged, HypergradientError, Stopped, ProblemError: the state is as before.
        """
        if self._begins(number):
            self.place(number, None)
        elif number != self.next:
            raise EngineError(
                f"the training state before window {number} is expected, got that before window "
                f"{self.next}: restore it from a checkpoint"
            )
        self._should_stop, self._on_progress = should_stop, on_progress
        measures = ends or self._open().verifies_next
        evaluation = self._verified(
            lambda run: run.advance(values, measures, keep_model=measures, verifies=True)
        )
        self.next = number + 1
        return evaluation

    def restore(self, number: int, state: TrainingState | None, values: Sequence[Values]) -> None:
        """Trains again to the state from which the window after these continues.

        Args:
            number: the number of the first window that is trained again.
            state: the training state before it; None begins the training run.
            values: λ of each window in turn.
        """
        self.place(number, state)
        for each in values:
            self._train(each)
            self.next = number = number + 1

    def place(self, number: int, state: TrainingState | None) -> None:
        """Continues with window `number` from a state, or begins a training run with None."""
        self.next = number
        self._open().go_to(state, draw=number)

    def state(self) -> TrainingState:
        """The training state before the window `next`."""
        return self._open().state()

    def close(self) -> None:
        """Gives the model back; the session keeps its training state, and opens again."""
        if self._opened is not None:
            self._kept = self._run.state()
            self._opened.close()
            self._opened = None

    def _train(self, values: Values) -> None:
        self._verified(lambda run: run.train(values))

    def _open(self) -> OnlineRun:
        if self._opened is None:
            self._opened = ExitStack()
            self._opened.enter_context(self._run.open(self._kept))
        return self._run

    def _begins(self, number: int) -> bool:
        return number % self._windows == 0

    def _verified(self, work: Callable[[OnlineRun], T]) -> T:
        """The result of the work on the next window, again where an assumption was wrong.

        Every window is verified, so that nothing that was committed has to be repeated.
        """
        while True:
            run = self._open()
            before = run.state()
            try:
                return work(run)
            except Restart as restart:
                logger.info("the window is repeated: %s", restart)
                restart.learn()
                run.go_to(before)

    def _stops(self) -> bool:
        return self._should_stop is not None and self._should_stop()

    def _note(self, phase: str, step: int, steps: int) -> None:
        if self._on_progress is not None:
            self._on_progress(phase, step, steps)
