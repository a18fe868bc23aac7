"""Jobs of kind attribution: what they state, and what they may not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.spec.job import JobSpec
from tests.client import samples

SPEC = {**samples.SPEC, "kind": "attribution", "hyperparameters": []}


def test_an_attribution_is_one_round_without_outer_steps_and_reads_as_it_was_written() -> None:
    spec = JobSpec.model_validate({name: SPEC[name] for name in ("kind", "problem")})
    assert (spec.meta.iterations, spec.meta.confirmation) == (1, 0.0)
    assert spec.hyperparameters == []
    assert spec.not_batched is not None
    assert JobSpec.model_validate(spec.model_dump()) == spec
    assert JobSpec.accepted(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"hyperparameters": [{"kind": "l2"}]}, "hyperparameters", "weights of the training"),
        ({"meta": {"iterations": 3}}, "meta.iterations", "no outer steps, got 3"),
        ({"hypergradient": {"method": "one_step"}}, "hypergradient.method", "auto, replay"),
        (
            {"replicas": {"count": 2, "mode": "async"}},
            "replicas.mode",
            "must be sync for an attribution",
        ),
        (
            {"replicas": {"count": 2, "data": "disjoint"}},
            "replicas.data",
            "must be shared for an attribution",
        ),
        ({"attribution": {"queries": ["rows:x"]}}, "attribution.queries[0]", "numbers and ranges"),
        ({"attribution": {"queries": []}}, "attribution.queries", "at least 1, got 0"),
        ({"attribution": {"left_out": 1.0}}, "attribution.left_out", "must be below 1"),
    ],
)
def test_what_an_attribution_does_not_take_is_refused_by_field(
    change: dict[str, Any], path: str, words: str
) -> None:
    fields = {"kind": SPEC["kind"], "problem": SPEC["problem"]} | change
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(fields)
    errors = field_errors(caught.value.errors(), fields)
    assert [error.path for error in errors] == [path]
    assert words in errors[0].message


def test_a_tuning_job_has_hyperparameters_and_no_queries() -> None:
    with pytest.raises(ValidationError, match="at least one hyperparameter to tune"):
        JobSpec.model_validate({"problem": SPEC["problem"]})
    with pytest.raises(ValidationError, match="belongs to kind attribution"):
        JobSpec.model_validate(samples.SPEC | {"attribution": {}})
