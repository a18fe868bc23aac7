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
