"""What a fork keeps of the state of the forked job, and what it drops because of a change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from drmad_client.spec.job import JobSpec
from drmad_service.store.jobs.forked_state import forked_scalars
from tests.client.records.version_1 import SCALARS_1

SCALARS: dict[str, Any] = {
    "version": 4,
    "iteration": 7,
    "best_iteration": 6,
    "best_validation_loss": 0.5,
    "best_error": 0.125,
    "best_bound": 0.75,
    "reference_loss": 0.5,
    "stale": 2,
    "recent_losses": [0.7, 0.6, 0.5],
    "recent_metrics": [{}, {}, {"test_error": 0.25}],
    "start_figures": {"validation_loss": 1.0, "fitted_loss": 0.75},
    "runs": 17.5,
    "step_scale": 0.25,
    "rollbacks": 0,
    "choice": {"method": {"method": "shortcut", "horizon": 10}},
}
OWN: dict[str, Any] = {
    "best_iteration": None,
    "best_validation_loss": None,
    "best_error": None,
    "best_bound": None,
    "runs": 0.0,
}
ANEW: dict[str, Any] = {
    "reference_loss": None,
    "stale": 0,
    "recent_losses": [],
    "recent_metrics": [],
    "start_figures": None,
}
PROBES = {"choice": None}


def job(**changes: Any) -> JobSpec:
    fields = {
        "problem": {"data": {"name": "digits"}},
        "hyperparameters": [{"kind": "learning_rate", "per": "model"}],
        "training": {"steps": 100},
        "replicas": {"count": 2},
    }
    return JobSpec.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("changes", "dropped", "sentences"),
    [
        pytest.param({}, {}, [], id="nothing"),
        pytest.param(
            {
                "name": "other",
                "priority": 3,
                "resources": {"cpus": 2.0},
                "meta": {"iterations": 99},
                "replicas": {"count": 2, "placement": "spread", "batched": "auto"},
            },
            {},
            [],
            id="nothing of influence",
        ),
        pytest.param(
            {"training": {"steps": 50}},
            PROBES | ANEW,
            [
                "auto probes again, because training changed",
                "the validation losses of the forked job do not count, because training changed: "
                "meta.patience and meta.rollback_tolerance begin anew",
            ],
            id="steps",
        ),
        pytest.param(
            {"meta": {"judging_share": 0.2}},
            PROBES | ANEW,
            ["auto probes again, because meta.judging_share changed", "do not count"],
            id="judges",
        ),
        pytest.param(
            {"seed": 1, "replicas": {"count": 3}},
            PROBES | ANEW,
            ["auto probes again, because replicas and seed changed", "do not count"],
            id="replicas",
        ),
        pytest.param(
            {"hypergradient": {"method": "auto", "hvp": "finite_difference"}},
            PROBES,
            ["auto probes again, because hypergradient changed"],
            id="hvp",
        ),
        pytest.param({"hypergradient": {"method": "replay"}}, PROBES, [], id="method"),
        pytest.param(
            {"meta": {"learning_rate": 0.1}},
            {"step_scale": 1.0},
            [
                "the outer step has its full length, because meta.learning_rate changed: "
                "rollbacks had scaled it by 0.25"
            ],
            id="outer learning rate",
        ),
        pytest.param(
            {"meta": {"optimizer": "rmsprop"}},
            {"step_scale": 1.0},
            ["has its full length", "rmsprop begins with moments of zero"],
            id="outer optimizer",
        ),
        pytest.param(
            {"meta": {"optimizer": "sign"}},
            {"step_scale": 1.0},
            ["has its full length"],
            id="outer optimizer without memory",
        ),
        pytest.param(
            {"meta": {"patience": 3}},
            {"stale": 0},
            ["meta.patience counts anew, because it changed"],
            id="patience",
        ),
        pytest.param(
            {"training": {"steps": 100, "optimizer": "adam"}},
            PROBES | ANEW,
            [
                "auto probes again",
                "do not count",
                "learning_rate keeps its values, which were tuned under sgd",
            ],
            id="inner optimizer",
        ),
    ],
)
def test_state_is_kept_except_for_what_a_change_invalidates(
    changes: dict[str, Any], dropped: dict[str, Any], sentences: list[str]
) -> None:
    kept, adapted = forked_scalars(SCALARS, job(), job(**changes))
    assert kept == SCALARS | OWN | dropped
    assert len(adapted) == len(sentences)
    for sentence, words in zip(adapted, sentences, strict=True):
        assert words in sentence


def test_nothing_is_said_of_what_the_state_does_not_hold() -> None:
    at_the_start = SCALARS | {"choice": None, "step_scale": 1.0} | ANEW
    kept, adapted = forked_scalars(
        at_the_start, job(), job(seed=1, meta={"learning_rate": 0.1, "patience": 3})
    )
    assert kept == at_the_start | OWN
    assert adapted == []


def test_a_state_of_an_earlier_release_has_spent_nothing_of_the_fork() -> None:
    kept, _ = forked_scalars(json.loads(json.dumps(SCALARS_1)), job(), job())
    assert (kept["version"], kept["runs"], kept["recent_metrics"]) == (4, 0.0, [{}, {}, {}])
