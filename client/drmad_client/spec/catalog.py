"""What the service offers without user code, as data: listed and checked without torch."""

from __future__ import annotations

from typing import Any

from drmad_client.spec import job
from drmad_client.spec.data_sets import DATA_SETS as DATA_SETS

MODELS = (job.MlpModel, job.CnnModel)
HYPERPARAMETERS = (
    job.L2Hyperparameter,
    job.L1Hyperparameter,
    job.LearningRateHyperparameter,
    job.MomentumHyperparameter,
    job.InitScaleHyperparameter,
    job.SampleWeightHyperparameter,
    job.TrainingDataHyperparameter,
    job.LossWeightHyperparameter,
    job.TensorHyperparameter,
)
METHODS = (
    job.AutoMethod,
    job.ShortcutMethod,
    job.ReplayMethod,
    job.StoredMethod,
    job.ReversibleMethod,
    job.OneStepMethod,
    job.ImplicitMethod,
    job.ForwardMethod,
)


def describe() -> dict[str, Any]:
    """Everything a job may ask for, by name, and the JSON schema of a whole job."""
    return {
        "models": [_entry(model, "name") for model in MODELS],
        "data": [
            _entry(data, "name")
            | {
                "examples": data.examples,
                "input_shape": data.input_shape and list(data.input_shape),
                "classes": data.classes,
            }
            for data in DATA_SETS
        ],
        "hyperparameters": [_entry(kind, "kind") for kind in HYPERPARAMETERS],
        "methods": [_entry(method, "method") for method in METHODS],
        "schema": job.JobSpec.model_json_schema(),
    }


def _entry(spec: type[job.Spec], discriminator: str) -> dict[str, Any]:
    schema = spec.model_json_schema()
    return {
        "name": spec.model_fields[discriminator].default,
        "description": spec.__doc__,
        "options": {n: o for n, o in schema["properties"].items() if n != discriminator},
    }
