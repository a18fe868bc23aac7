"""The retrainer of a job, as its spec and the request for a retraining ask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from drmad_workers import spec_adapter
from drmad_workers.catalog import Places
from drmad_workers.hypergradients import Replay
from drmad_workers.hyperparameters.example_weight import ExampleWeight
from drmad_workers.retraining.retrainer import Retrainer, RetrainingSettings

if TYPE_CHECKING:
    from drmad_client.spec.job import JobSpec
    from drmad_client.spec.side_runs.retraining import RetrainSpec


def retrainer(
    spec: JobSpec,
    asked: RetrainSpec,
    values: Mapping[str, Tensor],
    scores: Any | None,
    places: Places,
    code: Path | None,
    device: str = "cpu",
) -> Retrainer:
    """The retrainer of a job.

    The schedule of the training is stretched to the steps that are asked for: shares of the steps
    stay, numbers of steps are multiplied.

    Args:
        spec: the job that began, with the values that its search found.
        asked: what is trained.
        values: the tuned λ by name; none of an attribution.
        scores: the influence of every training row, by which rows are left out. It was taken at
            weights of one and without hyperparameters, which then have no part in the training.
        places, code, device: see spec_adapter.tuner.
    Raises:
        EngineError, UserCodeError: see spec_adapter.tuner.
    """
    stated = spec.training if asked.steps is None else spec.training.over(asked.steps)
    ranked = None if scores is None else torch.from_numpy(np.array(scores))
    return Retrainer(
        spec_adapter.problem(spec, places, code),
        spec_adapter.kinds(spec) if scores is None else [ExampleWeight()],
        spec_adapter.training_config(stated),
        values,
        RetrainingSettings(asked.seeds, asked.with_validation, asked.threshold, asked.drop_lowest),
        ranked,
        Replay(hvp=spec.hypergradient.hvp),
        spec.seed,
        device,
    )
