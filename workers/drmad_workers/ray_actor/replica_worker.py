"""What the actor of a replica holds between its methods: the problem, its tuners, the progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import ray

from drmad_client.spec.job import JobSpec
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.ray_actor import failures
from drmad_workers.ray_actor.freed_memory import keep_freed_memory
from drmad_workers.ray_actor.memory_limit import limit_memory
from drmad_workers.ray_actor.messages import Failure, Prepared, ProgressReport
from drmad_workers.ray_actor.printed.output import Output
from drmad_workers.ray_actor.run_ahead import RunAhead
from drmad_workers.ray_actor.shared_work import SharedWork
from drmad_workers.ray_actor.state_files import StateFiles

if TYPE_CHECKING:
    from drmad_workers.attribution.attributor import Attributor
    from drmad_workers.catalog import Places
    from drmad_workers.online.session import OnlineSession
    from drmad_workers.problem import Problem
    from drmad_workers.replica_batch import ReplicaBatch
    from drmad_workers.tuning import Tuner

T = TypeVar("T")


class ReplicaWorker:
    """Builds the problem of a job, and reports what it does. Its parts add the work itself."""

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
        output: str = "",
    ) -> None:
        """
        Args:
            followers: the other workers of the replica, whose first this one is.
            output: the name by which an OutputReader finds what this process printed at last.
        """
        keep_freed_memory()
        self._spec_json = spec
        self._numbers = list(replicas)
        self._cpus = cpus
        self._data_roots = [Path(root) for root in data_roots]
        self._uploads = Path(uploads)
        self._code = code
        self._memory_bytes = memory_bytes
        self._artifacts = artifacts
        self._states = StateFiles(artifacts)
        self._folder: Path | None = None
        self._problem: Problem | None = None
        self._built: tuple[tuple[str, int], Problem] | None = None
        self._tuners: Sequence[Tuner] = ()
        self._batched: ReplicaBatch | None = None
        self._attributor: Attributor | None = None
        self._session: OnlineSession | None = None
        self._shared = SharedWork(followers)
        self._parsed_spec: JobSpec | None = None
        self._progress = ("prepare", 0, 0)
        self._output = Output(output)
        self._computing = Lock()
        self._ahead = RunAhead()
        self._abandoned = -1

    @property
    def _spec(self) -> JobSpec:
        # Not a functools.cached_property: it holds a lock on Python 3.11, which Ray cannot pickle.
        if self._parsed_spec is None:
            self._parsed_spec = JobSpec.accepted(self._spec_json)
        return self._parsed_spec

    def abandon(self, ticket: int) -> None:
        """Stops the computations up to this ticket, whose results are no longer needed."""
        self._abandoned = max(self._abandoned, ticket)

    def report(self) -> ProgressReport:
        """The current progress, and the lines printed since the last report."""
        lines = self._output.take()
        return ProgressReport(*self._progress, lines, [*self._output.read])

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
        location = None if self._artifacts is None else self._artifacts.location
        places = Places(self._data_roots, self._uploads, artifacts=location)
        return places, self._device, self._folder

    def _problem_of(self, spec: JobSpec) -> Problem:
        """The problem that a spec states, with its data: built once for all that state the same."""
        from drmad_workers import spec_adapter

        stated = (spec.problem.model_dump_json(), spec.seed)
        if self._built is None or self._built[0] != stated:
            self._built = None  # its memory is free before the next one is built
            places, _, folder = self._places()
            self._built = (stated, spec_adapter.problem(spec, places, folder))
        return self._built[1]

    def _prepare(self) -> Prepared:
        from drmad_workers import spec_adapter
        from drmad_workers.meta.state import initial_state
        from drmad_workers.ray_actor.hyperparameter_infos import hyperparameter_infos
        from drmad_workers.ray_actor.packed_state import pack

        spec = self._spec
        self._problem = problem = self._problem_of(spec)
        device = self._device
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

    def _guarded(self, body: Callable[[], T], iteration: int | None) -> T | Failure:
        try:
            return failures.guarded_with_user_frames(body, iteration, lambda: self._folder)
        finally:
            self._output.complete()

    def _note(self, phase: str, step: int, steps: int) -> None:
        self._progress = (phase, step, steps)
