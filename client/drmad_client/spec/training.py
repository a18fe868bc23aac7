"""The inner problem: the training of the model under given hyperparameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field

from drmad_client.spec import bounds, defaults, refusals
from drmad_client.spec.base import Misfit, Spec
from drmad_client.spec.optimizers import OPTIMIZERS, OptimizerName
from drmad_client.spec.schedules import ConstantScheduleSpec, LearningRateSchedule

_Beta = Annotated[float, bounds.BETA]


class TrainingSpec(Spec):
    """The inner problem: the training of the model under given hyperparameters."""

    optimizer: OptimizerName = Field(
        default=defaults.Training.optimizer,
        description="Inner optimizer. sgd, adam and adamw are those of torch; sgd: v' = γ v - g, "
        "w' = w + η v'. damped_sgd is that of the papers: v' = γ v - (1 - γ) g, w' = w + α v'. For "
        "constant γ and η = α (1 - γ), sgd and damped_sgd have the same trajectory.",
    )
    steps: Annotated[int, bounds.Training.steps] = Field(
        default=defaults.Training.steps, description="Number of inner steps T."
    )
    batch_size: Annotated[int, bounds.Training.batch_size] = Field(
        default=defaults.Training.batch_size,
        description="Number of training examples in a minibatch.",
    )
    learning_rate: Annotated[float, bounds.Training.learning_rate] = Field(
        default=defaults.Training.learning_rate,
        description="Learning rate: α of damped_sgd, η of the others.",
    )
    schedule: LearningRateSchedule = Field(
        default=ConstantScheduleSpec(),
        description="Factor of the learning rate in each step; it multiplies a tuned rate too.",
    )
    momentum: Annotated[float, bounds.Training.momentum] = Field(
        default=defaults.Training.momentum,
        description="Momentum γ of sgd and damped_sgd.",
    )
    betas: tuple[_Beta, _Beta] = Field(
        default=defaults.Training.betas, description="Decay rates β₁ and β₂ of adam and adamw."
    )
    eps: Annotated[float, bounds.Training.eps] = Field(
        default=defaults.Training.eps, description="Constant ε of adam and adamw."
    )
    weight_decay: Annotated[float, bounds.Training.weight_decay] = Field(
        default=defaults.Training.weight_decay,
        description="Weight decay ω as in torch: g + ω w takes the place of g; adamw shrinks w by "
        "1 - η ω instead.",
    )
    precision: Literal["float32", "float64", "bfloat16"] = Field(
        default=defaults.Training.precision,
        description="Type of all numbers. bfloat16 computes the losses under autocast; weights and "
        "hypergradients stay in float32.",
    )
    evaluation_rows: Annotated[int, bounds.Training.evaluation_rows] | None = Field(
        default=None,
        description="Number of held-out examples in one pass of the model. null chooses it by the "
        "memory of an example, at least batch_size, and halves it when memory runs out.",
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

    def contradictions(self) -> Iterator[Misfit]:
        """Settings that do not fit together under any optimizer."""
        for field, message in refusals.schedule_refusals(dict(self.schedule), self.steps):
            name = field.rpartition(".")[2]
            yield ("training", "schedule", name), getattr(self.schedule, name), message

    def shortened(self, steps: int) -> Self:
        """The same training in fewer steps, with the schedule in the same shape."""
        schedule = self.schedule.shortened(self.steps, steps)
        return self.model_copy(update={"steps": steps, "schedule": schedule})
