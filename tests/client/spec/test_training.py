"""The recipe of the inner training run as a job states it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.spec.job import JobSpec
from drmad_client.spec.schedules import LearningRateSchedule, ScheduleSpec
from drmad_client.spec.training import TrainingSpec
from tests.client import samples


def fields(**training: Any) -> dict[str, Any]:
    return {**samples.SPEC, "training": {"steps": 40, **training}}


def job(**training: Any) -> JobSpec:
    return JobSpec.model_validate(fields(**training))


def faults(**training: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        job(**training)
    given = fields(**training)
    return {each.path: each.message for each in field_errors(caught.value.errors(), given)}


def schedule_of(**options: Any) -> ScheduleSpec:
    made: ScheduleSpec = TypeAdapter(LearningRateSchedule).validate_python(options)
    return made


def test_a_job_without_a_recipe_trains_at_a_constant_rate() -> None:
    assert TrainingSpec().schedule == schedule_of(name="constant", warmup=0)


@pytest.mark.parametrize(
    ("schedule", "path", "words"),
    [
        ({"name": "cosine", "warmup": 41}, "warmup", "at most training.steps, 40, got 41"),
        ({"name": "cosine", "warmup": 2.5}, "warmup", "or a whole number of steps, got 2.5"),
        ({"name": "step"}, "every", "or milestones must be given, and not both"),
        ({"name": "table", "factors": [1, 0]}, "factors", "one entry for each of the 40 steps"),
        ({"name": "table", "factors": [1, 0], "at": [0]}, "at", "increasing position for each"),
        ({"name": "linear", "factor": 0.1}, "factor", "is not a known field"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused_by_field(
    schedule: dict[str, Any], path: str, words: str
) -> None:
    found = faults(schedule=schedule)
    (field,) = found
    assert field.startswith("training.schedule")
    assert field.endswith(path)
    assert words in found[field]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"name": "cosine", "warmup": 0.1}, {"warmup": 0.1}),
        ({"name": "cosine", "warmup": 10}, {"warmup": 0.25}),
        ({"name": "cosine", "warmup": 40}, {"warmup": 8}),
        ({"name": "step", "milestones": [10, 0.5, 60]}, {"milestones": (0.25, 0.5, 12)}),
        ({"name": "table", "factors": [*range(40)]}, {"factors": (2, 7, 12, 17, 22, 27, 32, 37)}),
        ({"name": "table", "factors": [1, 0], "at": [0, 1]}, {"factors": (1, 0), "at": (0, 1)}),
    ],
)
def test_fewer_steps_take_the_schedule_in_the_same_shape(
    given: dict[str, Any], expected: dict[str, Any]
) -> None:
    short = job(schedule=given).training.shortened(8)
    assert short.steps == 8
    assert short.schedule == schedule_of(**{**given, **expected})
