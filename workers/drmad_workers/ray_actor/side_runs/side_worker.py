"""What the workers of runs beside a job share: the problem, built once, and guarded methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ray

from drmad_client.spec.job import JobSpec
from drmad_client.spec.replicas import ReplicasSpec
from drmad_workers.artifacts.job_artifacts import JobArtifacts
from drmad_workers.ray_actor import failures
from drmad_workers.ray_actor.freed_memory import keep_freed_memory
from drmad_workers.ray_actor.memory_limit import limit_memory
from drmad_workers.ray_actor.messages import Failure, PackedState, ProgressReport
from drmad_workers.ray_actor.printed.output import Output
from drmad_workers.ray_actor.state_files import StateFiles

if TYPE_CHECKING:
    from drmad_workers.catalog import Places

T = TypeVar("T")


class SideWorker:
    """Has all examples, as the trials of a search have, and the streams of replica 0."""

    def __init__(
        self,
        spec: str,
        asked: str,
        state: PackedState | None,
        cpus: float,
        data_roots: Sequence[str],
        uploads: str,
        code: bytes | None,
        memory_bytes: int = 0,
        artifacts: JobArtifacts | None = None,
        output: str = "",
    ) -> None:
        """
        Args:
            spec: the job (JSON).
            asked: what to run (JSON).
            state: that of the outer loop, whose hyperparameters are meant; None for an attribution.
            cpus: the threads of torch.
            data_roots, uploads: where data may be read.
            code: the archive of the user's code.
            memory_bytes: bounds the memory of this process; 0 sets no bound.
            artifacts: where a model goes that is too large for Redis.
            output: the name by which an OutputReader finds what this process printed at last.
        """
        keep_freed_memory()
        self._spec_json, self._asked_json, self._state = spec, asked, state
        self._cpus, self._data_roots, self._uploads = cpus, data_roots, uploads
        self._code, self._memory_bytes = code, memory_bytes
        self._artifacts = artifacts
        self._output = Output(output)
        self._folder: Path | None = None
        self._built: Any = None
        """What a derived class builds once, and keeps between its methods."""

    def report(self) -> ProgressReport:
        """The lines printed since the last report; another thread answers while one computes."""
        lines = self._output.take()
        return ProgressReport("", 0, 0, lines, [*self._output.read])

    def _prepared(self) -> tuple[JobSpec, Places, str, Path | None]:
        """Spec, places of data, device and folder of the code; called once."""
        import torch

        from drmad_workers.catalog import Places
        from drmad_workers.code_folder import unpacked

        torch.set_num_threads(max(1, int(self._cpus)))
        if self._memory_bytes:
            limit_memory(self._memory_bytes)
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._folder = unpacked(self._code) if self._code is not None else None
        spec = JobSpec.accepted(self._spec_json)
        spec = spec.model_copy(update={"replicas": ReplicasSpec()})
        roots = [Path(root) for root in self._data_roots]
        location = None if self._artifacts is None else self._artifacts.location
        places = Places(roots, Path(self._uploads), artifacts=location)
        return spec, places, device, self._folder

    def _begun(self) -> PackedState | None:
        """The state with its tensors.

        Raises:
            ArtifactError: the artifact store fails, or has lost them.
        """
        return None if self._state is None else StateFiles(self._artifacts).read(self._state)

    def _guarded(self, body: Callable[[], T]) -> T | Failure:
        iteration = None if self._state is None else self._state.scalars.get("iteration")
        try:
            return failures.guarded_with_user_frames(body, iteration, lambda: self._folder)
        finally:
            self._output.complete()
