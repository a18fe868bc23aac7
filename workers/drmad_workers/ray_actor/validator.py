"""The Ray actor that validates the hypergradient of a job by retraining.

Torch and the engine are imported inside the methods, as in actor.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ray

from drmad_client.spec.job import JobSpec
from drmad_client.spec.replicas import ReplicasSpec
from drmad_client.spec.validation import ValidationSpec
from drmad_workers.ray_actor import failures
from drmad_workers.ray_actor.memory_limit import limit_memory
from drmad_workers.ray_actor.messages import Failure, PackedState

if TYPE_CHECKING:
    from drmad_workers.validation.yardstick import Differentiated, Yardstick

T = TypeVar("T")


@ray.remote(max_restarts=0, max_task_retries=0)
class Validator:
    """Differentiates and retrains one problem at one state; several do so side by side.

    It has all examples, as the trials of a search have, and the streams of replica 0.
    """

    def __init__(
        self,
        spec: str,
        asked: str,
        state: PackedState,
        cpus: float,
        data_roots: Sequence[str],
        uploads: str,
        code: bytes | None,
        memory_bytes: int = 0,
    ) -> None:
        """
        Args:
            spec: the job (JSON).
            asked: what to retrain, a ValidationSpec (JSON).
            state: that of the outer loop, at which the hypergradient is validated.
            cpus: the threads of torch.
            data_roots, uploads: where data may be read.
            code: the archive of the user's code.
            memory_bytes: bounds the memory of this process; 0 sets no bound.
        """
        self._spec_json, self._asked_json, self._state = spec, asked, state
        self._cpus, self._data_roots, self._uploads = cpus, data_roots, uploads
        self._code, self._memory_bytes = code, memory_bytes
        self._folder: Path | None = None
        self._built: Yardstick | None = None

    @ray.method(num_returns=2)
    def differentiate(self) -> tuple[int | Failure, Differentiated | None]:
        """What is known before retraining.

        Returns two objects: the number of retrainings or a failure, which the scheduler reads; and
        what the other methods need, which only workers read.
        """
        found = self._guarded(lambda: self._yardstick().differentiate())
        if isinstance(found, Failure):
            return found, None
        return len(self._yardstick().retrainings), found

    def retrain(self, known: Differentiated, number: int) -> float | Failure | None:
        """The validation loss of one training run; None if it diverged."""

        def body() -> float | None:
            yardstick = self._yardstick()
            return yardstick.retrain(known, yardstick.retrainings[number])

        return self._guarded(body)

    def report(
        self, known: Differentiated, losses: Sequence[float | None]
    ) -> dict[str, Any] | Failure:
        """The fields of drmad_client.records.validation.ValidationReport."""
        return self._guarded(lambda: self._yardstick().report(known, losses).as_dict())

    def _yardstick(self) -> Yardstick:
        if self._built is None:
            self._built = self._build()
        return self._built

    def _build(self) -> Yardstick:
        import torch

        from drmad_workers import spec_adapter
        from drmad_workers.catalog import Places
        from drmad_workers.code_folder import unpacked
        from drmad_workers.ray_actor.packed_state import unpack
        from drmad_workers.validation.command import settings_of_spec
        from drmad_workers.validation.yardstick import Yardstick

        torch.set_num_threads(max(1, int(self._cpus)))
        if self._memory_bytes:
            limit_memory(self._memory_bytes)
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._folder = unpacked(self._code) if self._code is not None else None
        spec = JobSpec.accepted(self._spec_json)
        spec = spec.model_copy(update={"replicas": ReplicasSpec()})
        places = Places([Path(root) for root in self._data_roots], Path(self._uploads))
        tuner = spec_adapter.tuner(spec, 0, places, device, self._folder)
        settings = settings_of_spec(ValidationSpec.model_validate_json(self._asked_json))
        return Yardstick(tuner, settings, spec_adapter.meta(spec), unpack(self._state))

    def _guarded(self, body: Callable[[], T]) -> T | Failure:
        iteration = self._state.scalars.get("iteration")
        return failures.guarded_with_user_frames(body, iteration, lambda: self._folder)
