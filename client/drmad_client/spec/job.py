"""JobSpec, the request for a job: the same in YAML, over REST and in Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from drmad_client.spec import bounds, refusals
from drmad_client.spec.base import Misfit, Spec, misfit_error
from drmad_client.spec.data.sizes import ProblemSizes
from drmad_client.spec.hyperparameters import HyperparameterSpec
from drmad_client.spec.inner.training import TrainingSpec
from drmad_client.spec.labels import MOST_TAGS, Name, TagKey, TagValue
from drmad_client.spec.methods import AutoMethod, HypergradientSpec
from drmad_client.spec.operation import NotifySpec, RetrySpec
from drmad_client.spec.outer.meta import MetaSpec
from drmad_client.spec.outer.online import online_misfits, with_online_defaults
from drmad_client.spec.outer.search import SearchSpec, changed, range_ends
from drmad_client.spec.outer.warm_start import StartSpec, start_misfits
from drmad_client.spec.problem import CatalogProblem, ProblemSpec
from drmad_client.spec.replicas import ReplicasSpec, ResourcesSpec
from drmad_client.spec.side_runs.attribution import AttributionSpec, attribution_misfits
from drmad_client.spec.side_runs.preflight import PreflightSpec
from drmad_client.spec.side_runs.retraining import RetrainSpec, retraining_misfits
from drmad_client.spec.text.field_types import with_words_for_booleans
from drmad_client.spec.text.plain_values import with_numbers
from drmad_client.spec.workers import worker_misfits

_ACCEPTED = {"accepted": True}
"""The context of validation under which only the fields by themselves are judged."""
_COMBINED = {"combined": True}
"""The context of validation under which settings of another inner optimizer may stand idle."""


class JobSpec(Spec):
    """One request to tune hyperparameters, or to attribute queries to training examples."""

    name: Name = Field(default="untitled", description="Name of the job, for display.")
    kind: Literal["tuning", "attribution"] = Field(
        default="tuning",
        description="tuning: hyperparameters by gradient; attribution: the influence of every "
        "training example on the validation loss, or on the queries of `attribution`.",
    )
    problem: ProblemSpec = Field(
        description="Model and data of the inner problem, or the code that builds them."
    )
    hyperparameters: list[HyperparameterSpec] = Field(
        default=[],
        max_length=64,
        description="Hyperparameters to tune, at least one; each needs a name of its own. An "
        "attribution has none.",
    )
    attribution: AttributionSpec | None = Field(
        default=None,
        description="Queries of a job of kind attribution; null asks for the validation loss.",
    )
    training: TrainingSpec = Field(
        default=TrainingSpec(), description="Inner problem: its optimizer and its steps."
    )
    hypergradient: HypergradientSpec = Field(
        default=AutoMethod(), description="Method that computes the hypergradient."
    )
    meta: MetaSpec = Field(
        default=MetaSpec(), description="Outer problem: its optimizer and its limits."
    )
    search: SearchSpec | None = Field(
        default=None,
        description="Search over a few scalars before the first meta-iteration; null omits it.",
    )
    start: StartSpec | None = Field(
        default=None,
        description="Job whose tuned hyperparameters are the first values; null takes their init.",
    )
    retrain: RetrainSpec | None = Field(
        default=None,
        description="Retraining at the end of the job, on workers that no job needs then; null "
        "omits it.",
    )
    replicas: ReplicasSpec = Field(
        default=ReplicasSpec(), description="Number of replicas, their data and their aggregation."
    )
    resources: ResourcesSpec = Field(
        default=ResourcesSpec(), description="CPU cores, GPUs and memory of each replica."
    )
    retry: RetrySpec = Field(
        default=RetrySpec(), description="Limit of the retries after failures of the system."
    )
    preflight: PreflightSpec = Field(
        default=PreflightSpec(), description="How the job treats the proofs of its preflight."
    )
    timeout_s: float | None = Field(
        default=None,
        gt=0.0,
        description="Maximum time on the cluster, in seconds, after which the job fails; null "
        "sets no limit.",
    )
    notify: NotifySpec = Field(
        default=NotifySpec(), description="Address that the service notifies when the job ends."
    )
    tags: dict[TagKey, TagValue] = Field(
        default={},
        max_length=MOST_TAGS,
        description="Labels by key, by which lists of jobs can be filtered.",
    )
    priority: int = Field(
        default=0, ge=-100, le=100, description="Priority in the queue; a higher one runs earlier."
    )
    seed: Annotated[int, bounds.SEED] = Field(
        default=0,
        description="Seed of initial weights and minibatches; it determines every random number.",
    )

    @classmethod
    def accepted(cls, fields: Any) -> JobSpec:
        """The spec of a job that was accepted before, as JSON or as its fields.

        Rules between fields are not applied again: an earlier release may have had fewer of them,
        and its jobs stay readable.
        """
        if isinstance(fields, str | bytes):
            return cls.model_validate_json(fields, context=_ACCEPTED)
        return cls.model_validate(fields, context=_ACCEPTED)

    @classmethod
    def combined(cls, fields: Any) -> JobSpec:
        """The valid spec of fields of which a part comes from another spec or from a search.

        Settings that only another inner optimizer reads may stand beside the present one.
        """
        return cls.model_validate(fields, context=_COMBINED)

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_its_kind(cls, fields: Any, info: ValidationInfo) -> Any:
        """An attribution has a single round, and nothing to confirm; an online job has windows."""
        fields = with_numbers(fields)
        if not isinstance(fields, Mapping):
            return fields
        if info.context is not _ACCEPTED:
            fields = with_words_for_booleans(fields, [cls])
        if fields.get("kind") == "attribution":
            return {"meta": {"iterations": 1, "confirmation": 0.0}, **fields}
        return with_online_defaults(fields)

    @model_validator(mode="after")
    def _parts_fit_together(self, info: ValidationInfo) -> Self:
        if info.context is _ACCEPTED:
            return self
        misfits = list(self._misfits())
        if info.context is not _COMBINED:
            misfits += self._idle_settings(self._searches_optimizer)
        if self.search is not None and not misfits:
            misfits = list(self._search_misfits(self.search))
        if misfits:
            raise ValidationError.from_exception_data(
                type(self).__name__, [misfit_error(*misfit) for misfit in misfits]
            )
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _validated_once(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """A JobSpec inside a record is not validated again: a search validates all ends of ranges.

        This validator follows the one above, because the last one is the outermost.
        """
        return value if isinstance(value, cls) else validate(value)

    def started_from(self, values: Mapping[str, Any]) -> JobSpec:
        """The job without its search, with these values at the searched paths.

        Raises:
            ValidationError: the values together make no valid job.
        """
        return JobSpec.combined(changed(self.model_dump(exclude={"search"}), values))

    @property
    def sizes(self) -> ProblemSizes:
        """The sizes of the problem; those of its parameters are unknown if some are frozen."""
        sizes = self.problem.sizes(self.training.steps)
        if any(group.frozen for group in self.training.groups):
            return replace(sizes, matrices=None, tensors=None)
        return sizes

    @property
    def differentiated(self) -> TrainingSpec:
        """The training that a meta-iteration differentiates: the whole run, or a window of it.

        A horizon of `stored` may go beyond the window.
        """
        if self.meta.mode == "restart":
            return self.training
        steps, method = self.meta.window, self.hypergradient
        if method.method == "stored":
            steps = max(steps, method.horizon or 0)
        return self.training.over(min(steps, self.training.steps))

    @property
    def windows_before(self) -> int:
        """The windows before one of an online job that its backward pass reads."""
        return ceil(self.differentiated.steps / self.meta.window) - 1

    def retraining_misfits(self, asked: RetrainSpec) -> Iterator[Misfit]:
        """The fields of a retraining that do not fit this job."""
        parts = self.problem.data.parts if self.problem.kind == "catalog" else None
        kinds = [hyperparameter.kind for hyperparameter in self.hyperparameters]
        return retraining_misfits(asked, self.kind, kinds, parts is None or parts[2] > 0)

    @property
    def not_batched(self) -> str | None:
        """Why no replicas can be computed as one batch; None where only a worker can tell."""
        if self.kind == "attribution":
            return "each draw of an attribution is trained by itself"
        if self.meta.mode == "online":
            return "each training run of an online job is continued by itself"
        rates = (h.name or h.kind for h in self.hyperparameters if h.is_rate)
        by_rates = (refusals.rate_not_batched(name) for name in rates)
        return self.hypergradient.not_batched or next(by_rates, None)

    @property
    def _searches_optimizer(self) -> bool:
        return self.search is not None and "training.optimizer" in self.search.parameters

    def _search_misfits(self, search: SearchSpec) -> Iterator[Misfit]:
        fields = self.model_dump(exclude={"search"})
        found: set[str] = set()
        try:
            for path, candidate in range_ends(fields, search):
                misfit = None if path in found else self._candidate_misfit(candidate)
                if misfit is not None:
                    value, message = misfit
                    message = f"at an end of its range: {message}"
                    yield ("search", "parameters", path), value, message
                    found.add(path)
        except LookupError as error:
            yield ("search", "parameters"), None, str(error.args[0])

    def _candidate_misfit(self, candidate: Mapping[str, Any]) -> tuple[Any, str] | None:
        """Value and message of the first field of a trial that does not fit; None if all fit."""
        try:
            spec = JobSpec.combined(candidate)
        except ValidationError as error:
            line = error.errors()[0]
            return line["input"], line["msg"]
        for path, value, message in spec._idle_settings(self._searches_optimizer):
            return value, f"{'.'.join(map(str, path))} {message}"
        return None

    def _idle_settings(self, of_any_optimizer: bool) -> Iterator[Misfit]:
        """Settings without effect, except those of other inner optimizers `of_any_optimizer`."""
        training = self.training
        if not of_any_optimizer:
            yield from training.misfits()
        for index, hyperparameter in enumerate(self.hyperparameters):
            field = hyperparameter.replaces(training.optimizer)
            has_own = getattr(hyperparameter, "init", None) is not None
            if field is not None and has_own and training.sets(field):
                message = (
                    f"has no effect beside hyperparameters[{index}].init, got "
                    f"{training.rate(field):g}: leave one of the two out"
                )
                yield ("training", field), getattr(training, field), message

    def _misfits(self) -> Iterator[Misfit]:
        if isinstance(self.problem, CatalogProblem):
            yield from self._catalog_misfits(self.problem)
        else:
            yield from self.problem.misfits()
        yield from self.training.contradictions()
        yield from self._kind_misfits()
        if self.retrain is not None:
            for path, value, message in self.retraining_misfits(self.retrain):
                yield ("retrain", *path), value, message
        yield from online_misfits(self)
        yield from start_misfits(self)
        yield from self.hypergradient.misfits(self.differentiated, self.hyperparameters)
        yield from self.replicas.misfits(self.resources)
        yield from self.resources.misfits(self.replicas.workers)
        yield from worker_misfits(self)
        if self.meta.optimizer == "auto" and self.replicas.mode == "async":
            message = (
                "must be another one with replicas.mode: async, where no update waits for a trial, "
                "got auto: adam"
            )
            yield ("meta", "optimizer"), "auto", message
        yield from self._hyperparameter_misfits()

    def _kind_misfits(self) -> Iterator[Misfit]:
        if self.kind == "attribution":
            yield from attribution_misfits(
                [hyperparameter.kind for hyperparameter in self.hyperparameters],
                self.search is not None,
                self.meta.iterations,
                self.hypergradient.method,
                self.replicas,
            )
            return
        if not self.hyperparameters:
            message = "must name at least one hyperparameter to tune, got none"
            yield ("hyperparameters",), [], message
        if self.attribution is not None:
            message = "belongs to kind attribution, got kind tuning: leave it out, or set the kind"
            yield ("attribution",), self.attribution.model_dump(), message

    def _hyperparameter_misfits(self) -> Iterator[Misfit]:
        method, total = self.hypergradient, self.differentiated.steps
        sizes, pulls = self.sizes, self.meta.regularization > 0.0
        names = [h.name or h.kind for h in self.hyperparameters]
        for index, hyperparameter in enumerate(self.hyperparameters):
            at = ("hyperparameters", index)
            if names[index] in names[:index]:
                message = f"{names[index]!r} is taken; give each hyperparameter its own name"
                yield (*at, "name"), hyperparameter.name, message
            reason = method.refuses(hyperparameter, total, hyperparameter.entries(sizes))
            if reason is not None:
                message = f"{method.method} has no hypergradient for {names[index]}: {reason}"
                yield (*at, "kind"), hyperparameter.kind, message
            if hyperparameter.takes_training_groups and not self.training.groups:
                message = "needs patterns in groups, or training.groups: add one of them"
                yield (*at, "per"), "group", message
            if getattr(hyperparameter, "pull_to", "start") != "start" and not pulls:
                message = "has no effect without meta.regularization: set that too, or leave it out"
                yield (*at, "pull_to"), "class", message
            outside = hyperparameter.initial_misfit()
            if outside is not None:
                yield (*at, "init"), getattr(hyperparameter, "init", None), outside

    def _catalog_misfits(self, problem: CatalogProblem) -> Iterator[Misfit]:
        yield from self._size_misfits(problem)
        data, model = problem.data, problem.model
        if self.training.optimizer == "custom":
            message = "custom is the optimizer of your own code; a built-in problem has none"
            yield ("training", "optimizer"), "custom", message
        if data.has_categories and not model.takes_categories:
            message = f"{model.name} takes numbers alone, and data has categorical columns: tabular"
            yield ("problem", "model", "name"), model.name, message
        for index, hyperparameter in enumerate(self.hyperparameters):
            at, kind = ("hyperparameters", index), hyperparameter.kind
            column = hyperparameter.data_column
            if hyperparameter.from_code:
                message = (
                    f"{kind} names a hyperparameter of your own code; a built-in problem has none"
                )
                yield (*at, "kind"), kind, message
            if kind == "training_data" and data.has_categories:
                message = "training_data tunes numbers, and data has categorical columns"
                yield (*at, "kind"), kind, message
            if column is not None and not data.has_column(column):
                message = (
                    f"the data {data.name} hands over no column {column}: a table lists it in "
                    "problem.data.columns"
                )
                yield (*at, "column"), column, message

    def _size_misfits(self, problem: CatalogProblem) -> Iterator[Misfit]:
        data = problem.data
        if data.parts is None:
            return
        train, wanted, held = data.parts[0], sum(data.parts), data.examples
        if held is not None and wanted > held:
            message = f"{data.name} has {held} examples, but train + valid + test is {wanted}"
            yield ("problem", "data", "train"), train, message
        batch_size = self.training.batch_size
        shard = self.replicas.smallest(train)
        if batch_size > train:
            message = f"must be at most the {train} training examples, got {batch_size}"
            yield ("training", "batch_size"), batch_size, message
        elif batch_size > shard:
            message = (
                f"must be at most the {shard} training examples that a replica holds, got "
                f"{batch_size}; or set fewer replicas or a larger replicas.train_share"
            )
            yield ("training", "batch_size"), batch_size, message
