"""The recipe of the inner training run as a job states it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.spec.fork import ForkSpec
from drmad_client.spec.inner.schedules import LearningRateSchedule, ScheduleSpec
from drmad_client.spec.inner.training import TrainingSpec
from drmad_client.spec.job import JobSpec
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
    short = job(schedule=given).training.over(8)
    assert short.steps == 8
    assert short.schedule == schedule_of(**{**given, **expected})


def test_an_optimizer_may_be_a_mapping() -> None:
    stated = {"name": "adamw", "betas": [0.9, 0.95], "weight_decay": 0.1, "learning_rate": 0.01}
    flat = {name: value for name, value in stated.items() if name != "name"}
    assert job(optimizer=stated) == job(optimizer="adamw", **flat)


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (
            {"name": "sgd", "momentum": 0.5},
            "stands beside training.momentum: leave one",
        ),
        (
            {"name": "sgd", "lr": 0.5},
            "is not a field of an optimizer; it may be",
        ),
        ({"momentum": 0.9}, "is required in a mapping"),
    ],
)
def test_a_mapping_that_states_no_optimizer_is_refused(
    optimizer: dict[str, Any], words: str
) -> None:
    given = {"momentum": 0.9} if optimizer.get("momentum") == 0.5 else {}
    (message,) = faults(optimizer=optimizer, **given).values()
    assert words in message


def test_a_fork_may_change_the_optimizer_by_a_mapping() -> None:
    changes: dict[str, Any] = {"training": {"optimizer": {"name": "adam", "eps": 1e-3}}}
    forked = ForkSpec(iteration=0, changes=changes).applied_to(job())
    assert (forked.training.optimizer, forked.training.eps) == ("adam", 1e-3)
    changes["training"]["optimizer"]["lr"] = 0.1
    with pytest.raises(ValidationError, match="is not a field of an optimizer"):
        ForkSpec(iteration=0, changes=changes).applied_to(job())


@pytest.mark.parametrize(
    ("optimizer", "group", "words"),
    [
        ("adam", {"momentum": 0.5}, "momentum has no effect with this optimizer"),
        ("sgd", {"frozen": True, "weight_decay": 0}, "has no effect in a frozen group"),
    ],
)
def test_a_group_with_a_rate_that_nothing_reads_is_refused(
    optimizer: str, group: dict[str, Any], words: str
) -> None:
    found = faults(optimizer=optimizer, groups=[{"match": "*", **group}])
    assert words in found["training.groups"]


def test_a_rate_per_group_needs_groups() -> None:
    kind = {"kind": "learning_rate", "per": "group"}
    groups = [{"match": "*.bias", "frozen": True}]
    for accepted in (kind | {"groups": ["0.*"]}, kind):
        stated = fields(groups=groups) | {"hyperparameters": [accepted]}
        assert JobSpec.model_validate(stated).sizes.tensors is None
    for refused in (kind, {**kind, "per": "layer", "groups": ["0.*"]}):
        with pytest.raises(ValidationError, match="groups"):
            JobSpec.model_validate(fields() | {"hyperparameters": [refused]})


@pytest.mark.parametrize("per", ["group", "layer", "model"])
def test_a_fork_keeps_the_groups_that_its_hyperparameters_belong_to(per: str) -> None:
    stated = fields(groups=[{"match": "*.bias"}])
    stated["hyperparameters"] = [{"kind": "learning_rate", "per": per}]
    fork = ForkSpec(iteration=0, changes={"training": {"groups": [{"match": "0.*"}]}})
    if per == "model":
        assert fork.applied_to(JobSpec.model_validate(stated)).training.groups[0].match == "0.*"
        return
    with pytest.raises(ValidationError, match="must stay as they are"):
        fork.applied_to(JobSpec.model_validate(stated))


@pytest.mark.parametrize(
    ("training", "path", "words"),
    [
        ({"clip_norm": 1, "clip_value": 1}, "clip_value", "must be null beside clip_norm"),
        ({"nesterov": True, "optimizer": "adam"}, "nesterov", "has no effect with adam"),
        ({"optimizer": "custom"}, "optimizer", "a built-in problem has none"),
        ({"optimizer": "rmsprop", "betas": (0.8, 0.9)}, "betas", "has no effect with rmsprop"),
        ({"nesterov": True, "momentum": 0}, "nesterov", "needs a momentum above 0"),
        ({"accumulate": 0}, "accumulate", "must be at least 1, got 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    training: dict[str, Any], path: str, words: str
) -> None:
    found = faults(**training)
    assert words in found[f"training.{path}"]


def test_reversible_refuses_nesterov_by_field() -> None:
    stated = fields(nesterov=True) | {"hypergradient": {"method": "reversible"}}
    with pytest.raises(ValidationError, match="cannot undo a step of Nesterov"):
        JobSpec.model_validate(stated)


def test_a_job_of_an_earlier_release_reads_as_it_was_meant() -> None:
    """Its record has none of the fields of the recipe."""
    recipe = ("schedule", "groups", "accumulate", "clip_norm", "clip_value", "nesterov")
    stored = job().model_dump(mode="json")
    for name in recipe:
        del stored["training"][name]
    assert JobSpec.accepted(stored) == job()
