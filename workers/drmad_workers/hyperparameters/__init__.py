"""The kinds of hyperparameters, and how each enters the training."""

from drmad_workers.hyperparameters.kinds import (
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

__all__ = [
    "L1",
    "L2",
    "CustomTensor",
    "InitScale",
    "LearningRate",
    "LossWeight",
    "Momentum",
    "SampleWeight",
    "TrainingData",
]
