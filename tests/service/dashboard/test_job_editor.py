from __future__ import annotations

from typing import Any

import pytest
import yaml

from drmad_client.records.job import Best
from drmad_client.spec.job import JobSpec
from drmad_service.dashboard import comparison, job_editor
from drmad_service.dashboard.job_editor import Draft, validate
from drmad_service.dashboard.rendering import examples
from tests.client import samples

JOB: dict[str, Any] = {
    "problem": {"data": {"name": "digits"}},
    "hyperparameters": [{"kind": "l2", "init": -4.0}, {"kind": "sample_weight"}],
    "meta": {"iterations": 7},
}


@pytest.mark.parametrize("name", examples())
def test_every_example_is_a_job(name: str) -> None:
    validated = validate(Draft(text=examples()[name]))
    assert validated.findings == []
    assert validated.job is not None


def test_a_bare_off_is_a_word_where_the_field_takes_one() -> None:
    validated = validate(Draft(text=job_editor.to_yaml(JOB) + "replicas: {count: 2, batched: off}"))
    assert validated.findings == []
    assert validated.job is not None
    assert validated.job["replicas"]["batched"] == "off"


def test_findings_name_field_line_and_advice() -> None:
    text = "name: x\nproblem:\n  data: {name: digitz}\nhyperparameters:\n- kind: l2\n  inti: 3\n"
    found = {f.path: (f.line, f.message) for f in validate(Draft(text=text)).findings}
    assert found["problem.data.name"][0] == 3
    assert found["hyperparameters[0].inti"] == (
        6,
        "is not a known field; remove it or correct its spelling",
    )
    (missing,) = validate(Draft(text="problem: {data: {name: digits}}")).findings
    assert (missing.path, missing.line) == ("hyperparameters", None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "expected"),
        ("- 1", "expected the fields of a job"),
        ("", "expected the fields of a job"),
        ("a: &x [1, 2]\nb: *x", "aliases"),
        ("[" * 199_000, "nested too deeply"),
        ("- " * 3000, "nested too deeply"),
        ("x" * 300_000, "expected at most 200,000 characters"),
        ("a: !!python/object:os.system x", "constructor"),
        ("a: \x01", "unacceptable character"),
    ],
)
def test_text_that_is_no_job_is_a_finding_and_is_never_executed(text: str, words: str) -> None:
    validated = validate(Draft(text=text))
    assert validated.job is None
    assert words in validated.findings[0].message


@pytest.mark.parametrize(
    "text", ["1: 2", "a: 2026-11-23", "a: .inf", "? [1, 2]\n: 3", "a: !!binary YQ=="]
)
def test_yaml_values_outside_json_are_findings(text: str) -> None:
    assert validate(Draft(text=text)).findings != []


SEARCH = {"parameters": {"training.learning_rate": {"low": 0.01, "high": 1.0}}}


@pytest.mark.parametrize("more", [{}, {"search": SEARCH}])
def test_a_job_without_its_defaults_is_the_same_job(more: dict[str, Any]) -> None:
    spec = JobSpec.model_validate(JOB | more)
    fields = job_editor.without_defaults(spec)
    assert fields == JOB | more
    assert JobSpec.model_validate(yaml.safe_load(job_editor.to_yaml(fields))) == spec


def test_changes_are_nested_like_a_job() -> None:
    before = JobSpec.model_validate(JOB).model_dump(mode="json")
    after = JobSpec.model_validate(JOB | {"seed": 3, "meta": {"iterations": 9}})
    assert job_editor.changes(before, before) == {}
    assert job_editor.changes(before, after.model_dump(mode="json")) == {
        "seed": 3,
        "meta": {"iterations": 9},
    }


def test_a_comparison_holds_only_the_fields_that_differ() -> None:
    specs = [JobSpec.model_validate(JOB), JobSpec.model_validate(JOB | {"tags": {"a": "<b>"}})]
    assert comparison.differences(specs) == {"tags.a": ["", "<b>"]}


def test_nulls_and_defaults_of_a_method_are_no_differences() -> None:
    shortcut = {"method": "shortcut", "horizon": 30}
    specs = [
        JobSpec.model_validate(JOB | {"hypergradient": method})
        for method in ({"method": "one_step"}, {"method": "replay"}, shortcut)
    ]
    found = comparison.differences(specs)
    assert found == {
        "hypergradient.method": ["one_step", "replay", "shortcut"],
        "hypergradient.horizon": ["", "", "30"],
    }


def test_the_lowest_loss_is_marked_among_jobs_on_the_same_data() -> None:
    found = {}
    for name, data, loss in (("a", "digits", 0.3), ("b", "digits", 0.2), ("c", "mnist", 0.1)):
        best = Best(iteration=0, validation_loss=loss, metrics={})
        spec = JobSpec.model_validate(JOB | {"name": name, "problem": {"data": {"name": data}}})
        found[name] = samples.job(best=best).model_copy(update={"id": name, "spec": spec})
    assert comparison.best(list(found.values())) == {"b"}
    assert comparison.best([found["b"], found["c"]]) == set()


TEXT = """\
# my job
name: mine  # a comment
problem: {model: {name: mlp, hidden: [50, 50]}, data: {name: digits}}
hyperparameters:
- kind: l2
  init: -4.0  # start low
  # learned per unit
  per: unit
- kind: sample_weight

training:
  steps: 400
  learning_rate: 1.0   # as in the paper
  batch_size: 50
# the end
"""


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        (("training", "steps"), 60, "steps: 400", "steps: 60"),
        (("name",), "yours: 2", "name: mine  #", "name: 'yours: 2'  #"),
        (("hyperparameters", 0, "init"), -5.5, "init: -4.0  #", "init: -5.5  #"),
        (("problem", "data", "name"), "mnist", "data: {name: digits}", "data: {name: mnist}"),
        (("problem", "data", "train"), 9, "{name: digits}", "{name: digits, train: 9}"),
        (("problem", "model", "hidden"), [50, 50, 7], "[50, 50]", "[50, 50, 7]"),
        (("training", "momentum"), 0.9, "batch_size: 50\n", "batch_size: 50\n  momentum: 0.9\n"),
        (("training", "learning_rate"), None, "  learning_rate: 1.0   # as in the paper\n", ""),
        (("hyperparameters", 0, "per"), None, "  per: unit\n", ""),
        (("problem", "model", "hidden"), None, "mlp, hidden: [50, 50]}", "mlp}"),
        (("seed",), 3, "batch_size: 50\n", "batch_size: 50\nseed: 3\n"),
    ],
)
def test_a_field_of_the_form_changes_its_place_in_the_text_alone(
    path: tuple[Any, ...], value: Any, old: str, new: str
) -> None:
    job = yaml.safe_load(TEXT)
    part = job
    for step in path[:-1]:
        part = part[step]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    assert validate(Draft(job=job, text=TEXT)).text == TEXT.replace(old, new)


def test_an_edit_that_cannot_be_placed_writes_the_whole_job() -> None:
    job = yaml.safe_load(TEXT)
    for changed in (
        job | {"hyperparameters": [{"kind": "sample_weight"}]},
        job | {"hyperparameters": [*job["hyperparameters"], {"kind": "momentum", "init": 0.5}]},
        {"problem": job["problem"]},
    ):
        text = validate(Draft(job=changed, text=TEXT)).text
        assert yaml.safe_load(text) == changed
    assert yaml.safe_load(validate(Draft(job=job, text="- a list")).text) == job
