"""drmad's engine: hypergradients of a PyTorch training run, without Ray, Redis or HTTP."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drmad_workers.aggregation import aggregate
    from drmad_workers.errors import (
        CurvatureIndefinite,
        EngineError,
        HypergradientDiverged,
        HypergradientError,
        HypergradientNotFinite,
        PathNotRecovered,
        ProblemError,
        SolverNotConverged,
        Stopped,
        TrainingDiverged,
    )
    from drmad_workers.hypergradients import (
        METHODS,
        Forward,
        Implicit,
        Method,
        OneStep,
        Replay,
        Reversible,
        Shortcut,
        Stored,
    )
    from drmad_workers.hyperparameters import (
        L1,
        L2,
        CustomTensor,
        InitScale,
        LearningRate,
        LossWeight,
        Momentum,
        SampleWeight,
        TrainingData,
    )
    from drmad_workers.meta import MetaConfig, MetaState, initial_state, meta_update
    from drmad_workers.problem import Batch, Hyperparameter, Problem, error_rate
    from drmad_workers.shards import Shards
    from drmad_workers.training import TrainingConfig
    from drmad_workers.tuning import Evaluation, Tuner, TuningResult, tune

__all__ = [
    "L1",
    "L2",
    "METHODS",
    "Batch",
    "CurvatureIndefinite",
    "CustomTensor",
    "EngineError",
    "Evaluation",
    "Forward",
    "HypergradientDiverged",
    "HypergradientError",
    "HypergradientNotFinite",
    "Hyperparameter",
    "Implicit",
    "InitScale",
    "LearningRate",
    "LossWeight",
    "MetaConfig",
    "MetaState",
    "Method",
    "Momentum",
    "OneStep",
    "PathNotRecovered",
    "Problem",
    "ProblemError",
    "Replay",
    "Reversible",
    "SampleWeight",
    "Shards",
    "Shortcut",
    "SolverNotConverged",
    "Stopped",
    "Stored",
    "TrainingConfig",
    "TrainingData",
    "TrainingDiverged",
    "Tuner",
    "TuningResult",
    "aggregate",
    "error_rate",
    "initial_state",
    "meta_update",
    "tune",
]

_MODULES = {
    "aggregation": ["aggregate"],
    "errors": [
        "CurvatureIndefinite",
        "EngineError",
        "HypergradientDiverged",
        "HypergradientError",
        "HypergradientNotFinite",
        "PathNotRecovered",
        "ProblemError",
        "SolverNotConverged",
        "Stopped",
        "TrainingDiverged",
    ],
    "hypergradients": [
        "METHODS",
        "Forward",
        "Implicit",
        "Method",
        "OneStep",
        "Replay",
        "Reversible",
        "Shortcut",
        "Stored",
    ],
    "hyperparameters": [
        "L1",
        "L2",
        "CustomTensor",
        "InitScale",
        "LearningRate",
        "LossWeight",
        "Momentum",
        "SampleWeight",
        "TrainingData",
    ],
    "meta": ["MetaConfig", "MetaState", "initial_state", "meta_update"],
    "problem": ["Batch", "Hyperparameter", "Problem", "error_rate"],
    "shards": ["Shards"],
    "training": ["TrainingConfig"],
    "tuning": ["Evaluation", "Tuner", "TuningResult", "tune"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for: importing the package loads no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
