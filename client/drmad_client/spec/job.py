"""What a user asks for: JobSpec and its parts, the same in YAML, over REST and in Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from drmad_client.spec.base import Spec as Spec
from drmad_client.spec.data_sets import BreastCancerData as BreastCancerData
from drmad_client.spec.data_sets import Cifar10Data as Cifar10Data
from drmad_client.spec.data_sets import DigitsData as DigitsData
from drmad_client.spec.data_sets import FashionMnistData as FashionMnistData
from drmad_client.spec.data_sets import FileData as FileData
from drmad_client.spec.data_sets import IrisData as IrisData
from drmad_client.spec.data_sets import MnistData as MnistData
from drmad_client.spec.data_sets import OpenmlData as OpenmlData
from drmad_client.spec.data_sets import UploadData as UploadData
from drmad_client.spec.data_sets import WineData as WineData
from drmad_client.spec.entries import entries
from drmad_client.spec.hyperparameters import HyperparameterSpec as HyperparameterSpec
from drmad_client.spec.hyperparameters import InitScaleHyperparameter as InitScaleHyperparameter
from drmad_client.spec.hyperparameters import L1Hyperparameter as L1Hyperparameter
from drmad_client.spec.hyperparameters import L2Hyperparameter as L2Hyperparameter
from drmad_client.spec.hyperparameters import (
    LearningRateHyperparameter as LearningRateHyperparameter,
)
from drmad_client.spec.hyperparameters import LossWeightHyperparameter as LossWeightHyperparameter
from drmad_client.spec.hyperparameters import MomentumHyperparameter as MomentumHyperparameter
from drmad_client.spec.hyperparameters import (
    SampleWeightHyperparameter as SampleWeightHyperparameter,
)
from drmad_client.spec.hyperparameters import TensorHyperparameter as TensorHyperparameter
from drmad_client.spec.hyperparameters import (
    TrainingDataHyperparameter as TrainingDataHyperparameter,
)
from drmad_client.spec.methods import AutoMethod as AutoMethod
from drmad_client.spec.methods import ForwardMethod as ForwardMethod
from drmad_client.spec.methods import HypergradientSpec as HypergradientSpec
from drmad_client.spec.methods import ImplicitMethod as ImplicitMethod
from drmad_client.spec.methods import OneStepMethod as OneStepMethod
from drmad_client.spec.methods import ReplayMethod as ReplayMethod
from drmad_client.spec.methods import ReversibleMethod as ReversibleMethod
from drmad_client.spec.methods import ShortcutMethod as ShortcutMethod
from drmad_client.spec.methods import StoredMethod as StoredMethod
from drmad_client.spec.problem import CatalogProblem as CatalogProblem
from drmad_client.spec.problem import CnnModel as CnnModel
from drmad_client.spec.problem import CodeProblem as CodeProblem
from drmad_client.spec.problem import MlpModel as MlpModel
from drmad_client.spec.problem import ProblemSpec as ProblemSpec
from drmad_client.spec.replicas import ReplicasSpec as ReplicasSpec
from drmad_client.spec.replicas import ResourcesSpec as ResourcesSpec
from drmad_client.spec.search import SearchChoices as SearchChoices
from drmad_client.spec.search import SearchRange as SearchRange
from drmad_client.spec.search import SearchSpec as SearchSpec
from drmad_client.spec.search import changed
from drmad_client.spec.search import misfits as search_misfits


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
    rollback_tolerance: float | None = Field(
        default=5.0,
        gt=0.0,
        description="A validation loss that is worse than the best by more than a tenth and so "
        "many standard errors takes the step back; null accepts every finite loss.",
    )
    max_rollbacks: int = Field(
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


class NotifySpec(Spec):
    """Who is told when the job has ended."""

    webhook: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/?#@\\]+(/[^\s#]*)?$",
        max_length=2048,
        description="Address that is sent a signed POST at the job's end; the operator allows its "
        "host.",
    )


class RetrySpec(Spec):
    """What the service repeats by itself: faults of the system, never errors of the job.

    A replica counts as lost when its process or its node is gone, and when it ran out of memory.
    """

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
    search: SearchSpec | None = Field(
        default=None, description="A search over a few scalars before the first meta-iteration."
    )
    replicas: ReplicasSpec = Field(default=ReplicasSpec(), description="Workers of the job.")
    resources: ResourcesSpec = Field(default=ResourcesSpec(), description="Per replica.")
    retry: RetrySpec = Field(default=RetrySpec(), description="What is repeated.")
    timeout_s: float | None = Field(
        default=None,
        gt=0.0,
        description="Seconds on the cluster after which the job fails; null for no limit.",
    )
    notify: NotifySpec = Field(default=NotifySpec(), description="Who is told of its end.")
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
        if self.search is not None and not errors:
            errors = list(self._search_misfits(self.search))
        if errors:
            raise ValidationError.from_exception_data(type(self).__name__, errors)
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _checked_when_made(cls, value: Any, checked: ModelWrapValidatorHandler[Self]) -> Self:
        """A JobSpec inside a record is not checked again: a search would try all its ends.

        It stands after the check above, for the last validator is the outermost.
        """
        return value if isinstance(value, cls) else checked(value)

    def started_from(self, values: Mapping[str, Any]) -> JobSpec:
        """The job without its search, with these values of what was searched.

        Raises:
            ValidationError: together they make no job.
        """
        return JobSpec.model_validate(changed(self.model_dump(exclude={"search"}), values))

    def _search_misfits(self, search: SearchSpec) -> Iterator[InitErrorDetails]:
        fields = self.model_dump(exclude={"search"})
        found: set[str] = set()
        try:
            for path, candidate in search_misfits(fields, search):
                loc = ("search", "parameters", path)
                try:
                    JobSpec.model_validate(candidate)
                except ValidationError as error:
                    if path not in found:
                        line = error.errors()[0]
                        yield _misfit(loc, line["input"], f"at an end of its range: {line['msg']}")
                    found.add(path)
        except LookupError as error:
            yield _misfit(("search", "parameters"), None, str(error.args[0]))

    def _misfits(self) -> Iterator[InitErrorDetails]:
        if isinstance(self.problem, CatalogProblem):
            yield from self._catalog_misfits(self.problem)
        elif self.problem.data and "data" in self.problem.options:
            message = "is taken by problem.data; give the option another name"
            yield _misfit(("problem", "options", "data"), self.problem.options["data"], message)
        training, method = self.training, self.hypergradient
        if training.weight_decay and training.optimizer not in ("adam", "adamw"):
            yield _misfit(
                ("training", "weight_decay"),
                training.weight_decay,
                f"must be 0 with {training.optimizer}; use an l2 hyperparameter instead",
            )
        for loc, value, message in (
            *method.misfits(training),
            *self.replicas.misfits(),
            *self.resources.misfits(),
        ):
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
        if held is not None and wanted > held:
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
        elif training.batch_size > (shard := self.replicas.smallest(data.train)):
            yield _misfit(
                ("training", "batch_size"),
                training.batch_size,
                f"must be at most the {shard} training examples that a replica holds, got "
                f"{training.batch_size}; or set fewer replicas or a larger replicas.train_share",
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
        fixed = [p for p in ("problem", "hyperparameters", "search") if p in self.changes]
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
