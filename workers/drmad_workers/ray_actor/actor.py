"""What runs on the Ray cluster: the worker's actor. The only file that knows Ray.

Torch and the engine are imported inside the bodies, so that a scheduler imports this file without
them. What goes in and out stands in messages.py.
"""

from __future__ import annotations

import io
import resource
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import ray

from drmad_workers.ray_actor import failures, outer_step
from drmad_workers.ray_actor.failures import LESS_MEMORY as LESS_MEMORY
from drmad_workers.ray_actor.failures import OUT_OF_MEMORY as OUT_OF_MEMORY
from drmad_workers.ray_actor.messages import Failure as Failure
from drmad_workers.ray_actor.messages import PackedState as PackedState
from drmad_workers.ray_actor.messages import Prepared as Prepared
from drmad_workers.ray_actor.messages import ProgressReport as ProgressReport
from drmad_workers.ray_actor.messages import ReplicaResult as ReplicaResult
from drmad_workers.ray_actor.messages import RollbackRequired as RollbackRequired
from drmad_workers.ray_actor.messages import StepResult as StepResult
from drmad_workers.ray_actor.messages import TrialResult as TrialResult

if TYPE_CHECKING:
    from drmad_client.spec.job import JobSpec
    from drmad_workers.catalog import Places
    from drmad_workers.hyperparameters.kinds import Group
    from drmad_workers.problem import Problem
    from drmad_workers.replica_batch import ReplicaBatch
    from drmad_workers.tuning import Evaluation, Tuner

T = TypeVar("T")

LINES_KEPT, LINE_LENGTH = 1000, 2000
"""Of what a replica prints between two reports."""
SPARE_BYTES = 64 << 20
"""Less than this beyond what a worker itself takes is no limit to work within."""
MOST_GROUPS = 128
"""A tensor of more parts is told of as a whole."""
THREADS = 4
"""Of a worker: one computes, one reports, one waits while a straggler ends, one takes the step."""

WorkerResults = list[ReplicaResult] | Failure
"""Of one worker."""


class _Tee(io.TextIOBase):
    """Passes on what is written, and keeps its last lines."""

    def __init__(self, stream: TextIO, lines: deque[str]) -> None:
        self._stream = stream
        self._lines = lines
        self._open_line = ""

    def write(self, text: str) -> int:
        self._stream.write(text)
        *lines, self._open_line = (self._open_line + text).split("\n")
        self._lines.extend(line[:LINE_LENGTH] for line in lines)
        self._open_line = self._open_line[:LINE_LENGTH]
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def captured_output() -> deque[str]:
    """The last lines that this process prints from now on; whoever reads them takes them out."""
    lines: deque[str] = deque(maxlen=LINES_KEPT)
    sys.stdout, sys.stderr = _Tee(sys.stdout, lines), _Tee(sys.stderr, lines)
    return lines


@ray.remote(max_restarts=0, max_task_retries=0)
class Replica:
    """Trains and differentiates one or more replicas of a job, on one device.

    Keeps problem and data between meta-iterations. Further threads answer `report` and `abandon`
    while the first computes. One of a job's workers takes the outer step too: it has loaded torch,
    which a task of its own would do anew, as Ray ends what was idle for a second.
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
    ) -> None:
        self._spec = spec
        self._numbers = list(replicas)
        self._cpus = cpus
        self._data_roots = [Path(root) for root in data_roots]
        self._uploads = Path(uploads)
        self._code = code
        self._memory_bytes = memory_bytes
        self._folder: Path | None = None
        self._problem: Problem | None = None
        self._tuners: Sequence[Tuner] = ()
        self._batched: ReplicaBatch | None = None
        self._progress = ("prepare", 0, 0)
        self._lines = captured_output()
        self._computing = Lock()
        self._abandoned = -1

    def prepare(self) -> Prepared | Failure:
        """Build the problem and check it; it must be prepared before its first iteration."""
        return self._guarded(self._prepare, None)

    @ray.method(num_returns=2)
    def meta_iteration(
        self, state: PackedState, iteration: int, ticket: int, draw: int | None = None
    ) -> tuple[Failure | None, WorkerResults]:
        """Train at the state's hyperparameters and differentiate the validation loss.

        Returns twice: in small, whether it failed, and the results, for the meta step alone.

        Args:
            ticket: a number that rises from call to call, for `abandon`.
            draw: fixes weights and minibatches where it is not the state's own.
        """
        results = self._results(state, iteration, ticket, draw)
        return (results if isinstance(results, Failure) else None), results

    def whole_meta_iteration(
        self, state: PackedState, iteration: int, infos: outer_step.Infos, max_model_bytes: int
    ) -> StepResult | RollbackRequired | Failure:
        """Of a job with one worker: the meta step too, without another process in between."""
        results = self._results(state, iteration, 0, None)
        return _stepped(self._spec, infos, state, max_model_bytes, [results])

    def meta_step(
        self,
        infos: outer_step.Infos,
        state: PackedState,
        max_model_bytes: int,
        *results: WorkerResults,
    ) -> StepResult | RollbackRequired | Failure:
        """Aggregate the replicas in their order and update the hyperparameters once."""
        return _stepped(self._spec, infos, state, max_model_bytes, results)

    @ray.method(num_returns=2)
    def arrival(
        self, infos: outer_step.Infos, state: PackedState, results: WorkerResults
    ) -> tuple[dict[str, Any] | RollbackRequired | Failure, PackedState | None]:
        """Apply the hypergradient of one replica at once: what to tell of it, the state after."""
        if isinstance(results, Failure):
            return results, None
        (result,) = results
        applied = failures.guarded(
            lambda: outer_step.arrival(_spec(self._spec), infos, state, result),
            state.scalars["iteration"],
        )
        if isinstance(applied, RollbackRequired | Failure):
            return applied, None
        return applied

    def arrivals_step(
        self,
        infos: outer_step.Infos,
        state: PackedState,
        moved: PackedState,
        max_model_bytes: int,
        staleness: Sequence[int],
        *results: WorkerResults,
    ) -> StepResult | RollbackRequired | Failure:
        """Judge the meta-iteration that these arrivals make up."""
        done = [result for part in results if not isinstance(part, Failure) for result in part]
        return failures.guarded(
            lambda: outer_step.arrivals_step(
                _spec(self._spec), infos, state, moved, max_model_bytes, done, staleness
            ),
            state.scalars["iteration"],
        )

    def roll_back(
        self, infos: outer_step.Infos, state: PackedState, best: PackedState, hypergradient: bytes
    ) -> PackedState | Failure:
        """The state that begins a meta-iteration again after a rollback; see meta.update."""
        return failures.guarded(
            lambda: outer_step.roll_back(_spec(self._spec), infos, state, best, hypergradient),
            state.scalars["iteration"],
        )

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
        """How far the job's method agrees with the exact one, as preflight.fidelity tells."""
        return self._guarded(lambda: self._fidelity(state, iteration), iteration)

    def trial(self, spec: str) -> TrialResult | Failure:
        """One training run of another spec, in the place of the job's own."""
        with self._computing:
            return self._guarded(lambda: self._trial(spec), None)

    def abandon(self, ticket: int) -> None:
        """End what was asked for up to this ticket; nobody waits for it any more."""
        self._abandoned = max(self._abandoned, ticket)

    def preflight(self) -> dict[str, Any] | Failure:
        """What drmad_workers.preflight.short_run finds of the job, of which nothing counts.

        Prepares the replica where that is not done.
        """
        with self._computing:
            return self._guarded(self._preflight, None)

    def report(self) -> ProgressReport:
        """What runs now, and what was printed since the last report."""
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        return ProgressReport(*self._progress, lines)

    def _places(self) -> tuple[Places, str, Path | None]:
        import torch

        from drmad_workers.catalog import Places
        from drmad_workers.user_code import unpacked

        torch.set_num_threads(max(1, int(self._cpus)))
        if self._memory_bytes:
            _limit_memory(self._memory_bytes)
            self._memory_bytes = 0  # once
        self._device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._folder = unpacked(self._code) if self._code is not None else None
        return Places(self._data_roots, self._uploads), self._device, self._folder

    def _preflight(self) -> dict[str, Any]:
        from drmad_workers.preflight import short_run

        if not self._tuners:
            self._prepare()
        assert self._problem is not None
        return short_run.tried(_spec(self._spec), self._problem, self._tuners[0], self._device)

    def _trial(self, spec_json: str) -> TrialResult:
        from drmad_workers import spec_adapter
        from drmad_workers.errors import TrainingDiverged

        tuner = spec_adapter.tuner(_spec(spec_json), 0, *self._places())
        try:
            figures = tuner.train(tuner.initial_values(), on_progress=self._note)
        except TrainingDiverged as error:
            return TrialResult(None, {}, str(error))
        return TrialResult(figures.pop("validation_loss"), figures)

    def _prepare(self) -> Prepared:
        from drmad_workers import spec_adapter
        from drmad_workers.meta.state import initial_state

        spec = _spec(self._spec)
        places, device, folder = self._places()
        self._problem = problem = spec_adapter.problem(spec, places, folder)
        if len(self._numbers) == 1:
            replica = self._numbers[0]
            self._tuners = [spec_adapter.tuner(spec, replica, device=device, built=problem)]
        else:
            self._batched = spec_adapter.batched(spec, self._numbers, device=device, built=problem)
            self._tuners = self._batched.tuners
            if self._batched.reason is not None:
                print(f"replicas are computed one by one: {self._batched.reason}")
        bound = self._tuners[0].hyperparameters
        kinds = {h.name or h.kind: h.kind for h in spec.hyperparameters}
        infos = [
            {
                "name": name,
                "kind": kinds[name],
                "shape": list(hyperparameter.initial.shape),
                "transform": hyperparameter.transform,
                "lower": hyperparameter.lower,
                "upper": hyperparameter.upper,
                "groups": _groups(hyperparameter.groups),
            }
            for name, hyperparameter in bound.items()
        ]
        count = sum(hyperparameter.initial.numel() for hyperparameter in bound.values())
        print(f"built the problem on {self._device}: {count:,} hyperparameters")
        return Prepared(infos, outer_step.pack(initial_state(bound)))

    def _results(
        self, state: PackedState, iteration: int, ticket: int, draw: int | None
    ) -> WorkerResults:
        def body() -> list[ReplicaResult]:
            node = ray.get_runtime_context().get_node_id()
            parts = zip(
                self._numbers,
                self._evaluations(state, iteration, ticket, draw),
                self._tuners,
                strict=True,
            )
            return [
                ReplicaResult(
                    number,
                    evaluation,
                    tuner.train_examples.rows,
                    tuner.valid_examples.rows,
                    node,
                    self._device,
                )
                for number, evaluation, tuner in parts
            ]

        with self._computing:
            return self._guarded(body, iteration)

    def _evaluations(
        self, state: PackedState, iteration: int, ticket: int, draw: int | None
    ) -> Sequence[Evaluation]:
        begun = outer_step.unpacked(state)
        values = begun.hyperparameters
        draw = begun.draw if draw is None else draw

        def should_stop() -> bool:
            return 0 < ticket <= self._abandoned

        if self._batched is not None:
            return self._batched.evaluate(
                values, iteration, should_stop, self._note, choice=begun.choice, draw=draw
            )
        (tuner,) = self._tuners
        return [
            tuner.evaluate(
                values, iteration, should_stop, self._note, choice=begun.choice, draw=draw
            )
        ]

    def _guarded(self, body: Callable[[], T], iteration: int | None) -> T | Failure:
        """As the function of this name; what the user's code raised is told in its own frames."""

        def told() -> T:
            from drmad_workers.errors import EngineError, ran_out_of_memory
            from drmad_workers.user_code import UserCodeError, user_error

            try:
                return body()
            except (EngineError, UserCodeError):
                raise
            except (Exception, SystemExit) as error:
                if self._folder is None or ran_out_of_memory(error):
                    raise
                raise user_error(error, self._folder) from error

        return failures.guarded(told, iteration)

    def _fidelity(self, state: PackedState, iteration: int) -> dict[str, Any]:
        from drmad_workers import spec_adapter
        from drmad_workers.preflight import fidelity

        spec = _spec(self._spec)
        report = fidelity.measure(
            self._tuners[0],
            spec_adapter.training(spec),
            [spec_adapter.method(spec.hypergradient)],
            outer_step.unpacked(state).hyperparameters,
            spec.meta.iterations,
            iteration,
            on_progress=self._note,
        )
        return report.as_dict()

    def _note(self, phase: str, step: int, steps: int) -> None:
        self._progress = (phase, step, steps)


def _stepped(
    spec: str,
    infos: outer_step.Infos,
    state: PackedState,
    max_model_bytes: int,
    results: Sequence[WorkerResults],
) -> StepResult | RollbackRequired | Failure:
    done: list[ReplicaResult] = []
    for part in results:
        if isinstance(part, Failure):
            return part
        done += part
    done.sort(key=lambda result: result.replica)
    return failures.guarded(
        lambda: outer_step.meta_step(_spec(spec), infos, state, max_model_bytes, done),
        int(state.scalars["iteration"]),
    )


def _limit_memory(most_bytes: int) -> None:
    """Bounds what this process, which ends with its job, may allocate from now on.

    Raises:
        ProblemError: it holds as much already.
    """
    from drmad_workers.errors import ProblemError

    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else ["VmData: 0 kB"]
    (held,) = [int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:")]
    if most_bytes < held + SPARE_BYTES:
        raise ProblemError(
            f"resources.memory_bytes must be at least {held + SPARE_BYTES:,}, got {most_bytes:,}: "
            f"torch and Ray alone take {held:,} of a worker (the operator's --replica-memory "
            "stands in where the job says nothing)",
            "resources.memory_bytes",
        )
    resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))


def _spec(spec: str) -> JobSpec:
    from drmad_client.spec.job import JobSpec

    return JobSpec.model_validate_json(spec)


def _groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Fields of drmad_client.records.HyperparameterGroup, where they tell something and are few."""
    if not 1 < len(groups) <= MOST_GROUPS:
        return []
    return [group._asdict() for group in groups]
