"""Jobs of mode online: their defaults, what they refuse, and what their forks may change."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from drmad_client.records.field_errors import field_errors
from drmad_client.spec.fork import ForkSpec
from drmad_client.spec.job import JobSpec
from drmad_client.spec.outer.meta import MetaSpec


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "problem": {"data": {"name": "digits"}},
        "hyperparameters": [{"kind": "sample_weight"}],
        "training": {"steps": 90},
        "meta": {"mode": "online"},
    } | changes


def misfits(**changes: Any) -> dict[str, str]:
    body = fields(**changes)
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(body)
    return {error.path: error.message for error in field_errors(caught.value.errors(), body)}


def test_an_online_job_has_the_windows_of_one_run_and_neither_rollback_nor_confirmation() -> None:
    meta = JobSpec.model_validate(fields()).meta
    assert (meta.iterations, meta.rollback_tolerance, meta.confirmation) == (9, None, 0.0)
    stated = JobSpec.model_validate(fields(meta=MetaSpec(mode="online", window=30, iterations=6)))
    assert stated.meta.iterations == 6
    whole = JobSpec.model_validate_json(stated.model_dump_json())
    assert whole == stated
    assert JobSpec.model_validate(fields(meta={})).meta.iterations == 30


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"meta": {"window": 20}}, "meta.window", "no effect with mode: restart, got 20"),
        ({"meta": {"checkpoint_every": 3}}, "meta.checkpoint_every", "set mode: online"),
        ({"meta": {"mode": "online", "window": 40}}, "meta.window", "take 80 or 120 steps"),
        (
            {"meta": {"mode": "online", "rollback_tolerance": 5.0}},
            "meta.rollback_tolerance",
            "are not repeated, got 5",
        ),
        ({"meta": {"mode": "online", "confirmation": 0.1}}, "meta.confirmation", "got 0.1"),
        ({"meta": {"mode": "online", "optimizer": "auto"}}, "meta.optimizer", "got auto"),
        ({"meta": {"mode": "online", "judging_share": 0.2}}, "meta.judging_share", "got 0.2"),
        ({"replicas": {"count": 2, "mode": "async"}}, "replicas.mode", "must be sync"),
        ({"replicas": {"count": 2, "wait_for": 1}}, "replicas.wait_for", "must be null"),
        ({"hypergradient": {"method": "reversible"}}, "hypergradient.method", "stored is exact"),
        (
            {"hypergradient": {"method": "replay", "horizon": 20}},
            "hypergradient.horizon",
            "between 1 and",
        ),
        (
            {
                "hypergradient": {"method": "stored", "horizon": 61},
                "meta": {"mode": "online", "checkpoint_every": 6},
            },
            "hypergradient.horizon",
            "6, got 6 by a horizon of 61",
        ),
        (
            {"hyperparameters": [{"kind": "init_scale"}]},
            "hyperparameters[0].kind",
            "draws the weights once",
        ),
        (
            {"hyperparameters": [{"kind": "learning_rate"}]},
            "hyperparameters[0].per",
            "has no later use",
        ),
    ],
)
def test_what_does_not_fit_the_mode_is_refused_by_field(
    changes: dict[str, Any], path: str, words: str
) -> None:
    assert words in misfits(**changes)[path]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"meta": {"mode": "restart"}}, "changes.meta.mode"),
        ({"meta": {"window": 30}}, "changes.meta.window"),
        ({"training": {"learning_rate": 0.01}}, "changes.training"),
        ({"replicas": {"count": 2}}, "changes.replicas"),
        ({"seed": 5}, "changes.seed"),
    ],
)
def test_a_fork_of_an_online_job_keeps_its_training_run(changes: dict[str, Any], path: str) -> None:
    spec = JobSpec.model_validate(fields())
    fork = ForkSpec(iteration=3, changes=changes)
    with pytest.raises(ValidationError) as caught:
        fork.applied_to(spec)
    assert path in [error.path for error in field_errors(caught.value.errors(), fork.model_dump())]
    outer = ForkSpec(iteration=3, changes={"meta": {"learning_rate": 0.1}}).applied_to(spec)
    assert (outer.meta.learning_rate, outer.meta.iterations) == (0.1, 9)
