"""What the service offers without user code, as data: listed and checked without torch."""

from __future__ import annotations

from typing import Any

from drmad_client import specs
from drmad_client.data_sets import DATA_SETS as DATA_SETS

MODELS = (specs.MlpModel, specs.CnnModel)
HYPERPARAMETERS = (
    specs.L2Hyperparameter,
    specs.L1Hyperparameter,
    specs.LearningRateHyperparameter,
    specs.MomentumHyperparameter,
    specs.InitScaleHyperparameter,
    specs.SampleWeightHyperparameter,
    specs.TrainingDataHyperparameter,
    specs.LossWeightHyperparameter,
    specs.TensorHyperparameter,
)
METHODS = (
    specs.AutoMethod,
    specs.ShortcutMethod,
    specs.ReplayMethod,
    specs.StoredMethod,
    specs.ReversibleMethod,
    specs.OneStepMethod,
    specs.ImplicitMethod,
    specs.ForwardMethod,
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
        "schema": specs.JobSpec.model_json_schema(),
    }


def _entry(spec: type[specs.Spec], discriminator: str) -> dict[str, Any]:
    schema = spec.model_json_schema()
    return {
        "name": spec.model_fields[discriminator].default,
        "description": spec.__doc__,
        "options": {n: o for n, o in schema["properties"].items() if n != discriminator},
    }
