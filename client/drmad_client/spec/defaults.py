"""Defaults that the spec of a job and the settings of the engine share. Needs no pydantic."""

from __future__ import annotations

from typing import Any, Final

MLP: dict[str, Any] = {"hidden": [50], "activation": "tanh"}
CNN: dict[str, Any] = {"channels": [8, 16], "activation": "relu", "batch_norm": False}
TABULAR: dict[str, Any] = {
    "hidden": [50],
    "activation": "relu",
    "embedding_dim": None,
    "dropout": 0.0,
}
TABLE_SPLIT = {"train": 0.6, "valid": 0.2, "test": 0.2}
"""The shares of the rows of a table."""


class Training:
    """Defaults of the inner problem."""

    optimizer: Final = "sgd"
    steps: Final = 1000
    batch_size: Final = 100
    learning_rate: Final = 0.05
    momentum: Final = 0.9
    nesterov: Final = False
    betas: Final = (0.9, 0.999)
    eps: Final = 1e-8
    smoothing: Final = 0.99
    weight_decay: Final = 0.0
    precision: Final = "float32"
    deterministic: Final = True
    resample: Final = True
    accumulate: Final = 1
    data_workers: Final = 0


class Schedule:
    """Defaults of the schedules of the learning rate."""

    warmup: Final = 0.0
    final: Final = 0.0
    factor: Final = 0.1
    one_cycle_warmup: Final = 0.3
    one_cycle_start: Final = 1 / 25
    one_cycle_final: Final = 1 / 25e4


class Meta:
    """Defaults of the outer problem."""

    optimizer: Final = "adam"
    learning_rate: Final = 0.3
    iterations: Final = 30
    rollback_tolerance: Final = 5.0
    max_rollbacks: Final = 5
    confirmation: Final = 0.1
    judging_share: Final = 0.0
    regularization: Final = 0.0


class Online:
    """Defaults of an outer problem whose meta-iterations are windows of one training run."""

    window: Final = 10
    checkpoint_every: Final = 10
    checkpoint_bytes: Final = 16 << 30
    validation_batch: Final = None


class Method:
    """Defaults of the options that all methods share, and of `auto`."""

    hvp: Final = "exact"
    min_cosine: Final = 0.8


class Shortcut:
    """Defaults of `shortcut`."""

    budget: Final = 16
    max_stride: Final = 10
    max_adjoint_change: Final = 0.12
    contraction: Final = False
    curvature: Final = "hessian"


class Implicit:
    """Defaults of `implicit`."""

    solver: Final = "conjugate_gradient"
    iterations: Final = 100
    tolerance: Final = 0.01
    damping: Final = 0.0


class Kinds:
    """Defaults of the kinds of hyperparameters, in raw units."""

    penalty_per: Final = "unit"
    log_penalty: Final = -9.0
    rate_per: Final = "step"
    weight_decay_per: Final = "model"
    log_init_scale: Final = 0.0
    training_data: Final = "data"
    log_loss_weight: Final = 0.0
    sample_weight_per: Final = "example"
    sample_weight_pull_to: Final = "start"
    sample_weight_logit: Final = 0.0


class Fidelity:
    """Below which figures a hypergradient is doubtful."""

    cosine: Final = 0.5
    agreement: Final = 0.3


class Validation:
    """Defaults of the validation of a hypergradient by retraining."""

    changes: Final = 30
    draws: Final = 4
    fractions: Final = (0.01, 0.05, 0.1)
    radii: Final = (0.1, 1.0)


class Attribution:
    """Defaults of the attribution of queries to training examples."""

    queries: Final = ("valid",)
    lds: Final = 0
    left_out: Final = 0.1


class Retraining:
    """Defaults of training from scratch with tuned hyperparameters."""

    seeds: Final = 5
