"""The Ray actor that trains from scratch with the hyperparameters that a job found.

Torch and the engine are imported inside the methods, as in actor.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray

from drmad_client.files.influence_scores import InfluenceScores
from drmad_client.spec.side_runs.retraining import RetrainingSpec
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.ray_actor.messages import Failure
from drmad_workers.ray_actor.side_runs.side_worker import SideWorker

if TYPE_CHECKING:
    from drmad_workers.artifacts.job_artifacts import Kept
    from drmad_workers.retraining.retrainer import Retrainer

Figures = dict[str, float]


@ray.remote(max_restarts=0, max_task_retries=0)
class RetrainingWorker(SideWorker):
    """Trains the runs of one retraining; several do so side by side."""

    @ray.method(num_returns=2)
    def train(
        self, number: int, max_model_bytes: int, scores: bytes | None
    ) -> tuple[Figures | Failure | None, bytes | None]:
        """One training run: its held-out figures, None if it diverged, and its model.

        The scheduler reads the first of the two objects; the second, safetensors, stays in the
        object store until `keep` takes it or another run is better.

        Args:
            number: that of the run, see Retrainer.runs.
            max_model_bytes: the size up to which a tuned model is returned.
            scores: the file of the scores of an attribution, the same in every call.
        """

        def body() -> tuple[Figures | None, bytes | None]:
            from drmad_workers.ray_actor.model_keeping import saved_model

            retrainer = self._retrainer(scores)
            run = retrainer.runs[number]
            found = retrainer.train(run, keep_model=run.tuned and max_model_bytes > 0)
            if found is None:
                return None, None
            figures, model = found
            if not run.tuned:
                return figures, None
            packed = saved_model(model, max_model_bytes)
            assert not isinstance(packed, Artifact)
            return figures, packed

        result = self._guarded(body)
        return (result, None) if isinstance(result, Failure) else result

    def keep(self, model: bytes | None) -> Kept | Failure | None:
        """Where the model of a training run is kept: what goes to Redis, or its artifact."""

        def body() -> Kept | None:
            from safetensors.torch import load

            from drmad_workers.artifacts.store import RETRAINED
            from drmad_workers.ray_actor.model_keeping import saved_model

            if model is None:
                return None
            return saved_model(load(model), len(model), self._artifacts, RETRAINED)

        return self._guarded(body)

    def outcome(
        self, figures: Sequence[Mapping[str, float] | None], scores: bytes | None
    ) -> dict[str, Any] | Failure:
        """The fields of drmad_client.records.side_runs.retraining.RetrainingReport."""
        return self._guarded(lambda: self._retrainer(scores).report(figures).as_dict())

    def _retrainer(self, scores: bytes | None) -> Retrainer:
        if self._built is None:
            self._built = self._build(scores)
        built: Retrainer = self._built
        return built

    def _build(self, scores: bytes | None) -> Retrainer:
        from drmad_workers.ray_actor.packed_state import unpack
        from drmad_workers.retraining.from_spec import retrainer

        asked = RetrainingSpec.model_validate_json(self._asked_json)
        spec, places, device, folder = self._prepared()
        begun = self._begun()
        values = {} if begun is None else unpack(begun).hyperparameters
        ranked = None if scores is None else InfluenceScores.unpack(scores).of(asked.query)
        return retrainer(spec, asked, values, ranked, places, folder, device)
