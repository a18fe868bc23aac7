"""The Ray actor that computes replicas of a job; Ray is imported in this folder alone.

Torch and the engine are imported inside the methods, so that a scheduler can import this module
without them. messages.py defines what the methods return.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from drmad_workers.ray_actor.messages import (
    Failure,
    Infos,
    PackedState,
    PackedTraining,
    Prepared,
    ReplicaResult,
    RollbackRequired,
    StepResult,
    WorkerResults,
)
from drmad_workers.ray_actor.outer_methods import OuterMethods
from drmad_workers.ray_actor.side_methods import SideMethods

if TYPE_CHECKING:
    from drmad_workers.evaluation import Evaluation


@ray.remote(max_restarts=0, max_task_retries=0)
class Replica(OuterMethods, SideMethods):
    """Trains and differentiates one or more replicas of a job, on one device.

    The actor keeps problem and data between meta-iterations. Further threads answer `report` and
    `abandon` while one computes. One worker of a job also takes the outer step, because it has
    loaded torch: a separate task would load it again, as Ray stops processes that are idle for a
    second.

    Several workers may share the training runs of one replica. Each of them is such an actor; the
    first one has the handles of the others, and calls them for what it computes itself.
    """

    def prepare(self) -> Prepared | Failure:
        """Builds the problem and checks it; the first meta-iteration requires this."""
        prepared = self._shared.beside(
            lambda follower: follower.prepare.remote(),
            lambda: self._guarded(lambda: self._states.prepared(self._prepare()), None),
        )
        if isinstance(prepared, Failure):
            return prepared
        return self._guarded(lambda: self._shared.connect(self._device), None) or prepared

    def join(self, folder: str, rank: int, size: int) -> Failure | None:
        """Takes the place of a worker among those that meet in the folder."""
        return self._guarded(
            lambda: self._shared.join(Path(folder), rank, size, self._device), None
        )

    def follow(self, state: PackedState, iteration: int, draw: int | None) -> Failure | None:
        """Computes the rows of this worker in a meta-iteration, which the first worker returns."""
        found = self._own_results(state, iteration, 0, draw)
        return found if isinstance(found, Failure) else None

    @ray.method(num_returns=2)
    def meta_iteration(
        self, state: PackedState, iteration: int, ticket: int, draw: int | None = None
    ) -> tuple[Failure | None, WorkerResults]:
        """Trains at the state's hyperparameters and differentiates the validation loss.

        Returns two objects: the failure, if any, which the scheduler reads; and the results, which
        only the worker that takes the outer step reads.

        Args:
            ticket: a number that increases from call to call, for `abandon`.
            draw: fixes initial weights and minibatches; None takes the draw of the state.
        """
        results = self._results(state, iteration, ticket, draw)
        return (results if isinstance(results, Failure) else None), results

    def whole_meta_iteration(
        self, state: PackedState, infos: Infos, max_model_bytes: int, goes_on: bool = False
    ) -> StepResult | RollbackRequired | Failure:
        """A meta-iteration and its outer step, for a job with one worker.

        Args:
            goes_on: whether the next meta-iteration may begin at once; see StepResult.
        """

        def whole(begun: PackedState) -> StepResult | RollbackRequired | Failure:
            results = self._results(begun, int(begun.scalars["iteration"]), 0, None)
            return self._outer_step(infos, begun, max_model_bytes, [results])

        return self._ahead.outcome(whole, state, goes_on)

    def following_meta_iteration(self, goes_on: bool) -> StepResult | RollbackRequired | Failure:
        """As whole_meta_iteration, for the one that has begun already."""
        return self._ahead.next_outcome(goes_on)

    def training_state(self) -> PackedTraining | Failure:
        """The training state of the replica of an online job before its next window."""

        def body() -> PackedTraining:
            from drmad_workers.ray_actor.packed_state import pack_training

            assert self._session is not None
            return self._states.keep(pack_training(self._session.state()))

        with self._computing:
            return self._guarded(body, None)

    def resume_training(
        self, first: int, state: PackedTraining | None, points: Sequence[PackedState]
    ) -> Failure | None:
        """Trains the windows from `first` on again, at the hyperparameters of their states.

        Args:
            state: the training state before the window `first`; None begins a training run.
        """

        def body() -> None:
            from drmad_workers.ray_actor.packed_state import unpack, unpack_training

            assert self._session is not None
            start = None if state is None else unpack_training(self._states.read(state))
            found = [unpack(self._states.read(each)).hyperparameters for each in points]
            self._session.restore(first, start, found)

        with self._computing:
            return self._guarded(body, first)

    def _results(
        self, state: PackedState, iteration: int, ticket: int, draw: int | None
    ) -> WorkerResults:
        return self._shared.beside(
            lambda follower: follower.follow.remote(state, iteration, draw),
            lambda: self._own_results(state, iteration, ticket, draw),
        )

    def _own_results(
        self, state: PackedState, iteration: int, ticket: int, draw: int | None
    ) -> WorkerResults:
        def should_stop() -> bool:
            return 0 < ticket <= self._abandoned

        def body() -> list[ReplicaResult]:
            node = ray.get_runtime_context().get_node_id()
            # Where workers share the run, one that stops by itself would leave the others waiting.
            own = None if self._shared.is_shared else should_stop
            with self._shared.of(self._tuners[0].replica, should_stop):
                evaluations = self._evaluations(state, iteration, own, draw)
                tried = self._trials(state, own, draw)
            parts = zip(self._numbers, evaluations, self._tuners, tried, strict=True)
            return [
                ReplicaResult(
                    number,
                    evaluation,
                    tuner.train_examples.rows,
                    tuner.valid_examples.rows,
                    node,
                    self._device,
                    tuple(trials),
                )
                for number, evaluation, tuner, trials in parts
            ]

        with self._computing:
            return self._guarded(body, iteration)

    def _evaluations(
        self,
        state: PackedState,
        iteration: int,
        should_stop: Callable[[], bool] | None,
        draw: int | None,
    ) -> Sequence[Evaluation]:
        from drmad_workers import spec_adapter
        from drmad_workers.meta.state import require_fit
        from drmad_workers.meta.update import bounds_of, outer_loop
        from drmad_workers.ray_actor.packed_state import unpack

        begun = unpack(self._states.read(state))
        require_fit(begun, self._tuners[0].hyperparameters)
        values = begun.hyperparameters
        draw = begun.draw if draw is None else draw
        config = spec_adapter.meta(self._spec)
        if self._session is not None:
            from drmad_workers.meta.loss_history import out_of_patience

            is_last = begun.iteration + 1 == config.iterations
            ends = is_last or out_of_patience(begun, config)
            return [self._session.take(values, iteration, ends, should_stop, self._note)]
        outer = outer_loop(begun, config, bounds_of(self._tuners[0].hyperparameters))
        given = (values, iteration, should_stop, self._note, begun.choice, draw, outer)
        if self._batched is not None:
            return self._batched.evaluate(*given)
        (tuner,) = self._tuners
        return [tuner.evaluate(*given)]

    def _trials(
        self, state: PackedState, should_stop: Callable[[], bool] | None, draw: int | None
    ) -> list[list[float]]:
        """The losses at the points that the outer optimizer tries, of each replica."""
        from drmad_workers.meta.update import bounds_of, trial_points
        from drmad_workers.ray_actor.packed_state import unpack
        from drmad_workers.tuning import trial_losses

        begun = unpack(self._states.read(state))
        points = trial_points(begun, bounds_of(self._tuners[0].hyperparameters))
        number = begun.draw if draw is None else draw
        return [
            trial_losses(tuner, points, number, should_stop, self._note) for tuner in self._tuners
        ]
