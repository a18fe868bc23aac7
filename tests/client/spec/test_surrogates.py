"""Half of a surrogate pair, which JSON can state and no UTF-8 can hold, is refused by its field."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.spec.job import JobSpec
from drmad_client.spec.labels import LabelsSpec
from tests.client import samples
from tests.client.spec.test_misspelt_fields import CASES, PARTS, SCHEMA

HALF = "\ud800"
VALUES = (HALF, f"a{HALF}b", [HALF], {HALF: 1}, {"x": HALF}, {"x": [HALF]}, [{HALF: 1}])
FIELDS = [
    (path, needed, field)
    for path, name, needed in PARTS
    for field in (SCHEMA["$defs"][name] if name else SCHEMA)["properties"]
] + [(path, {key: tag}, field) for path, key, tag, field in CASES]


@pytest.mark.parametrize(("path", "needed", "field"), FIELDS)
def test_every_field_of_a_job_refuses_it_with_a_message_that_can_be_sent(
    path: tuple[str | int, ...], needed: dict[str, Any], field: str
) -> None:
    for value in VALUES:
        body: Any = copy.deepcopy(dict(samples.SPEC))
        part: Any = needed | {field: value}
        for place in reversed(path):
            part = [part] if isinstance(place, int) else {place: part}
        body |= part
        with pytest.raises(ValidationError) as caught:
            JobSpec.model_validate(body)
        found = field_errors(caught.value.errors(), body)
        TypeAdapter(list[Any]).dump_json([each.model_dump() for each in found])


@pytest.mark.parametrize("labels", [{"name": HALF}, {"note": HALF}, {"tags": {"a": HALF}}])
def test_labels_refuse_it_too(labels: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LabelsSpec.model_validate(labels)
