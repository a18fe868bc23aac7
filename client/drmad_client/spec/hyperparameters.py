"""What is tuned: the kinds of hyperparameters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from drmad_client.spec.base import Spec


class _Hyperparameter(Spec):
    name: str | None = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9_]{0,63}$",
        description="Name in histories and results; null takes the kind's name.",
    )
    lower: float | None = Field(default=None, description="Lower bound of the raw value.")
    upper: float | None = Field(default=None, description="Upper bound of the raw value.")


class _Penalty(_Hyperparameter):
    per: Literal["weight", "unit", "layer", "model"] = Field(
        default="unit",
        description="What shares one penalty: a weight, the weights out of an input unit, a layer "
        "or the model.",
    )
    init: float = Field(
        default=-9.0, ge=-50.0, le=20.0, description="Initial log penalty (natural logarithm)."
    )


class L2Hyperparameter(_Penalty):
    """Penalties Σ exp(λ_u) w² on the weights; biases are not penalised."""

    kind: Literal["l2"] = "l2"


class L1Hyperparameter(_Penalty):
    """Penalties Σ exp(λ_u) |w| on the weights; biases are not penalised."""

    kind: Literal["l1"] = "l1"


class _Rate(_Hyperparameter):
    per: Literal["model", "layer", "step", "step_and_layer"] = Field(
        default="step",
        description="One for the whole training, per parameter tensor (a matrix and its bias are "
        "two), per inner step, or per step of each parameter tensor.",
    )


class LearningRateHyperparameter(_Rate):
    """The learning rate exp(λ) of the inner optimizer."""

    kind: Literal["learning_rate"] = "learning_rate"
    init: float | None = Field(
        default=None,
        ge=-50.0,
        le=7.0,
        description="Initial log learning rate (natural logarithm); null takes training's.",
    )


class MomentumHyperparameter(_Rate):
    """The momentum σ(λ) of the inner optimizer; of Adam its first beta."""

    kind: Literal["momentum"] = "momentum"
    init: float | None = Field(
        default=None,
        ge=-50.0,
        le=50.0,
        description="Initial logit; null takes training's own, but at least a momentum of 0.01.",
    )


class InitScaleHyperparameter(_Hyperparameter):
    """A factor exp(λ) on the initial weights of each parameter tensor."""

    kind: Literal["init_scale"] = "init_scale"
    init: float = Field(
        default=0.0, ge=-20.0, le=20.0, description="Initial log factor; 0 is a factor of one."
    )


class TrainingDataHyperparameter(_Hyperparameter):
    """The inputs of the training examples themselves; their targets stay."""

    kind: Literal["training_data"] = "training_data"
    init: Literal["data", "noise"] = Field(
        default="data",
        description="Start from the training inputs, or from normal noise with their mean and "
        "standard deviation.",
    )


class LossWeightHyperparameter(_Hyperparameter):
    """A weight exp(λ) for each class, or for each term of the training loss of one's own code."""

    kind: Literal["loss_weight"] = "loss_weight"
    terms: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Terms of the inner_loss of one's own code, which is handed the weights; null "
        "is one weight per class.",
    )
    init: float = Field(
        default=0.0, ge=-50.0, le=50.0, description="Initial log weight; 0 is a weight of one."
    )


class SampleWeightHyperparameter(_Hyperparameter):
    """A weight σ(λ_i) in (0, 1) for each training example."""

    kind: Literal["sample_weight"] = "sample_weight"
    init: float = Field(
        default=0.0, ge=-50.0, le=50.0, description="Initial logit; 0 is a weight of one half."
    )


class TensorHyperparameter(Spec):
    """A tensor that the user's own problem states; its start and bounds stand in the code."""

    kind: Literal["tensor"] = "tensor"
    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,63}$", description="As in the problem's `hyperparameters`."
    )


HyperparameterSpec = Annotated[
    L2Hyperparameter
    | L1Hyperparameter
    | LearningRateHyperparameter
    | MomentumHyperparameter
    | InitScaleHyperparameter
    | SampleWeightHyperparameter
    | TrainingDataHyperparameter
    | LossWeightHyperparameter
    | TensorHyperparameter,
    Field(discriminator="kind"),
]
