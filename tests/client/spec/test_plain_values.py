"""What comes from Python and from files: NumPy's scalars, other objects, repeated keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drmad_client.errors import UnprocessableEntity
from drmad_client.http.protocol import calls
from drmad_client.spec.job import JobSpec
from drmad_client.spec.text import json_text
from drmad_client.spec.text.job_file import BadJobFile, assign, read

SPEC: dict[str, Any] = {
    "problem": {
        "entrypoint": "my_problem:build",
        "code": "sha256:" + "0" * 64,
        "options": {"units": np.int64(3), "rates": [np.float32(0.5), np.bool_(True)]},
    },
    "hyperparameters": [{"kind": "l2", "init": np.float64(-3)}],
    "training": {"steps": np.uint8(20), "learning_rate": np.float32(0.25)},
    "seed": np.array(7)[()],
}


def test_scalars_of_numpy_are_numbers_on_the_wire_and_in_a_spec() -> None:
    body = calls.create(SPEC, "key").body
    assert isinstance(body, bytes)
    sent = json.loads(body)
    assert sent["problem"]["options"] == {"units": 3, "rates": [0.5, True]}
    assert (sent["training"], sent["seed"]) == ({"steps": 20, "learning_rate": 0.25}, 7)
    assert JobSpec.model_validate(sent) == JobSpec.model_validate(SPEC)
    assert calls.fork("job_1", 0, {"meta": {"learning_rate": np.float32(0.5)}}).body


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"training": {"steps": object()}}, "training.steps", "got an object of object"),
        ({"hyperparameters": [{"init": np.zeros(2)}]}, "hyperparameters[0].init", ".tolist()"),
        ({"tags": {"a": {"b": object}}}, "tags.a.b", "got an object of type"),
        ({"problem": {"options": {"f": len}}}, "problem.options.f", "builtin_function"),
        ({"tags": {(1, 2): "x"}}, "tags", "must have texts as keys"),
    ],
)
def test_another_object_is_refused_by_its_field(changes: Any, path: str, words: str) -> None:
    with pytest.raises(UnprocessableEntity) as refused:
        calls.create(SPEC | changes, "key")
    (error,) = refused.value.errors
    assert error.path == path
    assert words in error.message


def test_a_number_that_is_none_reaches_the_service_as_such() -> None:
    assert b"NaN" in (calls.create(SPEC | {"timeout_s": float("nan")}, "key").body or b"")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("job.yaml", "name: a\nseed: 1\nname: b\n", "line 3: the key 'name' stands in line 1"),
        ("job.yaml", "tags:\n  a: x\n  b: y\n  a: z\n", "line 4: the key 'a' stands in line 2"),
        ("job.yaml", "hyperparameters:\n- {kind: l2,\n   kind: l1}\n", "line 3: the key 'kind'"),
        ("job.json", '{"name": "a",\n"seed": 1,\n"name": "b"}', "line 3: the key 'name' of line 3"),
        ("job.json", '{"tags": {"\\u0061": "x", "a": "y"}}', "line 1: the key 'a' of line 1"),
    ],
)
def test_a_repeated_key_is_an_error_with_its_line(
    name: str, text: str, words: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(BadJobFile) as refused:
        read(file)
    assert words in str(refused.value)


def test_equal_keys_of_several_objects_and_merged_keys_are_no_repetition(tmp_path: Path) -> None:
    assert json_text.load('[{"a": {"a": 1}}, {"a": "{\\"a\\": 1, \\"a\\": 2}"}]') == [
        {"a": {"a": 1}},
        {"a": '{"a": 1, "a": 2}'},
    ]
    file = tmp_path / "job.yaml"
    file.write_text("meta: &m {patience: 3}\nsearch: {<<: *m, trials: 4, patience: 5}\n")
    assert read(file)["search"] == {"patience": 5, "trials": 4}


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("tags.seed=3", "3"),
        ("tags.version=1.10", "1.10"),
        ("tags.day=2026-11-30", "2026-11-30"),
        ("tags.on=true", "true"),
        ("tags.hex=0x1f", "0x1f"),
    ],
)
def test_a_tag_is_a_text(assignment: str, value: str) -> None:
    job: dict[str, Any] = {}
    assign(job, assignment)
    assert list(job["tags"].values()) == [value]


def test_a_name_is_a_text_and_a_number_stays_one(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: 2026\nseed: 3\ntags: {seed: 3}\n")
    assert read(file) == {"name": "2026", "seed": 3, "tags": {"seed": "3"}}
