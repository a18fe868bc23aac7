"""The outer problem: the updates of the hyperparameters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from drmad_client.spec import defaults
from drmad_client.spec.base import Spec


class MetaSpec(Spec):
    """The outer problem: the updates of the hyperparameters."""

    optimizer: Literal["adam", "sgd", "rmsprop", "sign"] = Field(
        default=defaults.Meta.optimizer,
        description="Outer optimizer; sign moves each hyperparameter by ± the learning rate.",
    )
    learning_rate: float = Field(
        default=defaults.Meta.learning_rate,
        gt=0.0,
        le=1000.0,
        description="Outer step size, in raw units.",
    )
    iterations: int = Field(
        default=defaults.Meta.iterations,
        ge=1,
        le=100_000,
        description="Number of meta-iterations to commit.",
    )
    rollback_tolerance: float | None = Field(
        default=defaults.Meta.rollback_tolerance,
        gt=0.0,
        description="Number of standard errors above the best validation loss beyond which a "
        "meta-iteration is rolled back, if the loss also exceeds the best by a tenth; null accepts "
        "every finite loss.",
    )
    max_rollbacks: int = Field(
        default=defaults.Meta.max_rollbacks,
        ge=0,
        le=100,
        description="Maximum number of rollbacks in a row, each to half the outer step, before "
        "the job fails.",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Number of meta-iterations without a better validation loss after which the "
        "job stops; null never stops early.",
    )
