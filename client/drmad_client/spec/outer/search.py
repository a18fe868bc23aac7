"""The search over a few scalars that precedes the first meta-iteration."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StrictBool, StrictInt, StrictStr, Tag, model_validator

from drmad_client.spec.base import Spec

_PATH = re.compile(r"(problem\.(model|options)\.|hyperparameters\[|training\.)[\w.\[\]-]+")
Word = Annotated[str, Field(max_length=256)]


class SearchRange(Spec):
    """A number between two bounds."""

    low: float = Field(ge=-1e12, le=1e12, description="Smallest value of a trial.")
    high: float = Field(ge=-1e12, le=1e12, description="Largest value of a trial.")
    log: bool = Field(
        default=False,
        description="Whether trials are spread evenly over the logarithm of the value.",
    )
    integer: bool = Field(default=False, description="Whether trials take whole numbers alone.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, {self.high:g}, got {self.low:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 where log is true, got {self.low:g}")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"bounds of integers must be whole, got {self.low:g}, {self.high:g}")
        return self

    def ends(self) -> tuple[Any, ...]:
        """The extreme values; if they fit, so do all values between them."""
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)

    def holds(self, value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return (
            is_number
            and self.low <= value <= self.high
            and (not self.integer or float(value).is_integer())
        )


class SearchChoices(Spec):
    """One of several values."""

    choices: list[StrictBool | StrictInt | float | StrictStr] = Field(
        min_length=2, max_length=64, description="Values of the trials."
    )

    def ends(self) -> tuple[Any, ...]:
        return tuple(self.choices)

    def holds(self, value: Any) -> bool:
        return any(value == choice and type(value) is type(choice) for choice in self.choices)


def _kind(value: Any) -> str:
    has = value if isinstance(value, dict) else vars(value) if isinstance(value, Spec) else {}
    return "choices" if "choices" in has else "range"


SearchParameter = Annotated[
    Annotated[SearchRange, Tag("range")] | Annotated[SearchChoices, Tag("choices")],
    Discriminator(_kind),
]


class SearchSpec(Spec):
    """Training runs at several values of a few scalars; the job starts from the best values."""

    trials: int = Field(
        default=20, ge=1, le=1000, description="Number of training runs of the search."
    )
    sampler: Literal["tpe", "random"] = Field(
        default="tpe",
        description="Sampler of Optuna: tpe learns from earlier trials, random does not.",
    )
    parameters: dict[Word, SearchParameter] = Field(
        min_length=1,
        max_length=16,
        description="Ranges or choices by path in the job, such as training.learning_rate, "
        "hyperparameters[0].init, problem.model.activation or problem.options.width.",
    )

    @model_validator(mode="after")
    def _paths_are_searchable(self) -> Self:
        for path in self.parameters:
            if not _PATH.fullmatch(path):
                raise ValueError(
                    f"{path!r} cannot be searched; a path begins with training., "
                    "hyperparameters[0]., problem.model. or problem.options."
                )
        return self


def changed(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A job's fields with these values at their paths.

    Raises:
        LookupError: the job has no such path.
    """
    result = copy.deepcopy(dict(fields))
    for path, value in values.items():
        *parents, last = _parts(path)
        here: Any = result
        for part in parents:
            here = _inside(here, part, path)[part]
        _inside(here, last, path)[last] = value
    return result


def own_values(fields: Mapping[str, Any], search: SearchSpec) -> dict[str, Any] | None:
    """The job's own values at the searched paths; None if one lies outside its range."""
    found: dict[str, Any] = {}
    for path, parameter in search.parameters.items():
        here: Any = fields
        for part in _parts(path):
            try:
                here = here[part]
            except (LookupError, TypeError):
                return None
        if not parameter.holds(here):
            return None
        found[path] = here
    return found


def range_ends(
    fields: Mapping[str, Any], search: SearchSpec
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each path with the job's fields at an end of its range, to be validated.

    Raises:
        LookupError: as `changed`.
    """
    for path, parameter in search.parameters.items():
        for value in parameter.ends():
            yield path, changed(fields, {path: value})


def _parts(path: str) -> list[str | int]:
    return [int(p) if p.isdigit() else p for p in re.findall(r"[\w-]+", path)]


def _inside(here: Any, part: str | int, path: str) -> Any:
    is_there = (
        isinstance(part, int) and part < len(here)
        if isinstance(here, list)
        else isinstance(here, dict) and isinstance(part, str)
    )
    if not is_there:
        raise LookupError(f"the job has no {path}")
    return here
