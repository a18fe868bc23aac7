"""The inner problem: how the model is trained under given hyperparameters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from drmad_client.spec import defaults
from drmad_client.spec.base import Spec
from drmad_client.spec.optimizers import OptimizerName

_Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class TrainingSpec(Spec):
    """The inner problem: how the model is trained under given hyperparameters."""

    optimizer: OptimizerName = Field(
        default=defaults.Training.optimizer,
        description="sgd: v' = γ v - g, w' = w + η v' (torch's). damped_sgd: v' = γ v - (1 - γ) g, "
        "w' = w + α v' (the papers'). For constant γ both take the same path with η = α (1 - γ). "
        "adam, adamw: torch's.",
    )
    steps: int = Field(
        default=defaults.Training.steps, ge=1, le=1_000_000, description="Number of inner steps T."
    )
    batch_size: int = Field(
        default=defaults.Training.batch_size,
        ge=1,
        le=1_000_000,
        description="Number of examples in a minibatch.",
    )
    learning_rate: float = Field(
        default=defaults.Training.learning_rate,
        gt=0.0,
        le=1000.0,
        description="Learning rate η or α.",
    )
    momentum: float = Field(
        default=defaults.Training.momentum,
        ge=0.0,
        lt=1.0,
        description="Momentum γ of sgd and damped_sgd.",
    )
    betas: tuple[_Beta, _Beta] = Field(
        default=defaults.Training.betas, description="Decay rates β₁ and β₂ of adam and adamw."
    )
    eps: float = Field(
        default=defaults.Training.eps, gt=0.0, le=1.0, description="Constant ε of adam and adamw."
    )
    weight_decay: float = Field(
        default=defaults.Training.weight_decay,
        ge=0.0,
        le=100.0,
        description="Weight decay ω as in torch: g + ω w takes the place of g; adamw shrinks w by "
        "1 - η ω instead.",
    )
    precision: Literal["float32", "float64", "bfloat16"] = Field(
        default=defaults.Training.precision,
        description="Type of all numbers. bfloat16 computes the losses under autocast; weights and "
        "hypergradients stay in float32.",
    )
    evaluation_rows: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Number of held-out examples in one pass of the model. null chooses it by the "
        "memory of an example, at least batch_size, and halves it when memory runs out.",
    )
    resample: bool = Field(
        default=defaults.Training.resample,
        description="Whether every meta-iteration draws new initial weights and minibatches; "
        "false repeats those of the first.",
    )
