"""The kinds of hyperparameters: one class each, with all properties that the client needs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from drmad_client.spec import bounds, defaults
from drmad_client.spec.base import Spec
from drmad_client.spec.data.sizes import ProblemSizes
from drmad_client.spec.inner.optimizers import OPTIMIZERS

_NAME = r"^[a-z][a-z0-9_]{0,63}$"


class Hyperparameter(Spec):
    """Base of the kinds: the properties that validation, engine, form and figures read.

    Attributes:
        engine: module and class below `drmad_workers.hyperparameters`.
        is_rate: whether it tunes a coefficient of the inner optimizer's update.
        is_schedule: whether figures plot its values over the inner steps.
        is_penalty: whether it penalises the weights, with one entry for each group of them.
        scales_start: whether it acts on the initial weights.
        from_code: whether the user's own problem must state it.
    """

    engine: ClassVar[str]
    is_rate: ClassVar[bool] = False
    is_schedule: ClassVar[bool] = False
    is_penalty: ClassVar[bool] = False
    scales_start: ClassVar[bool] = False
    from_code: ClassVar[bool] = False

    @property
    def per_step(self) -> bool:
        """Whether every inner step has an entry of its own."""
        return False

    @property
    def per_example(self) -> bool:
        """Whether it has a row for each training example."""
        return False

    @property
    def data_column(self) -> str | None:
        """The column of the data by which it forms groups of examples; None without groups."""
        return None

    @property
    def takes_training_groups(self) -> bool:
        """Whether its entries are those of training.groups."""
        return False

    @property
    def per_parameter(self) -> bool:
        """Whether its entries depend on which parameters are trained, and on their groups."""
        return False

    def entries(self, sizes: ProblemSizes) -> int | None:
        """The number of entries; None where only a worker knows it."""
        return None

    def replaces(self, optimizer: str) -> str | None:
        """The field of `training` that has no effect beside its values; of a pair, the first."""
        return None

    def initial_misfit(self) -> str | None:
        """The message about an `init` outside the bounds; None if it lies inside."""
        return None


class _Bounded(Hyperparameter):
    name: str | None = Field(
        default=None,
        pattern=_NAME,
        description="Name in histories and results; null takes the kind's name.",
    )
    lower: float | None = Field(
        default=None, description="Lower bound of the raw values; null sets none."
    )
    upper: float | None = Field(
        default=None, description="Upper bound of the raw values; null sets none."
    )

    def initial_misfit(self) -> str | None:
        low = -float("inf") if self.lower is None else self.lower
        high = float("inf") if self.upper is None else self.upper
        init = getattr(self, "init", None)
        if isinstance(init, float) and not low <= init <= high:
            return f"must lie between lower and upper, [{low}, {high}], got {init}"
        return None


class _Penalty(_Bounded):
    is_penalty: ClassVar[bool] = True

    per: Literal["weight", "unit", "layer", "model"] = Field(
        default=defaults.Kinds.penalty_per,
        description="Group of weights with a common penalty: a single weight, the weights that "
        "leave an input unit, a layer, or the model.",
    )
    init: float = Field(
        default=defaults.Kinds.log_penalty,
        ge=-50.0,
        le=20.0,
        description="Initial log penalty (natural logarithm).",
    )

    def entries(self, sizes: ProblemSizes) -> int | None:
        if self.per == "model":
            return 1
        if sizes.matrices is None:
            return None
        counts = {
            "weight": sum(before * after for before, after in sizes.matrices),
            "unit": sum(before for before, _ in sizes.matrices),
            "layer": len(sizes.matrices),
        }
        return counts[self.per]


class L2Hyperparameter(_Penalty):
    """Penalties Σ exp(λ_u) w² on the weights; biases are not penalised."""

    engine: ClassVar[str] = "penalty:L2"

    kind: Literal["l2"] = "l2"


class L1Hyperparameter(_Penalty):
    """Penalties Σ exp(λ_u) |w| on the weights; biases are not penalised."""

    engine: ClassVar[str] = "penalty:L1"

    kind: Literal["l1"] = "l1"


class _GroupedRate(_Bounded):
    is_rate: ClassVar[bool] = True

    per: str
    groups: tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...] = Field(
        default=(),
        max_length=256,
        description="Patterns over parameter names with per: group, such as *.bias|*norm*; the "
        "first match counts, and a parameter without a match keeps the value of training. Empty "
        "takes training.groups, and one group more of the parameters in none of them.",
    )

    @property
    def takes_training_groups(self) -> bool:
        return self.per == "group" and not self.groups

    @property
    def per_parameter(self) -> bool:
        return self.per in ("layer", "step_and_layer") or self.takes_training_groups

    @property
    def per_step(self) -> bool:
        return "step" in self.per

    @model_validator(mode="after")
    def _patterns_have_a_use(self) -> Self:
        if self.groups and self.per != "group":
            raise PydanticCustomError(
                "patterns_without_use",
                "groups are those of per: group, got per: {per}: leave them out",
                {"per": self.per},
            )
        return self

    def entries(self, sizes: ProblemSizes) -> int | None:
        if self.takes_training_groups:
            return None
        rows = sizes.tensors if "layer" in self.per else len(self.groups) or 1
        return None if rows is None else rows * (sizes.steps if self.per_step else 1)


class _Rate(_GroupedRate):
    is_schedule: ClassVar[bool] = True

    per: Literal["model", "group", "layer", "step", "step_and_layer"] = Field(
        default=defaults.Kinds.rate_per,
        description="Unit with a value of its own: the model, each group of parameter tensors, "
        "each parameter tensor (a matrix and its bias are two), each inner step, or each step of "
        "each parameter tensor. Per model or step, a parameter whose group in training.groups "
        "states the rate keeps it.",
    )


class LearningRateHyperparameter(_Rate):
    """The learning rate exp(λ) of the inner optimizer."""

    engine: ClassVar[str] = "learning_rate:LearningRate"

    kind: Literal["learning_rate"] = "learning_rate"
    init: float | None = Field(
        default=None,
        ge=-50.0,
        le=7.0,
        description="Initial log learning rate (natural logarithm); null takes that of training.",
    )

    def replaces(self, optimizer: str) -> str | None:
        return None if self.groups else "learning_rate"


class MomentumHyperparameter(_Rate):
    """The momentum σ(λ) of the inner optimizer; for Adam its first beta."""

    engine: ClassVar[str] = "momentum:Momentum"

    kind: Literal["momentum"] = "momentum"
    init: float | None = Field(
        default=None,
        ge=-50.0,
        le=50.0,
        description="Initial logit; null takes the momentum of training, but at least 0.01.",
    )

    def replaces(self, optimizer: str) -> str | None:
        return None if self.groups else OPTIMIZERS[optimizer].first_decay


class WeightDecayHyperparameter(_GroupedRate):
    """The weight decay exp(λ): coupled with the gradient in SGD and Adam, decoupled in AdamW."""

    engine: ClassVar[str] = "weight_decay:WeightDecay"

    kind: Literal["weight_decay"] = "weight_decay"
    per: Literal["model", "layer", "group"] = Field(
        default=defaults.Kinds.weight_decay_per,
        description="Unit with a value of its own: the model, each parameter tensor, or each "
        "group of parameter tensors. Per model, a parameter whose group in training.groups states "
        "a weight decay keeps it.",
    )
    init: float | None = Field(
        default=None,
        ge=-50.0,
        le=5.0,
        description="Initial log weight decay (natural logarithm); null takes that of training, "
        "but at least 1e-4.",
    )

    def replaces(self, optimizer: str) -> str | None:
        return None if self.groups else "weight_decay"


class InitScaleHyperparameter(_Bounded):
    """A factor exp(λ) on the initial weights of each parameter tensor."""

    engine: ClassVar[str] = "init_scale:InitScale"
    scales_start: ClassVar[bool] = True

    kind: Literal["init_scale"] = "init_scale"
    init: float = Field(
        default=defaults.Kinds.log_init_scale,
        ge=-20.0,
        le=20.0,
        description="Initial log factor (natural logarithm); 0 is a factor of one.",
    )

    def entries(self, sizes: ProblemSizes) -> int | None:
        return sizes.tensors


class TrainingDataHyperparameter(_Bounded):
    """The inputs of the training examples; their targets do not change."""

    engine: ClassVar[str] = "training_data:TrainingData"

    kind: Literal["training_data"] = "training_data"
    init: Literal["data", "noise"] = Field(
        default=defaults.Kinds.training_data,
        description="Initial values: the training inputs, or normal noise with their mean and "
        "standard deviation.",
    )

    @property
    def per_example(self) -> bool:
        return True

    def entries(self, sizes: ProblemSizes) -> int | None:
        if sizes.train is None or sizes.inputs is None:
            return None
        return sizes.train * sizes.inputs


class LossWeightHyperparameter(_Bounded):
    """A weight exp(λ) for each class, or for each term of your own code's training loss."""

    engine: ClassVar[str] = "loss_weight:LossWeight"

    kind: Literal["loss_weight"] = "loss_weight"
    terms: Annotated[int, bounds.LOSS_TERMS] | None = Field(
        default=None,
        description="Number of terms of your own code's inner_loss, which takes the weights; null "
        "gives each class a weight.",
    )
    init: float = Field(
        default=defaults.Kinds.log_loss_weight,
        ge=-50.0,
        le=50.0,
        description="Initial log weight (natural logarithm); 0 is a weight of one.",
    )

    def entries(self, sizes: ProblemSizes) -> int | None:
        return sizes.classes if self.terms is None else self.terms


class SampleWeightHyperparameter(_Bounded):
    """Weights σ(λ) in (0, 1) of the training examples: per example, class, source or other group.

    The weights of several such hyperparameters multiply.
    """

    engine: ClassVar[str] = "sample_weight:SampleWeight"

    kind: Literal["sample_weight"] = "sample_weight"
    per: Literal["example", "class", "source", "group"] = Field(
        default=defaults.Kinds.sample_weight_per,
        description="Unit with a weight of its own: each training example, each class, or each "
        "source or other group that a column of the data names.",
    )
    column: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None,
        description="Column of the data with the source or group of every training row; null "
        "takes the column source with per: source.",
    )
    normalised: bool = Field(
        default=False,
        description="Whether the loss is divided by the sum of the weights in the minibatch, "
        "Σ w ℓ / Σ w, so that the weights are those of a mixture; otherwise it is divided by the "
        "number of examples.",
    )
    init: float = Field(
        default=defaults.Kinds.sample_weight_logit,
        ge=-50.0,
        le=50.0,
        description="Initial logit; 0 is a weight of one half.",
    )
    pull_to: Literal["start", "class"] = Field(
        default=defaults.Kinds.sample_weight_pull_to,
        description="What meta.regularization pulls the weights of examples towards: where they "
        "started, or the mean of the present weights of their class.",
    )

    @model_validator(mode="after")
    def _groups_have_a_column(self) -> Self:
        if (self.per in ("example", "class") and self.column is not None) or (
            self.per == "group" and self.column is None
        ):
            raise PydanticCustomError(
                "group_without_column",
                "column must be given with per: group, may be given with per: source, and must be "
                "left out otherwise, got per: {per}",
                {"per": self.per},
            )
        return self

    @model_validator(mode="after")
    def _only_examples_are_pulled_to_their_class(self) -> Self:
        if self.pull_to == "class" and self.per != "example":
            raise PydanticCustomError(
                "pull_to_class",
                "pull_to: class belongs to the weights of examples, got per: {per}: leave it out, "
                "or take per: example",
                {"per": self.per},
            )
        return self

    @property
    def per_example(self) -> bool:
        return self.per == "example"

    @property
    def data_column(self) -> str | None:
        return "source" if self.per == "source" and self.column is None else self.column

    def entries(self, sizes: ProblemSizes) -> int | None:
        return {"example": sizes.train, "class": sizes.classes}.get(self.per)


class TensorHyperparameter(Hyperparameter):
    """A tensor of your own problem; your code states its initial values and its bounds."""

    engine: ClassVar[str] = "custom_tensor:CustomTensor"
    from_code: ClassVar[bool] = True

    kind: Literal["tensor"] = "tensor"
    name: str = Field(
        pattern=_NAME, description="Name of the tensor in the problem's `hyperparameters`."
    )


HyperparameterSpec = Annotated[
    L2Hyperparameter
    | L1Hyperparameter
    | LearningRateHyperparameter
    | MomentumHyperparameter
    | WeightDecayHyperparameter
    | InitScaleHyperparameter
    | SampleWeightHyperparameter
    | TrainingDataHyperparameter
    | LossWeightHyperparameter
    | TensorHyperparameter,
    Field(discriminator="kind"),
]
