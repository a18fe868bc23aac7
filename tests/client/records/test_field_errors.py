"""Whatever field of a job is wrong, the error names that field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.spec.fork import ForkSpec
from drmad_client.spec.job import JobSpec
from drmad_client.spec.text.field_types import inner_types

JOB: dict[str, Any] = {
    "problem": {"data": {"name": "digits"}},
    "hyperparameters": [{"kind": "l2"}],
}
CODE = {"entrypoint": "my_problem:build", "code": "sha256:" + "0" * 64, "options": {"units": 3}}
TAGS = ("kind", "name", "method")


def paths_of(job: Any) -> dict[str, str]:
    """The message of each bad field of a job by its path."""
    with pytest.raises(ValidationError) as refused:
        JobSpec.model_validate(job)
    return {error.path: error.message for error in field_errors(refused.value.errors(), job)}


@dataclass(frozen=True)
class Member:
    """A part of a job that has fields, one of a union after the other."""

    path: tuple[str | int, ...]
    one: type[BaseModel]
    job: Callable[[Any], Any]  # a job that holds this part

    def __str__(self) -> str:
        return f"{written(self.path)}-{self.one.__name__}"


def members() -> Iterator[Member]:
    waiting: list[tuple[tuple[str | int, ...], Any, Callable[[Any], Any]]]
    waiting = [((), JobSpec, lambda part: JOB | part)]
    while waiting:
        path, one, job = waiting.pop()
        if isinstance(one, type) and issubclass(one, BaseModel):
            yield Member(path, one, job)
            for name in one.model_fields:
                holds = partial(_inside, job, fields_of(one), name)
                waiting += [((*path, name), inner, holds) for inner in inner_types([one], name)]
        elif get_origin(one) is list:
            holds = partial(_of_list, job)
            waiting += [((*path, 0), inner, holds) for inner in inner_types([one], 0)]
        elif get_origin(one) is dict:
            at = "training.steps"
            holds = partial(_inside, job, {}, at)
            waiting += [((*path, at), inner, holds) for inner in inner_types([one], at)]


def _inside(job: Callable[[Any], Any], fields: Any, name: str, part: Any) -> Any:
    return job(fields | {name: part})


def _of_list(job: Callable[[Any], Any], part: Any) -> Any:
    return job([part])


def fields_of(one: type[BaseModel]) -> dict[str, Any]:
    """What makes a mapping this member of its union."""
    if one.__name__ == "CodeProblem":
        return dict(CODE)
    if one.__name__ == "SearchChoices":
        return {"choices": [1, 2]}
    return {
        name: get_args(field.annotation)[0]
        for name, field in one.model_fields.items()
        if name in TAGS and len(get_args(field.annotation)) == 1
    }


def written(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if part == 0 else f".{part}" for part in path).removeprefix(".")


@pytest.mark.parametrize("member", list(members()), ids=str)
def test_every_misspelt_field_of_every_union_is_named(member: Member) -> None:
    for name in member.one.model_fields:
        misspelt = name[:-1] + "_x"
        fields = fields_of(member.one)
        if name not in TAGS:
            fields.pop(name, None)
        found = paths_of(member.job(fields | {misspelt: {}}))
        assert found[written((*member.path, misspelt))].startswith("is not a known field")


@pytest.mark.parametrize("member", list(members()), ids=str)
def test_every_field_of_a_wrong_type_is_named(member: Member) -> None:
    for name in member.one.model_fields:
        if name not in TAGS:
            found = paths_of(member.job(fields_of(member.one) | {name: "\ud800"}))
            place = written((*member.path, name))
            assert any(path.startswith(place) for path in found), (name, found)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"problem": {**CODE, "optons": {}}}, "problem.optons"),
        ({"problem": {**CODE, "options": {"x": float("nan")}}}, "problem.options"),
        ({"problem": {"code": CODE["code"]}}, "problem.entrypoint"),
        ({"training": {"optimizer": {"name": "adam", "eps": -1}}}, "training.optimizer.eps"),
        ({"training": {"optimizer": {"name": "adamw", "betsa": 1}}}, "training.optimizer.betsa"),
        ({"training": {"optimizer": {"name": "adamx"}}}, "training.optimizer.name"),
        ({"training": {"optimizer": {"betas": [0.9, 0.9]}}}, "training.optimizer.name"),
        ({"tags": {"": "x"}}, "tags."),
    ],
)  # fmt: skip
def test_a_field_beside_or_inside_a_tag_is_named(changes: Any, path: str) -> None:
    assert list(paths_of(JOB | changes)) == [path]


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"hypergradient": {"stepz": 3}}, "hypergradient.stepz", "is not a known field"),
        ({"training": {"learning_rat": 3}}, "training.learning_rat", "is not a known field"),
        ({"training": {"optimizer": {"bets": 3, "name": "adam"}}}, "training.optimizer.bets", "is"),
        ({"meta": {"iterations": "x"}}, "meta.iterations", "must be a whole number"),
    ],
)  # fmt: skip
def test_a_change_of_a_fork_is_named(changes: Any, path: str, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ForkSpec(iteration=0, changes=changes).applied_to(JobSpec.model_validate(JOB))
    (error,) = field_errors(refused.value.errors(), {"iteration": 0, "changes": changes})
    assert error.path == f"changes.{path}"
    assert error.message.startswith(message)
