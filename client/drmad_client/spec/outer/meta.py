"""The outer problem: the updates of the hyperparameters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from drmad_client.spec import bounds, defaults
from drmad_client.spec.base import Spec


class MetaSpec(Spec):
    """The outer problem: the updates of the hyperparameters."""

    mode: Literal["restart", "online"] = Field(
        default="restart",
        description="restart trains anew in every meta-iteration; online moves the hyperparameters "
        "after every window of one training run, and a meta-iteration is a window.",
    )
    window: Annotated[int, bounds.Online.window] = Field(
        default=defaults.Online.window,
        description="Inner steps of a window in mode online; training.steps is a multiple of it.",
    )
    checkpoint_every: Annotated[int, bounds.CHECKPOINT_EVERY] = Field(
        default=defaults.Online.checkpoint_every,
        description="Windows between two checkpoints of the training state in mode online; a job "
        "that is resumed trains again from the last one.",
    )
    validation_batch: Annotated[int, bounds.Online.validation_batch] | None = Field(
        default=defaults.Online.validation_batch,
        description="Validation rows whose loss a window differentiates in mode online, other ones "
        "in every window; null takes all.",
    )
    optimizer: Literal["adam", "auto", "sgd", "rmsprop", "sign"] = Field(
        default=defaults.Meta.optimizer,
        description="Outer optimizer; sign moves each hyperparameter by ± the learning rate, auto "
        "is adam with a step size that retraining chooses.",
    )
    learning_rate: Annotated[float, bounds.Meta.learning_rate] = Field(
        default=defaults.Meta.learning_rate,
        description="Outer step size, in raw units; that of the first step with optimizer: auto.",
    )
    iterations: Annotated[int, bounds.Meta.iterations] = Field(
        default=defaults.Meta.iterations,
        description="Number of meta-iterations to commit. In mode online they are windows: by "
        "default those of one training run, and further ones train a second time from the "
        "hyperparameters of the first.",
    )
    rollback_tolerance: Annotated[float, bounds.Meta.rollback_tolerance] | None = Field(
        default=defaults.Meta.rollback_tolerance,
        description="Number of standard errors above the best validation loss beyond which a "
        "meta-iteration is rolled back, if the loss also exceeds the best by a tenth; null accepts "
        "every finite loss.",
    )
    max_rollbacks: Annotated[int, bounds.Meta.max_rollbacks] = Field(
        default=defaults.Meta.max_rollbacks,
        description="Maximum number of rollbacks in a row, each to half the outer step, before "
        "the job fails.",
    )
    patience: Annotated[int, bounds.Meta.patience] | None = Field(
        default=None,
        description="Number of meta-iterations without a better validation loss after which the "
        "job stops; null never stops early.",
    )
    confirmation: Annotated[float, bounds.Meta.confirmation] = Field(
        default=defaults.Meta.confirmation,
        description="Share of the job's training runs that may retrain at its end to choose and "
        "confirm the best meta-iteration with fresh draws; 0 confirms nothing.",
    )
    judging_share: Annotated[float, bounds.Meta.judging_share] = Field(
        default=defaults.Meta.judging_share,
        description="Share of the validation examples that no hypergradient sees: validation_loss, "
        "the best, patience and rollback go by them, and fitted_loss is that of the others; 0 "
        "differentiates all.",
    )
    regularization: Annotated[float, bounds.Meta.regularization] = Field(
        default=defaults.Meta.regularization,
        description="Pull of the hyperparameters towards their start: half of this times the mean "
        "squared distance of each tensor, in raw units, joins the loss that is differentiated.",
    )
