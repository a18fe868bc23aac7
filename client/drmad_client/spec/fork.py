"""Requests to continue a job: more meta-iterations, or a new job from a kept meta-iteration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from drmad_client.spec import bounds
from drmad_client.spec.base import Misfit, Spec, misfit_error
from drmad_client.spec.inner.training import flattened
from drmad_client.spec.job import JobSpec
from drmad_client.spec.replicas import ReplicasSpec

_FIXED = ("problem", "hyperparameters", "search")


class ExtendSpec(Spec):
    """Further meta-iterations for a job that has ended."""

    iterations: Annotated[int, bounds.Meta.iterations] = Field(
        description="Number of meta-iterations to add to those of the job."
    )


class ForkSpec(Spec):
    """A new job that continues from a kept meta-iteration of another."""

    iteration: int = Field(
        ge=0,
        lt=2**31,
        description="Index of the meta-iteration before which the new job starts, with the state "
        "kept there: as many meta-iterations are done by then.",
    )
    changes: dict[str, Any] = Field(
        default={},
        description="Fields of the JobSpec to change, nested as there; problem, hyperparameters "
        "and search cannot change.",
    )

    def applied_to(self, spec: JobSpec) -> JobSpec:
        """The forked job's spec.

        Raises:
            ValidationError: at the path, below `changes`, of each field that does not fit.
        """
        if fixed := [part for part in _FIXED if part in self.changes]:
            message = "cannot change in a fork; leave it out"
            raise _invalid(*((("changes", part), None, message) for part in fixed))
        try:
            changes = _flat(self.changes)
        except ValidationError as error:
            raise _below(("changes", "training"), error) from None
        try:
            forked = JobSpec.combined(_merged(spec.model_dump(), changes))
        except ValidationError as error:
            raise _below(("changes",), error) from None
        if forked.meta.iterations <= self.iteration:
            message = f"must be above iteration, {self.iteration}, got {forked.meta.iterations}"
            raise _invalid((("changes", "meta", "iterations"), forked.meta.iterations, message))
        misfits = [*_idle_changes(spec, forked), *_misfits_of_the_state(spec, forked)]
        if misfits := [*misfits, *_misfits_of_the_run(spec, forked)]:
            raise _invalid(*misfits)
        return forked


def _idle_changes(before: JobSpec, after: JobSpec) -> Iterator[Misfit]:
    for path, value, message in after.training.misfits():
        if value != getattr(before.training, str(path[-1])):
            yield ("changes", *path), value, message


def _misfits_of_the_state(before: JobSpec, after: JobSpec) -> Iterator[Misfit]:
    """Changes of the training that do not fit the hyperparameters of the kept state."""
    steps, now = before.training.steps, after.training.steps
    for hyperparameter in after.hyperparameters:
        name = hyperparameter.name or hyperparameter.kind
        if hyperparameter.per_step and steps != now:
            message = (
                f"must stay {steps}, got {now}: the kept {name} has an entry for every inner step; "
                "submit a new job to train for another number of steps"
            )
            yield ("changes", "training", "steps"), now, message
        if hyperparameter.per_parameter and before.training.groups != after.training.groups:
            message = f"must stay as they are: the kept {name} has entries for the parameters there"
            yield ("changes", "training", "groups"), after.training.groups, message
        field = hyperparameter.replaces(after.training.optimizer)
        if field is None:
            continue
        kept, given = before.training.rate(field), after.training.rate(field)
        if kept != given:
            message = (
                f"must stay {kept:g}, got {given:g}: it would have no effect, because {name} is "
                "tuned in its place and continues from its kept values"
            )
            yield ("changes", "training", field), getattr(after.training, field), message


def _misfits_of_the_run(before: JobSpec, after: JobSpec) -> Iterator[Misfit]:
    """Changes that would give the fork of an online job another training run."""
    if before.meta.mode != after.meta.mode:
        message = (
            f"must stay {before.meta.mode}, got {after.meta.mode}: a state between two windows is "
            "within a training run; submit a new job, which may start from the values found"
        )
        yield ("changes", "meta", "mode"), after.meta.mode, message
        return
    if before.meta.mode != "online":
        return
    for path, one, other in (
        (("meta", "window"), before.meta.window, after.meta.window),
        (("training",), before.training, after.training),
        (("replicas",), _counting(before), _counting(after)),
        (("seed",), before.seed, after.seed),
    ):
        if one != other:
            message = (
                "must stay as it is: the fork of an online job continues its training run; submit "
                "a new job to train otherwise"
            )
            yield ("changes", *path), other, message


def _counting(spec: JobSpec) -> ReplicasSpec:
    """The replicas without what changes where they are computed."""
    alone = {"placement": "pack", "batched": "off", "workers": 1}
    return spec.replicas.model_copy(update=alone)


def _flat(changes: dict[str, Any]) -> dict[str, Any]:
    """The changes with a mapping `training.optimizer` as fields of the training."""
    training = changes.get("training")
    return changes | {"training": flattened(training)} if isinstance(training, dict) else changes


def _invalid(*misfits: Misfit) -> ValidationError:
    return ValidationError.from_exception_data(
        "ForkSpec", [misfit_error(*misfit) for misfit in misfits]
    )


def _below(place: tuple[str, ...], error: ValidationError) -> ValidationError:
    """The same error with its fields below `place`."""
    lines = [
        InitErrorDetails(
            type=line["type"]
            if line["type"] in get_args(ErrorType)
            else PydanticCustomError(line["type"], "{message}", {"message": line["msg"]}),
            loc=(*place, *line["loc"]),
            input=line["input"],
            ctx=line.get("ctx", {}),
        )
        for line in error.errors()
    ]
    return ValidationError.from_exception_data("ForkSpec", lines)


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
