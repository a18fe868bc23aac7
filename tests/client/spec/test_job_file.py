from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drmad_client.spec.job import JobSpec
from drmad_client.spec.text import job_file
from drmad_client.spec.text.job_file import BadJobFile


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_yaml_and_json_are_read_alike(tmp_path: Path) -> None:
    expected = {"name": "x", "training": {"steps": 5}}
    yaml = write(tmp_path, "job.yaml", "name: x\ntraining: {steps: 5}\n")
    json = write(tmp_path, "job.json", '{"name": "x",\t"training": {"steps": 5}}')
    assert job_file.read(yaml) == job_file.read(json) == expected


def test_a_bare_word_is_a_boolean_only_where_the_field_takes_one(tmp_path: Path) -> None:
    text = """
name: yes
tags: {final: no}
problem:
  data: {name: digits, label_noise: 0.5, drop_noisy: on}
hyperparameters: [{kind: sample_weight}]
replicas: {batched: off}
"""
    job = job_file.read(write(tmp_path, "job.yaml", text))
    assert job["name"] == "yes"
    assert job["tags"] == {"final": "no"}
    assert job["problem"]["data"]["drop_noisy"] is True
    assert job["replicas"] == {"batched": "off"}
    assert JobSpec.model_validate(job).replicas.batched == "off"


def test_options_of_the_users_code_keep_their_booleans(tmp_path: Path) -> None:
    text = "problem: {entrypoint: 'm:f', options: {augment: no, nested: [{shuffle: on}]}}"
    options = job_file.read(write(tmp_path, "job.yaml", text))["problem"]["options"]
    assert options == {"augment": False, "nested": [{"shuffle": True}]}


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("replicas.batched=off", {"replicas": {"batched": "off"}}),
        ("replicas.batched=true", {"replicas": {"batched": True}}),
        ("problem.options.augment=off", {"problem": {"options": {"augment": False}}}),
        (
            "search.parameters={x: {choices: [on]}}",
            {"search": {"parameters": {"x": {"choices": [True]}}}},
        ),
        ("hypergradient.contraction=on", {"hypergradient": {"contraction": True}}),
    ],
)
def test_a_word_is_set_alike(assignment: str, expected: dict[str, Any]) -> None:
    job: dict[str, Any] = {}
    job_file.assign(job, assignment)
    assert job == expected


ALIASES = "a: &a [" + "x," * 1000 + "]\nb: [" + "*a," * 1000 + "]"
"""A million values in 4 kB."""


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("job.yaml", "name: [x\ntraining: 5", "job.yaml, line 2: "),
        ("job.json", '{"name":\n', "job.json, line 2: "),
        ("job.yaml", b"name: \xff", "must be UTF-8 text, and byte 6"),
        ("job.yaml", "- one", "must hold the fields of a job, .* got a list"),
        ("job.yaml", "", "must hold the fields of a job, .* got nothing"),
        ("job.yaml", "a: \x07", "special characters"),
        (
            "job.yaml",
            "\nsearch: &a {parameters: {x: *a}}",
            "line 2: an alias stands in what it names",
        ),
        ("job.yaml", "[" * 5000 + "]" * 5000, "the values are nested too deep"),
        ("job.yaml", ALIASES, "at most 1,000,000 values are read, and its aliases make it 1,0"),
        ("job.json", "[" * 100_000, "the values are nested too deep"),
        ("job.json", '{"seed": ' + "1" * 5000 + "}", "a number is too long"),
    ],
)
def test_a_file_that_is_no_job_is_explained(
    tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    with pytest.raises(BadJobFile, match=words):
        job_file.read(write(tmp_path, name, content))


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BadJobFile, match=r"cannot read .*job\.yaml: No such file"):
        job_file.read(tmp_path / "job.yaml")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("training.steps=200", {"training": {"steps": 200}, "list": [{"init": 1}]}),
        ("list[0].init=-6.5", {"training": {"steps": 5}, "list": [{"init": -6.5}]}),
        ("list.0.init=null", {"training": {"steps": 5}, "list": [{"init": None}]}),
        ("list[0]={kind: l2}", {"training": {"steps": 5}, "list": [{"kind": "l2"}]}),
        ("a.b=x=y", {"training": {"steps": 5}, "list": [{"init": 1}], "a": {"b": "x=y"}}),
    ],
)
def test_a_field_is_set_by_its_path(assignment: str, expected: dict[str, Any]) -> None:
    job = {"training": {"steps": 5}, "list": [{"init": 1}]}
    job_file.assign(job, assignment)
    assert job == expected


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("training.steps", "takes path=value"),
        ("=5", "takes path=value"),
        ("a..b=5", "takes path=value"),
        ("list[1].init=5", r"\[1\] must be below the length of the list, 1"),
        ("list[1]=5", r"the index \[1\] must be below"),
        ("list.first=5", "a list has no part 'first'"),
        ("name.first=5", "text has no part 'first'"),
        ("name=[", "the value must be YAML"),
    ],
)
def test_what_cannot_be_set_is_explained(assignment: str, words: str) -> None:
    with pytest.raises(BadJobFile, match=words):
        job_file.assign({"name": "x", "list": [{"init": 1}]}, assignment)
