"""What a user asks for: JobSpec and its parts, the same in YAML, over REST and in Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from drmad_client.base import Spec as Spec
from drmad_client.methods import AutoMethod as AutoMethod
from drmad_client.methods import ForwardMethod as ForwardMethod
from drmad_client.methods import HypergradientSpec as HypergradientSpec
from drmad_client.methods import ImplicitMethod as ImplicitMethod
from drmad_client.methods import OneStepMethod as OneStepMethod
from drmad_client.methods import ReplayMethod as ReplayMethod
from drmad_client.methods import ReversibleMethod as ReversibleMethod
from drmad_client.methods import ShortcutMethod as ShortcutMethod
from drmad_client.methods import StoredMethod as StoredMethod
from drmad_client.sizes import entries


class MlpModel(Spec):
    """A fully connected network with a linear output layer."""

    name: Literal["mlp"] = "mlp"
    hidden: Annotated[list[Annotated[int, Field(ge=1, le=65_536)]], Field(max_length=32)] = Field(
        default=[50], description="Units of each hidden layer, from the input to the output."
    )
    activation: Literal["tanh", "relu"] = Field(
        default="tanh", description="Nonlinearity after each hidden layer."
    )


class _Data(Spec):
    label_noise: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="Share of the training labels replaced by a class drawn at random, in [0, 1); "
        "with ten classes a tenth of the replaced ones stays right.",
    )
    drop_noisy: bool = Field(
        default=False,
        description="Train on the correctly labelled examples only: the yardstick of a cleaning.",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="Seed of the split and of the replaced labels."
    )


class DigitsData(_Data):
    """1,797 handwritten digits of 8 x 8 pixels (UCI), bundled with scikit-learn."""

    examples: ClassVar[int] = 1797
    classes: ClassVar[int] = 10
    input_shape: ClassVar[tuple[int, ...]] = (64,)

    name: Literal["digits"] = "digits"
    train: int = Field(default=1000, ge=1, description="Training examples.")
    valid: int = Field(default=300, ge=1, description="Validation examples.")
    test: int = Field(default=497, ge=0, description="Test examples.")


class MnistData(_Data):
    """MNIST's handwritten digits, 28 x 28 pixels, from IDX files on the workers or from OpenML."""

    examples: ClassVar[int] = 70_000
    classes: ClassVar[int] = 10
    input_shape: ClassVar[tuple[int, ...]] = (784,)

    name: Literal["mnist"] = "mnist"
    train: int = Field(default=50_000, ge=1, description="Training examples.")
    valid: int = Field(default=10_000, ge=1, description="Validation examples.")
    test: int = Field(default=10_000, ge=0, description="Test examples.")
    folder: str | None = Field(
        default=None,
        max_length=4096,
        description="Folder on the workers that holds the IDX files, below a data root that the "
        "operator allows; null looks in every data root.",
    )


class CatalogProblem(Spec):
    """A built-in model on a built-in data set."""

    kind: ClassVar[Literal["catalog"]] = "catalog"

    model: MlpModel = Field(default=MlpModel(), description="The model to train.")
    data: Annotated[DigitsData | MnistData, Field(discriminator="name")] = Field(
        description="The data set, and how it is split."
    )


class CodeProblem(Spec):
    """The user's own problem: a function of their code that returns a drmad_workers Problem."""

    kind: ClassVar[Literal["code"]] = "code"

    entrypoint: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        max_length=256,
        description="Module and function, as in my_problem:build.",
    )
    options: dict[str, Any] = Field(
        default={}, max_length=256, description="Keyword arguments of the function."
    )
    code: str = Field(
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="The uploaded archive that holds the module: PUT /v1/code/{sha256}.",
    )


def _kind_of_problem(value: Any) -> str:
    has = value if isinstance(value, dict) else vars(value) if isinstance(value, Spec) else {}
    return "code" if {"entrypoint", "code", "options"} & has.keys() else "catalog"


ProblemSpec = Annotated[
    Annotated[CatalogProblem, Tag("catalog")] | Annotated[CodeProblem, Tag("code")],
    Discriminator(_kind_of_problem),
]


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


class TrainingSpec(Spec):
    """The inner problem: how the model is trained under given hyperparameters."""

    optimizer: Literal["sgd", "damped_sgd", "adam", "adamw"] = Field(
        default="sgd",
        description="sgd: v' = γ v - g, w' = w + η v' (torch's). damped_sgd: v' = γ v - (1 - γ) g, "
        "w' = w + α v' (the papers'). For constant γ both take the same path with η = α (1 - γ). "
        "adam, adamw: torch's.",
    )
    steps: int = Field(default=1000, ge=1, le=1_000_000, description="Inner steps T.")
    batch_size: int = Field(default=100, ge=1, le=1_000_000, description="Examples of a minibatch.")
    learning_rate: float = Field(default=0.05, gt=0.0, le=1000.0, description="η or α.")
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0, description="γ of sgd and damped_sgd.")
    betas: tuple[
        Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]
    ] = Field(default=(0.9, 0.999), description="β₁ and β₂ of adam and adamw.")
    eps: float = Field(default=1e-8, gt=0.0, le=1.0, description="ε of adam and adamw.")
    weight_decay: float = Field(
        default=0.0,
        ge=0.0,
        le=100.0,
        description="Of adam and adamw; for the others, or to tune it, use an l2 hyperparameter.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="bfloat16 takes the losses under autocast; weights and hypergradients stay "
        "in float32.",
    )
    resample: bool = Field(
        default=True,
        description="Fresh initial weights and minibatches in every meta-iteration; false "
        "repeats those of the first.",
    )


class MetaSpec(Spec):
    """The outer problem: how the hyperparameters are updated."""

    optimizer: Literal["adam", "sgd", "rmsprop", "sign"] = Field(
        default="adam", description="Outer update; sign moves each by ± the learning rate."
    )
    learning_rate: float = Field(
        default=0.3, gt=0.0, le=1000.0, description="Outer step, in raw (transformed) units."
    )
    iterations: int = Field(default=30, ge=1, le=100_000, description="Meta-iterations to commit.")
    tolerance: float | None = Field(
        default=5.0,
        gt=0.0,
        description="A validation loss that is worse than the best by more than a tenth and so "
        "many standard errors takes the step back; null accepts every finite loss.",
    )
    retreats: int = Field(
        default=5,
        ge=0,
        le=100,
        description="How many steps in a row may be taken back, each to half the outer step, "
        "before the job fails.",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Stop after so many meta-iterations without a better validation loss; "
        "null never stops early.",
    )


class ReplicasSpec(Spec):
    """How many workers compute each meta-iteration, and how they are joined."""

    count: int = Field(
        default=1, ge=1, le=1024, description="Workers, each with its own seeds over all the data."
    )
    aggregate: Literal["mean", "sign"] = Field(
        default="mean", description="Mean of their hypergradients, or a majority vote of signs."
    )


class ResourcesSpec(Spec):
    """What one replica occupies."""

    cpus: float = Field(default=1.0, gt=0.0, le=1024.0, description="CPU cores of a replica.")
    gpus: float = Field(default=0.0, ge=0.0, le=64.0, description="GPUs of a replica.")


class RetrySpec(Spec):
    """What the service repeats by itself: faults of the system, never errors of the job."""

    replica_failures: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="Replicas lost in a row, without a committed meta-iteration between, after "
        "which the job fails.",
    )


class JobSpec(Spec):
    """One tuning request."""

    name: str = Field(
        default="untitled", min_length=1, max_length=200, description="Shown wherever the job is."
    )
    problem: ProblemSpec = Field(description="What is trained, on which data.")
    hyperparameters: list[HyperparameterSpec] = Field(
        min_length=1, max_length=64, description="What is tuned."
    )
    training: TrainingSpec = Field(default=TrainingSpec(), description="The inner problem.")
    hypergradient: HypergradientSpec = Field(
        default=AutoMethod(), description="How the hypergradient is computed."
    )
    meta: MetaSpec = Field(default=MetaSpec(), description="The outer problem.")
    replicas: ReplicasSpec = Field(default=ReplicasSpec(), description="Workers of the job.")
    resources: ResourcesSpec = Field(default=ResourcesSpec(), description="Per replica.")
    retry: RetrySpec = Field(default=RetrySpec(), description="What is repeated.")
    timeout_s: float | None = Field(
        default=None,
        gt=0.0,
        description="Seconds on the cluster after which the job fails; null for no limit.",
    )
    tags: dict[
        Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=256)]
    ] = Field(default={}, max_length=32, description="The user's own labels.")
    priority: int = Field(default=0, ge=-100, le=100, description="Higher runs earlier.")
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="Fixes weights, minibatches and so every number."
    )

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        errors = list(self._misfits())
        if errors:
            raise ValidationError.from_exception_data(type(self).__name__, errors)
        return self

    def _misfits(self) -> Iterator[InitErrorDetails]:
        if isinstance(self.problem, CatalogProblem):
            yield from self._catalog_misfits(self.problem)
        training, method = self.training, self.hypergradient
        if training.weight_decay and training.optimizer not in ("adam", "adamw"):
            yield _misfit(
                ("training", "weight_decay"),
                training.weight_decay,
                f"must be 0 with {training.optimizer}; use an l2 hyperparameter instead",
            )
        for loc, value, message in method.misfits(training):
            yield _misfit(loc, value, message)
        names = [h.name or h.kind for h in self.hyperparameters]
        for index, hyperparameter in enumerate(self.hyperparameters):
            if names[index] in names[:index]:
                yield _misfit(
                    ("hyperparameters", index, "name"),
                    hyperparameter.name,
                    f"{names[index]!r} stands twice; give each hyperparameter a name of its own",
                )
            count = entries(hyperparameter, self.problem, training)
            reason = method.refuses(hyperparameter, training.steps, count)
            if reason is not None:
                yield _misfit(
                    ("hyperparameters", index, "kind"),
                    hyperparameter.kind,
                    f"{method.method} has no hypergradient for {names[index]}: {reason}",
                )
            if isinstance(hyperparameter, TensorHyperparameter):
                continue
            lower, upper = hyperparameter.lower, hyperparameter.upper
            low = -float("inf") if lower is None else lower
            high = float("inf") if upper is None else upper
            init = hyperparameter.init
            if isinstance(init, float) and not low <= init <= high:
                yield _misfit(
                    ("hyperparameters", index, "init"),
                    init,
                    f"must lie between lower and upper, [{low}, {high}], got {init}",
                )

    def _catalog_misfits(self, problem: CatalogProblem) -> Iterator[InitErrorDetails]:
        data, training = problem.data, self.training
        wanted, held = data.train + data.valid + data.test, data.examples
        if wanted > held:
            yield _misfit(
                ("problem", "data", "train"),
                data.train,
                f"{data.name} has {held} examples, but train + valid + test asks for {wanted}",
            )
        if training.batch_size > data.train:
            yield _misfit(
                ("training", "batch_size"),
                training.batch_size,
                f"must be at most the {data.train} training examples, got {training.batch_size}",
            )
        for index, hyperparameter in enumerate(self.hyperparameters):
            if isinstance(hyperparameter, TensorHyperparameter):
                yield _misfit(
                    ("hyperparameters", index, "kind"),
                    "tensor",
                    "tensor names a hyperparameter of your own code; a built-in problem has none",
                )


def _misfit(loc: tuple[int | str, ...], value: Any, message: str) -> InitErrorDetails:
    return InitErrorDetails(
        type=PydanticCustomError("misfit", "{message}", {"message": message}), loc=loc, input=value
    )


class ExtendSpec(Spec):
    """Further meta-iterations for a job that has ended."""

    iterations: int = Field(ge=1, le=100_000, description="Meta-iterations beside those asked for.")


class ForkSpec(Spec):
    """A new job that goes on from a kept meta-iteration of another."""

    iteration: int = Field(ge=0, lt=2**31, description="Begins with the state before this one.")
    changes: dict[str, Any] = Field(
        default={},
        description="Parts of the JobSpec that change, nested as in it; the problem and the "
        "hyperparameters stay.",
    )

    def applied_to(self, spec: JobSpec) -> JobSpec:
        """The forked job's spec.

        Raises:
            ValidationError: at the path of what does not fit, below `changes`.
        """
        fixed = [part for part in ("problem", "hyperparameters") if part in self.changes]
        if fixed:
            raise ValidationError.from_exception_data(
                "ForkSpec",
                [
                    _misfit(("changes", part), None, "stays as in the job forked; leave it out")
                    for part in fixed
                ],
            )
        try:
            forked = JobSpec.model_validate(_merged(spec.model_dump(), self.changes))
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                "ForkSpec",
                [
                    _misfit(("changes", *line["loc"]), line["input"], line["msg"])
                    for line in error.errors()
                ],
            ) from None
        if forked.meta.iterations <= self.iteration:
            message = f"must be above iteration, {self.iteration}, got {forked.meta.iterations}"
            loc = ("changes", "meta", "iterations")
            raise ValidationError.from_exception_data(
                "ForkSpec", [_misfit(loc, forked.meta.iterations, message)]
            )
        return forked


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        below = merged.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            # The options of a method are not those of another.
            same = value.get("method", below.get("method")) == below.get("method")
            value = _merged(below, value) if same else value
        merged[name] = value
    return merged
