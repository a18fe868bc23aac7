"""The Ray actor that computes replicas of a job; the only module that imports Ray.

Torch and the engine are imported inside the methods, so that a scheduler can import this module
without them. messages.py defines what the methods return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import ray

from drmad_client.spec.job import JobSpec
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.ray_actor import failures
from drmad_workers.ray_actor.memory_limit import limit_memory
from drmad_workers.ray_actor.messages import (
    AttributionResult,
    Failure,
    Infos,
    PackedState,
    PackedTraining,
    Prepared,
    ProgressReport,
    ReplicaResult,
    Retrained,
    RollbackRequired,
    StepResult,
    TrialResult,
    WorkerResults,
)
from drmad_workers.ray_actor.output import Output
from drmad_workers.ray_actor.shared_work import SharedWork

if TYPE_CHECKING:
    from drmad_workers.attribution.attribution import DrawAttribution
    from drmad_workers.attribution.attributor import Attributor
    from drmad_workers.catalog import Places
    from drmad_workers.evaluation import Evaluation
    from drmad_workers.online.session import OnlineSession
    from drmad_workers.problem import Problem
    from drmad_workers.replica_batch import ReplicaBatch
    from drmad_workers.tuning import Tuner

T = TypeVar("T")


@ray.remote(max_restarts=0, max_task_retries=0)
class Replica:
    """Trains and differentiates one or more replicas of a job, on one device.

    The actor keeps problem and data between meta-iterations. Further threads answer `report` and
    `abandon` while one computes. One worker of a job also takes the outer step, because it has
    loaded torch: a separate task would load it again, as Ray stops processes that are idle for a
    second.

    Several workers may share the training runs of one replica. Each of them is such an actor; the
    first one has the handles of the others, and calls them for what it computes itself.
    """

    def __init__(
        self,
        spec: str,
        replicas: Sequence[int],
        cpus: float,
        data_roots: Sequence[str],
        uploads: str,
        code: bytes | None,
        memory_bytes: int = 0,
        followers: Sequence[Any] = (),
        artifacts: JobArtifacts | None = None,
    ) -> None:
        """`followers` are the other workers of the replica, whose first this one is."""
        self._spec_json = spec
        self._numbers = list(replicas)
        self._cpus = cpus
        self._data_roots = [Path(root) for root in data_roots]
        self._uploads = Path(uploads)
        self._code = code
        self._memory_bytes = memory_bytes
        self._artifacts = artifacts
        self._folder: Path | None = None
        self._problem: Problem | None = None
        self._tuners: Sequence[Tuner] = ()
        self._batched: ReplicaBatch | None = None
        self._attributor: Attributor | None = None
        self._session: OnlineSession | None = None
        self._shared = SharedWork(followers)
        self._parsed_spec: JobSpec | None = None
        self._progress = ("prepare", 0, 0)
        self._output = Output()
        self._computing = Lock()
        self._abandoned = -1

    @property
    def _spec(self) -> JobSpec:
        # Not a functools.cached_property: it holds a lock on Python 3.11, which Ray cannot pickle.
        if self._parsed_spec is None:
            self._parsed_spec = JobSpec.accepted(self._spec_json)
        return self._parsed_spec

    def prepare(self) -> Prepared | Failure:
        """Builds the problem and checks it; the first meta-iteration requires this."""
        prepared = self._shared.beside(
            lambda follower: follower.prepare.remote(), lambda: self._guarded(self._prepare, None)
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

    def follow_retraining(self, state: PackedState, iteration: int, draw: int) -> Failure | None:
        """Computes the rows of this worker in one draw of a confirmation."""
        with self._computing:
            found = self._guarded(lambda: self._retrain(state, draw, 0), iteration)
        return found if isinstance(found, Failure) else None

    def warm_start(
        self, tensors: bytes, infos: Mapping[str, Mapping[str, Any]], schedules: Sequence[str]
    ) -> tuple[PackedState, list[str]] | Failure:
        """The state before the first meta-iteration, at what another job has tuned.

        Returns also what of it was adapted to this problem; see hyperparameters.warm_start.
        """

        def body() -> tuple[PackedState, list[str]]:
            from drmad_workers.ray_actor.packed_state import warm_state

            return warm_state(self._tuners[0].hyperparameters, tensors, infos, schedules)

        return self._guarded(body, None)

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
        self, state: PackedState, iteration: int, infos: Infos, max_model_bytes: int
    ) -> StepResult | RollbackRequired | Failure:
        """A meta-iteration and its outer step, for a job with one worker."""
        results = self._results(state, iteration, 0, None)
        return self._outer_step(infos, state, max_model_bytes, [results])

    def meta_step(
        self,
        infos: Infos,
        state: PackedState,
        max_model_bytes: int,
        *results: WorkerResults,
    ) -> StepResult | RollbackRequired | Failure:
        """Aggregates the replicas in the order of their numbers and takes one outer step."""
        return self._outer_step(infos, state, max_model_bytes, results)

    def training_state(self) -> PackedTraining | Failure:
        """The training state of the replica of an online job before its next window."""

        def body() -> PackedTraining:
            from drmad_workers.ray_actor.packed_state import pack_training

            assert self._session is not None
            return pack_training(self._session.state())

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
            start = None if state is None else unpack_training(state)
            self._session.restore(first, start, [unpack(each).hyperparameters for each in points])

        with self._computing:
            return self._guarded(body, first)

    @ray.method(num_returns=2)
    def arrival(
        self, infos: Infos, state: PackedState, results: WorkerResults
    ) -> tuple[dict[str, Any] | RollbackRequired | Failure, PackedState | None]:
        """Applies the hypergradient of one replica by itself.

        Returns the fields of its record, and the new state; see outer_step.arrival.
        """
        if isinstance(results, Failure):
            return results, None
        (result,) = results

        def apply() -> tuple[dict[str, Any], PackedState] | RollbackRequired:
            from drmad_workers.ray_actor import outer_step

            return outer_step.arrival(self._spec, infos, state, result)

        applied = failures.guarded(apply, state.scalars["iteration"])
        if isinstance(applied, RollbackRequired | Failure):
            return applied, None
        return applied

    def arrivals_step(
        self,
        infos: Infos,
        state: PackedState,
        after: PackedState,
        max_model_bytes: int,
        staleness: Sequence[int],
        *results: WorkerResults,
    ) -> StepResult | RollbackRequired | Failure:
        """Completes a meta-iteration of arrivals; see outer_step.arrivals_step."""
        arrived = [result for part in results if not isinstance(part, Failure) for result in part]

        def complete() -> StepResult | RollbackRequired:
            from drmad_workers.ray_actor import outer_step

            return outer_step.arrivals_step(
                self._spec,
                infos,
                state,
                after,
                max_model_bytes,
                arrived,
                staleness,
                self._artifacts,
            )

        return failures.guarded(complete, state.scalars["iteration"])

    def roll_back(
        self,
        infos: Infos,
        state: PackedState,
        best: PackedState,
        hypergradient: bytes,
        replicas: Sequence[int],
    ) -> PackedState | Failure:
        """The state that repeats a meta-iteration after a rollback; see outer_step.roll_back."""

        def restart() -> PackedState:
            from drmad_workers.ray_actor import outer_step

            return outer_step.roll_back(self._spec, infos, state, best, hypergradient, replicas)

        return failures.guarded(restart, state.scalars["iteration"])

    def propose(
        self,
        parameters: Mapping[str, Mapping[str, Any]],
        sampler: str,
        seed: int,
        number: int,
        known: Sequence[tuple[Mapping[str, Any], float | None]],
    ) -> dict[str, Any]:
        """The values of the next trial of a search; see drmad_workers.meta.search."""
        from drmad_workers.meta import search

        return search.propose(parameters, sampler, seed, number, known)

    def fidelity(self, state: PackedState, iteration: int) -> dict[str, Any] | Failure:
        """The agreement of the job's method with the exact one; see preflight.fidelity."""
        return self._guarded(lambda: self._fidelity(state, iteration), iteration)

    def trial(self, spec: str) -> TrialResult | Failure:
        """One training run of another spec, instead of the job's own."""
        with self._computing:
            return self._guarded(lambda: self._trial(spec), None)

    def retrain(
        self, state: PackedState, iteration: int, draw: int, max_model_bytes: int = 0
    ) -> Retrained | Failure:
        """One draw of a confirmation, at a state's hyperparameters; see plain_runs.retrained."""
        with self._computing:
            return self._shared.beside(
                lambda follower: follower.follow_retraining.remote(state, iteration, draw),
                lambda: self._guarded(
                    lambda: self._retrain(state, draw, max_model_bytes), iteration
                ),
            )

    @ray.method(num_returns=2)
    def attribute(self, most_bytes: int) -> tuple[Failure | None, list[DrawAttribution] | Failure]:
        """The attribution of the draws of this worker's replicas, whose failure comes first.

        Args:
            most_bytes: bounds the scores of the job.
        """

        def body() -> list[DrawAttribution]:
            from drmad_workers.ray_actor.side_runs import attribution_runs

            assert self._problem is not None
            made = attribution_runs.attributor_of(
                self._spec, self._problem, self._device, most_bytes
            )
            self._attributor = made
            return attribution_runs.draws_of(self._spec, made, self._numbers, self._note)

        with self._computing:
            found = self._guarded(body, None)
        return (found if isinstance(found, Failure) else None), found

    def attribution_step(
        self, *parts: list[DrawAttribution] | Failure
    ) -> AttributionResult | Failure:
        """The attribution of the job, from those of all workers in the order of their replicas."""
        draws = [draw for part in parts if not isinstance(part, Failure) for draw in part]

        def body() -> AttributionResult:
            from drmad_workers.ray_actor.side_runs import attribution_runs

            assert self._attributor is not None
            return attribution_runs.whole(self._spec, self._attributor, draws)

        with self._computing:
            return self._guarded(body, None)

    def abandon(self, ticket: int) -> None:
        """Stops the computations up to this ticket, whose results are no longer needed."""
        self._abandoned = max(self._abandoned, ticket)

    def preflight(self, max_model_bytes: int) -> dict[str, Any] | Failure:
        """The preflight report of the job; see preflight.short_run.

        It prepares the replica first if necessary, and changes nothing of the job.
        """
        with self._computing:
            return self._guarded(lambda: self._preflight(max_model_bytes), None)

    def examples(self, rows: Sequence[int], with_groups: bool) -> dict[str, Any] | Failure:
        """What the page of a job shows of its training examples; see example_runs.shown."""

        def body() -> dict[str, Any]:
            from drmad_workers.ray_actor.side_runs import example_runs

            if not self._tuners:
                self._prepare()
            return example_runs.shown(self._spec, self._tuners[0].replica, rows, with_groups)

        with self._computing:
            return self._guarded(body, None)

    def report(self) -> ProgressReport:
        """The current progress, and the lines printed since the last report."""
        return ProgressReport(*self._progress, self._output.take())

    def _places(self) -> tuple[Places, str, Path | None]:
        import torch

        from drmad_workers.catalog import Places
        from drmad_workers.code_folder import unpacked

        torch.set_num_threads(max(1, int(self._cpus)))
        if self._memory_bytes:
            limit_memory(self._memory_bytes)
            self._memory_bytes = 0  # the limit is set once
        self._device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._folder = unpacked(self._code) if self._code is not None else None
        return Places(self._data_roots, self._uploads), self._device, self._folder

    def _preflight(self, max_model_bytes: int) -> dict[str, Any]:
        from drmad_workers.preflight import short_run
        from drmad_workers.ray_actor.model_keeping import model_refusal

        if not self._tuners:
            self._prepare()
        assert self._problem is not None
        report = short_run.report(self._spec, self._problem, self._tuners[0], self._device)
        if self._spec.kind == "attribution":
            return report | {"model_bytes": None}
        refusal = model_refusal(report["model_bytes"], max_model_bytes, self._artifacts)
        return report | {"model_refusal": refusal}

    def _trial(self, spec_json: str) -> TrialResult:
        from drmad_workers import spec_adapter
        from drmad_workers.ray_actor.side_runs import plain_runs

        spec = JobSpec.accepted(spec_json)
        tuner = spec_adapter.tuner(spec, 0, *self._places())
        try:
            return plain_runs.trial(tuner, self._note)
        finally:
            tuner.close()

    def _retrain(self, state: PackedState, draw: int, max_model_bytes: int) -> Retrained:
        from drmad_workers.ray_actor.side_runs import plain_runs

        if self._session is not None:
            self._session.close()
        with self._shared.of(self._tuners[0].replica):
            return plain_runs.retrained(
                self._tuners, state, draw, max_model_bytes, self._note, self._artifacts
            )

    def _prepare(self) -> Prepared:
        from drmad_workers import spec_adapter
        from drmad_workers.meta.state import initial_state
        from drmad_workers.ray_actor.hyperparameter_infos import hyperparameter_infos
        from drmad_workers.ray_actor.packed_state import pack

        spec = self._spec
        places, device, folder = self._places()
        self._problem = problem = spec_adapter.problem(spec, places, folder)
        if len(self._numbers) == 1:
            replica = self._numbers[0]
            self._tuners = [spec_adapter.tuner(spec, replica, device=device, built=problem)]
        else:
            self._batched = spec_adapter.batched(spec, self._numbers, device=device, built=problem)
            self._tuners = self._batched.tuners
        bound = self._tuners[0].hyperparameters
        infos = hyperparameter_infos(spec, bound)
        count = sum(hyperparameter.initial.numel() for hyperparameter in bound.values())
        print(f"The problem is built on {self._device}: {count:,} hyperparameters.")
        reason = None if self._batched is None else self._batched.reason
        size = 0
        if spec.meta.mode == "online":
            from drmad_workers.online.session import OnlineSession

            trained, meta = self._tuners[0].replica, spec.meta
            self._session = OnlineSession(trained, meta.window, meta.validation_batch)
            size = self._session.state_bytes
        return Prepared(infos, pack(initial_state(bound)), reason, size)

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
        from drmad_workers.meta.state import require_fit
        from drmad_workers.ray_actor.packed_state import unpack

        begun = unpack(state)
        require_fit(begun, self._tuners[0].hyperparameters)
        values = begun.hyperparameters
        draw = begun.draw if draw is None else draw
        if self._batched is not None:
            return self._batched.evaluate(
                values, iteration, should_stop, self._note, choice=begun.choice, draw=draw
            )
        if self._session is not None:
            from drmad_workers import spec_adapter
            from drmad_workers.meta.loss_history import out_of_patience

            config = spec_adapter.meta(self._spec)
            is_last = begun.iteration + 1 == config.iterations
            ends = is_last or out_of_patience(begun, config)
            return [self._session.take(values, iteration, ends, should_stop, self._note)]
        (tuner,) = self._tuners
        return [
            tuner.evaluate(
                values, iteration, should_stop, self._note, choice=begun.choice, draw=draw
            )
        ]

    def _trials(
        self, state: PackedState, should_stop: Callable[[], bool] | None, draw: int | None
    ) -> list[list[float]]:
        """The losses at the points that the outer optimizer tries, of each replica."""
        from drmad_workers.meta.update import trial_points
        from drmad_workers.ray_actor.packed_state import unpack
        from drmad_workers.tuning import trial_losses

        begun = unpack(state)
        bound = self._tuners[0].hyperparameters
        points = trial_points(begun, {name: (b.lower, b.upper) for name, b in bound.items()})
        number = begun.draw if draw is None else draw
        return [
            trial_losses(tuner, points, number, should_stop, self._note) for tuner in self._tuners
        ]

    def _guarded(self, body: Callable[[], T], iteration: int | None) -> T | Failure:
        try:
            return failures.guarded_with_user_frames(body, iteration, lambda: self._folder)
        finally:
            self._output.complete()

    def _fidelity(self, state: PackedState, iteration: int) -> dict[str, Any]:
        from drmad_workers.ray_actor.side_runs import plain_runs

        return plain_runs.fidelity(self._spec, self._tuners[0], state, iteration, self._note)

    def _note(self, phase: str, step: int, steps: int) -> None:
        self._progress = (phase, step, steps)

    def _outer_step(
        self,
        infos: Infos,
        state: PackedState,
        max_model_bytes: int,
        results: Sequence[WorkerResults],
    ) -> StepResult | RollbackRequired | Failure:
        arrived: list[ReplicaResult] = []
        for part in results:
            if isinstance(part, Failure):
                return part
            arrived += part
        arrived.sort(key=lambda result: result.replica)

        def take() -> StepResult | RollbackRequired:
            from drmad_workers.ray_actor import outer_step

            return outer_step.meta_step(
                self._spec, infos, state, max_model_bytes, arrived, self._artifacts
            )

        return failures.guarded(take, int(state.scalars["iteration"]))
