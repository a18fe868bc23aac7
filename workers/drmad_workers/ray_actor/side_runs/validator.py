"""The Ray actor that validates the hypergradient of a job by retraining.

Torch and the engine are imported inside the methods, as in actor.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray

from drmad_client.spec.side_runs.validation import ValidationSpec
from drmad_workers.ray_actor.messages import Failure
from drmad_workers.ray_actor.side_runs.side_worker import SideWorker

if TYPE_CHECKING:
    from drmad_workers.validation.yardstick import Differentiated, Yardstick


@ray.remote(max_restarts=0, max_task_retries=0)
class Validator(SideWorker):
    """Differentiates and retrains one problem at one state; several do so side by side."""

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

    def outcome(
        self, known: Differentiated, losses: Sequence[float | None]
    ) -> dict[str, Any] | Failure:
        """The fields of drmad_client.records.side_runs.validation.ValidationReport."""
        return self._guarded(lambda: self._yardstick().report(known, losses).as_dict())

    def _yardstick(self) -> Yardstick:
        if self._built is None:
            self._built = self._build()
        built: Yardstick = self._built
        return built

    def _build(self) -> Yardstick:
        from drmad_workers import spec_adapter
        from drmad_workers.ray_actor.packed_state import unpack
        from drmad_workers.validation.command import settings_of_spec
        from drmad_workers.validation.yardstick import Yardstick

        begun = self._begun()
        assert begun is not None
        spec, places, device, folder = self._prepared()
        tuner = spec_adapter.tuner(spec, 0, places, device, folder)
        settings = settings_of_spec(ValidationSpec.model_validate_json(self._asked_json))
        return Yardstick(tuner, settings, spec_adapter.meta(spec), unpack(begun))
