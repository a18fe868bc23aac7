"""The kinds of hyperparameters, one a file, and how each enters the training."""

from drmad_workers.hyperparameters.custom_tensor import CustomTensor
from drmad_workers.hyperparameters.init_scale import InitScale
from drmad_workers.hyperparameters.learning_rate import LearningRate
from drmad_workers.hyperparameters.loss_weight import LossWeight
from drmad_workers.hyperparameters.momentum import Momentum
from drmad_workers.hyperparameters.penalty import L1, L2
from drmad_workers.hyperparameters.sample_weight import SampleWeight
from drmad_workers.hyperparameters.training_data import TrainingData

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
