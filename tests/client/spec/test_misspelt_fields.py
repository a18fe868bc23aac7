"""Every field of every member of every union, misspelt: the error names it as it was written."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.spec.job import JobSpec
from tests.client import samples

SCHEMA = JobSpec.model_json_schema()
PLACES = {
    ("hyperparameters", 0): "HyperparameterSpec",
    ("hypergradient",): "HypergradientSpec",
    ("training", "schedule"): "ScheduleSpec",
    ("problem", "data"): "DataSpec",
    ("problem", "model"): "ModelSpec",
}


def unions(node: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """Discriminator and members (tag -> name of the schema) of every union below."""
    if isinstance(node, dict):
        if "discriminator" in node and "mapping" in node["discriminator"]:
            mapping = node["discriminator"]["mapping"]
            members = {tag: ref.rpartition("/")[2] for tag, ref in mapping.items()}
            yield node["discriminator"]["propertyName"], members
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from unions(each)


def at(path: tuple[str | int, ...]) -> tuple[str, dict[str, str]]:
    """The union whose members stand at a path of the spec."""
    node: Any = SCHEMA
    for part in path:
        while "$ref" in node:
            node = SCHEMA["$defs"][node["$ref"].rpartition("/")[2]]
        options = [node, *(o for k in ("anyOf", "oneOf", "allOf") for o in node.get(k, []))]
        found = [
            SCHEMA["$defs"][o["$ref"].rpartition("/")[2]] if "$ref" in o else o for o in options
        ]
        node = next(
            o["items"] if isinstance(part, int) else o["properties"][part]
            for o in found
            if (isinstance(part, int) and "items" in o) or part in o.get("properties", {})
        )
    return next(unions(node))


CASES = [
    (path, key, tag, field)
    for path in PLACES
    for key, members in [at(path)]
    for tag, name in members.items()
    for field in SCHEMA["$defs"][name].get("properties", {})
    if field != key
]


@pytest.mark.parametrize(("path", "key", "tag", "field"), CASES)
def test_a_misspelt_field_is_named_as_it_was_written(
    path: tuple[str | int, ...], key: str, tag: str, field: str
) -> None:
    wrong = f"{field[:-1]}q{field[-1]}"
    body: Any = copy.deepcopy(dict(samples.SPEC))
    here = body
    for part in path[:-1]:
        here = here.setdefault(part, {}) if isinstance(part, str) else here[part]
    here[path[-1]] = {key: tag, wrong: 1}
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(body)
    found = {error.path: error.message for error in field_errors(caught.value.errors(), body)}
    written = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in (*path, wrong))
    assert "is not a known field" in found[written.removeprefix(".")], found
    unknown = [each for each, message in found.items() if "not a known field" in message]
    assert unknown == [written.removeprefix(".")]


CODE = {"code": f"sha256:{64 * '0'}", "entrypoint": "my_problem:build"}
RANGE = ("search", "parameters", "training.learning_rate")
GROUP = ("training", "groups", 0)
PARTS: list[tuple[tuple[str | int, ...], str, dict[str, Any]]] = [
    ((), "", {}),
    (("problem",), "CatalogProblem", {"data": {"name": "digits"}}),
    (("problem",), "CodeProblem", CODE),
    (("training",), "TrainingSpec", {}),
    (GROUP, "ParameterGroupSpec", {"match": "*"}),
    (("meta",), "MetaSpec", {}),
    (("search",), "SearchSpec", {"parameters": {"training.learning_rate": {"choices": [1, 2]}}}),
    (RANGE, "SearchRange", {"low": 0.1, "high": 1.0}),
    (RANGE, "SearchChoices", {"choices": [0.1, 1.0]}),
    (("start",), "StartSpec", {"job": samples.ID}),
    (("retrain",), "RetrainSpec", {}),
    (("replicas",), "ReplicasSpec", {}),
    (("resources",), "ResourcesSpec", {}),
    (("retry",), "RetrySpec", {}),
    (("preflight",), "PreflightSpec", {}),
    (("notify",), "NotifySpec", {}),
    (("attribution",), "AttributionSpec", {}),
]
"""Every other part: its path, its schema, and what it needs."""


def test_every_schema_of_a_job_is_among_the_parts_or_the_unions() -> None:
    members = {name for path in PLACES for name in at(path)[1].values()}
    assert members | {name for _, name, _ in PARTS if name} == set(SCHEMA["$defs"])


@pytest.mark.parametrize(
    ("path", "needed", "field"),
    [
        pytest.param(path, needed, field, id=f"{name or 'JobSpec'}.{field}")
        for path, name, needed in PARTS
        for field in (SCHEMA["$defs"][name] if name else SCHEMA)["properties"]
    ],
)
@pytest.mark.parametrize("value", [1, {}, "text", None, [{"deep": 1}]], ids=repr)
def test_a_misspelt_field_of_any_part_is_named(
    path: tuple[str | int, ...], needed: dict[str, Any], field: str, value: Any
) -> None:
    """Whether the field comes in addition to the right ones, or in place of the one it means."""
    wrong = f"{field[:-1]}q{field[-1]}"
    for without in (field, None):
        body: Any = copy.deepcopy(dict(samples.SPEC))
        if not path:
            body = {name: part for name, part in body.items() if name != without} | {wrong: value}
        here = body
        for number, part in enumerate(path):
            last = number + 1 == len(path)
            own = {name: given for name, given in needed.items() if name != without}
            following = None if last else path[number + 1]
            empty: Any = own | {wrong: value} if last else [None] if following == 0 else {}
            if isinstance(part, int) or last:
                here[part] = empty
            here = here[part] if isinstance(part, int) else here.setdefault(part, empty)
        with pytest.raises(ValidationError) as caught:
            JobSpec.model_validate(body)
        found = {error.path: error.message for error in field_errors(caught.value.errors(), body)}
        unknown = [each for each, message in found.items() if "not a known field" in message]
        assert len(unknown) == 1, found
        assert unknown[0].endswith(wrong), found
        for part in path:
            assert str(part) in unknown[0]
