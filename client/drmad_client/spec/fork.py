"""Requests to continue a job: more meta-iterations, or a new job from a kept meta-iteration."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from drmad_client.spec.base import Spec, misfit_error
from drmad_client.spec.job import JobSpec

_FIXED = ("problem", "hyperparameters", "search")


class ExtendSpec(Spec):
    """Further meta-iterations for a job that has ended."""

    iterations: int = Field(
        ge=1, le=100_000, description="Number of meta-iterations to add to those of the job."
    )


class ForkSpec(Spec):
    """A new job that continues from a kept meta-iteration of another."""

    iteration: int = Field(
        ge=0,
        lt=2**31,
        description="Meta-iteration before which the new job starts, with the state kept there.",
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
            forked = JobSpec.model_validate(_merged(spec.model_dump(), self.changes))
        except ValidationError as error:
            lines = (
                (("changes", *line["loc"]), line["input"], line["msg"]) for line in error.errors()
            )
            raise _invalid(*lines) from None
        if forked.meta.iterations <= self.iteration:
            message = f"must be above iteration, {self.iteration}, got {forked.meta.iterations}"
            raise _invalid((("changes", "meta", "iterations"), forked.meta.iterations, message))
        return forked


def _invalid(*misfits: tuple[tuple[int | str, ...], Any, str]) -> ValidationError:
    return ValidationError.from_exception_data(
        "ForkSpec", [misfit_error(*misfit) for misfit in misfits]
    )


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
