"""The start of a job from what another job has tuned, and which hyperparameters it can take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from drmad_client.spec.base import Misfit, Spec
from drmad_client.spec.data.sizes import ProblemSizes
from drmad_client.spec.hyperparameters import HyperparameterSpec


class StartSpec(Spec):
    """The job whose tuned hyperparameters are the first values of this one.

    Names that both jobs have take the values of the other; the rest begin at their own `init`. A
    schedule of another number of steps is interpolated over the progress of training; a value for
    the whole model fills every entry; layers, classes and sources are matched by their names.
    """

    job: str = Field(
        pattern="^job_[0-9A-HJKMNP-TV-Z]{26}$", description="Id of the job that has tuned them."
    )
    iteration: Literal["best", "last"] | Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default="best",
        description="Meta-iteration with whose values it trained: best, last or its number.",
    )


class Starting(Protocol):
    """What is read of the spec of a job."""

    @property
    def kind(self) -> str: ...

    @property
    def hyperparameters(self) -> Sequence[HyperparameterSpec]: ...

    @property
    def start(self) -> StartSpec | None: ...

    @property
    def search(self) -> Any: ...

    @property
    def sizes(self) -> ProblemSizes: ...


def start_misfits(spec: Starting) -> Iterator[Misfit]:
    """What a job that starts from another cannot have beside it."""
    if spec.start is None:
        return
    if spec.kind == "attribution":
        message = "belongs to kind tuning: an attribution tunes nothing; leave it out"
        yield ("start",), spec.start.model_dump(), message
    if spec.search is not None:
        message = "and search both choose the first values: leave one of the two out"
        yield ("start",), spec.start.model_dump(), message


def common(spec: Starting, other: Starting) -> list[str]:
    """The names of the hyperparameters that take the values of the other job."""
    return [name for name in named(spec) if name in named(other)]


def unlike(spec: Starting, other: Starting) -> Iterator[Misfit]:
    """The hyperparameters whose values in the other job have another meaning or number."""
    theirs = named(other)
    if not common(spec, other):
        message = (
            f"job {spec.start.job if spec.start else ''} tunes {_listed(theirs)}, and this job "
            f"{_listed(named(spec))}: name at least one alike"
        )
        yield ("start", "job"), None, message
    for index, mine in enumerate(spec.hyperparameters):
        found = theirs.get(mine.name or mine.kind)
        if found is None:
            continue
        per, before = (getattr(each, "per", "model") for each in (mine, found))
        if mine.kind != found.kind:
            message = f"must be {found.kind}, as in the job it starts from, got {mine.kind}"
            yield ("hyperparameters", index, "kind"), mine.kind, f"{message}: or rename it"
        elif per != before and before != "model":
            message = (
                f"must be {before}, as in the job it starts from, got {per}: only a value for the "
                "whole model fills other units"
            )
            yield ("hyperparameters", index, "per"), per, message
        else:
            yield from _counts(index, spec, mine, other, found)


def schedules(spec: Starting, other: Starting) -> list[str]:
    """The names of the common hyperparameters that have an entry for each step in both jobs."""
    mine, theirs = named(spec), named(other)
    return [n for n in common(spec, other) if mine[n].per_step and theirs[n].per_step]


def named(spec: Starting) -> dict[str, HyperparameterSpec]:
    return {each.name or each.kind: each for each in spec.hyperparameters}


def _counts(
    index: int, spec: Starting, mine: HyperparameterSpec, other: Starting, found: HyperparameterSpec
) -> Iterator[Misfit]:
    if not mine.per_example:
        return
    count, before = mine.entries(spec.sizes), found.entries(other.sizes)
    if count is not None and before is not None and count != before:
        message = (
            f"has {count} entries here and {before} in the job it starts from: values of examples "
            "are those of the same rows; keep the data and its split, or rename it"
        )
        yield ("hyperparameters", index, "kind"), mine.kind, message


def _listed(names: dict[str, HyperparameterSpec]) -> str:
    return ", ".join(names) or "nothing"
