"""The inner problem: how the model is trained under given hyperparameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from drmad_client.spec import defaults
from drmad_client.spec.base import Misfit, Spec
from drmad_client.spec.optimizers import OPTIMIZERS, OptimizerName

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
    precision: Literal["float32", "bfloat16"] = Field(
        default=defaults.Training.precision,
        description="bfloat16 computes the losses under autocast; weights and hypergradients stay "
        "in float32.",
    )
    resample: bool = Field(
        default=defaults.Training.resample,
        description="Whether every meta-iteration draws new initial weights and minibatches; "
        "false repeats those of the first.",
    )

    def misfits(self) -> Iterator[Misfit]:
        """Settings that only other optimizers read."""
        for name in OPTIMIZERS[self.optimizer].unread:
            default, value = type(self).model_fields[name].default, getattr(self, name)
            if value != default:
                message = (
                    f"has no effect with {self.optimizer}, got {value}: leave it out, or set "
                    "another optimizer"
                )
                yield ("training", name), value, message
