"""The inner problem: the training of the model under given hyperparameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from drmad_client.spec import bounds, defaults, refusals
from drmad_client.spec.base import Misfit, Spec, misfit_error
from drmad_client.spec.inner.optimizers import OPTIMIZERS, OptimizerName
from drmad_client.spec.inner.schedules import ConstantScheduleSpec, LearningRateSchedule

OPTIMIZER_FIELDS = (
    "learning_rate",
    "momentum",
    "nesterov",
    "betas",
    "eps",
    "smoothing",
    "weight_decay",
)
"""The fields that may stand in a mapping `optimizer`."""

_Beta = Annotated[float, bounds.BETA]


class ParameterGroupSpec(Spec):
    """Parameters that train at rates of their own, or not at all."""

    match: str = Field(
        min_length=1,
        max_length=1024,
        description="Patterns over the names of named_parameters(), separated by |, such as "
        "*.bias|*norm*; a parameter belongs to the first group that matches.",
    )
    learning_rate: Annotated[float, bounds.Training.learning_rate] | None = Field(
        default=None, description="Learning rate; null takes that of training."
    )
    momentum: Annotated[float, bounds.Training.momentum] | None = Field(
        default=None,
        description="Momentum, where the optimizer reads that of training; null takes it.",
    )
    weight_decay: Annotated[float, bounds.Training.weight_decay] | None = Field(
        default=None, description="Weight decay; null takes that of training."
    )
    frozen: bool = Field(
        default=False, description="Whether the parameters keep their initial values."
    )


class TrainingSpec(Spec):
    """The inner problem: the training of the model under given hyperparameters."""

    optimizer: OptimizerName = Field(
        default=defaults.Training.optimizer,
        description="Inner optimizer. sgd, adam, adamw and rmsprop are those of torch; sgd: "
        "v' = γ v - g, w' = w + η v'. damped_sgd is that of the papers: v' = γ v - (1 - γ) g, "
        "w' = w + α v'. For constant γ and η = α (1 - γ), sgd and damped_sgd have the same "
        "trajectory. lion is that of its paper. muon is that of torch for matrices, and adamw "
        "for other parameters. custom is the optimizer of your own Problem.",
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
        description="Momentum γ of sgd, damped_sgd, rmsprop and muon; a custom optimizer may read "
        "it.",
    )
    nesterov: bool = Field(
        default=defaults.Training.nesterov,
        description="Whether sgd or muon takes Nesterov's momentum, as in torch; sgd: "
        "w' = w + η (γ v' - g).",
    )
    betas: tuple[_Beta, _Beta] = Field(
        default=defaults.Training.betas,
        description="Decay rates β₁ and β₂ of adam, adamw and lion, and of the adamw within muon.",
    )
    eps: Annotated[float, bounds.Training.eps] = Field(
        default=defaults.Training.eps, description="Constant ε of adam, adamw, rmsprop and muon."
    )
    smoothing: Annotated[float, bounds.Training.smoothing] = Field(
        default=defaults.Training.smoothing,
        description="Decay rate of the squared gradients of rmsprop, alpha in torch.",
    )
    weight_decay: Annotated[float, bounds.Training.weight_decay] = Field(
        default=defaults.Training.weight_decay,
        description="Weight decay ω as in torch: g + ω w takes the place of g; adamw, lion "
        "and muon shrink w by 1 - η ω instead.",
    )
    accumulate: Annotated[int, bounds.Training.accumulate] = Field(
        default=defaults.Training.accumulate,
        description="Number of minibatches whose mean gradient a step takes, with the memory of "
        "one.",
    )
    clip_norm: Annotated[float, bounds.Training.clip_norm] | None = Field(
        default=None,
        description="Largest norm of the gradient of all parameters together, as "
        "clip_grad_norm_; null sets none.",
    )
    clip_value: Annotated[float, bounds.Training.clip_value] | None = Field(
        default=None,
        description="Largest magnitude of an entry of the gradient, as clip_grad_value_; null "
        "sets none.",
    )
    groups: tuple[ParameterGroupSpec, ...] = Field(
        default=(),
        max_length=256,
        description="Groups of parameters with rates of their own, or frozen.",
    )
    precision: Literal["float32", "tf32", "bfloat16", "float64"] = Field(
        default=defaults.Training.precision,
        description="Type of all numbers. bfloat16 computes the losses under autocast; tf32 rounds "
        "the factors of products to ten fractional bits on a GPU, and is float32 on a CPU; weights "
        "and hypergradients stay in float32.",
    )
    deterministic: bool = Field(
        default=defaults.Training.deterministic,
        description="Whether a GPU takes only operations that have the same bits again. false is "
        "faster for some models, and results differ in their last bits from run to run.",
    )
    evaluation_rows: Annotated[int, bounds.Training.evaluation_rows] | None = Field(
        default=None,
        description="Number of held-out examples in one pass of the model. null chooses it by the "
        "memory of an example, at least batch_size, and halves it when memory runs out.",
    )
    data_workers: Annotated[int, bounds.Training.data_workers] = Field(
        default=defaults.Training.data_workers,
        description="Number of processes of each replica that read data ahead, for each map-style "
        "data set that is not kept in memory. 0 reads in the process that trains. It does not "
        "change what is read.",
    )
    resample: bool = Field(
        default=defaults.Training.resample,
        description="Whether every meta-iteration draws new minibatches, and new initial weights "
        "unless the problem gives them; false repeats those of the first.",
    )

    @model_validator(mode="before")
    @classmethod
    def _optimizer_is_flat(cls, fields: Any) -> Any:
        """Takes `optimizer: {name: adamw, betas: [0.9, 0.95]}` as well as the fields beside it."""
        return flattened(fields) if isinstance(fields, Mapping) else fields

    def rate(self, field: str) -> float:
        """A number of the training; of a pair the first."""
        return _first(getattr(self, field))

    def sets(self, field: str) -> bool:
        """Whether a number, of a pair the first, is not at its default."""
        return self.rate(field) != _first(type(self).model_fields[field].default)

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

        for number, group in enumerate(self.groups):
            unread = OPTIMIZERS[self.optimizer].unread
            for _, message in refusals.group_refusals(number, dict(group), unread):
                yield ("training", "groups"), self.groups, f"group {number}: {message}"

    def contradictions(self) -> Iterator[Misfit]:
        """Settings that do not fit together under any optimizer."""
        for _, message in refusals.nesterov_refusals(self.optimizer, self.nesterov, self.momentum):
            yield ("training", "nesterov"), self.nesterov, message
        for _, message in refusals.clip_refusals(self.clip_norm, self.clip_value):
            yield ("training", "clip_value"), self.clip_value, message
        for field, message in refusals.schedule_refusals(dict(self.schedule), self.steps):
            name = field.rpartition(".")[2]
            yield ("training", "schedule", name), getattr(self.schedule, name), message

    def over(self, steps: int) -> Self:
        """The same training in another number of steps, with the schedule in the same shape."""
        schedule = self.schedule.over(self.steps, steps)
        return self.model_copy(update={"steps": steps, "schedule": schedule})


def flattened(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a training with those of a mapping `optimizer` beside its name.

    Raises:
        ValidationError: the mapping has no name, a field that is no optimizer's, or one that is
            given beside it too; at the path of each, below the training.
    """
    stated = fields.get("optimizer")
    if not isinstance(stated, Mapping):
        return dict(fields)
    options = {name: value for name, value in stated.items() if name != "name"}
    misfits: list[Misfit] = []
    if "name" not in stated:
        misfits.append((("optimizer", "name"), None, "is required in a mapping"))
    for name, value in options.items():
        if name not in OPTIMIZER_FIELDS:
            message = f"is not a field of an optimizer; it may be {', '.join(OPTIMIZER_FIELDS)}"
            misfits.append((("optimizer", str(name)), value, message))
        elif name in fields:
            message = f"stands beside training.{name}: leave one of the two out"
            misfits.append((("optimizer", name), value, message))
    if misfits:
        lines = [misfit_error(*misfit) for misfit in misfits]
        raise ValidationError.from_exception_data("TrainingSpec", lines)
    return {**fields, **options, "optimizer": stated["name"]}


def _first(value: float | tuple[float, float]) -> float:
    return value[0] if isinstance(value, tuple) else value
