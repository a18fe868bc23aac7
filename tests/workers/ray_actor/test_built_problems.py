"""A worker builds a problem once for all trials of a search that state the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drmad_client.spec.job import JobSpec
from drmad_workers import spec_adapter
from drmad_workers.ray_actor import replica_worker
from drmad_workers.ray_actor.messages import TrialResult
from drmad_workers.ray_actor.side_methods import SideMethods

SPEC: dict[str, Any] = {
    "problem": {
        "model": {"name": "mlp", "hidden": [8]},
        "data": {"name": "digits", "train": 100, "valid": 50, "test": 0, "label_noise": 0.2},
    },
    "training": {"steps": 10, "batch_size": 20},
    "hyperparameters": [{"kind": "l2"}],
}


class SilentOutput:
    """In place of the output of a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def complete(self) -> None: ...


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[JobSpec]:
    """The specs whose problem was built."""
    monkeypatch.setattr(replica_worker, "Output", SilentOutput)
    monkeypatch.setattr("ray.get_gpu_ids", list)
    specs: list[JobSpec] = []
    build = spec_adapter.problem

    def noted(spec: JobSpec, *arguments: Any) -> Any:
        specs.append(spec)
        return build(spec, *arguments)

    monkeypatch.setattr(spec_adapter, "problem", noted)
    return specs


def worker(folder: Path) -> SideMethods:
    spec = JobSpec.model_validate(SPEC).model_dump_json()
    return SideMethods(spec, [0], 1.0, [], str(folder), None)


def changed(**fields: Any) -> str:
    return JobSpec.model_validate(SPEC | fields).model_dump_json()


def test_trials_share_the_problem_and_give_what_their_own_would(
    built: list[JobSpec], tmp_path: Path
) -> None:
    shared = worker(tmp_path)
    trials = [
        changed(training={"steps": 10, "batch_size": 20, "learning_rate": rate})
        for rate in (0.1, 0.5, 0.1)
    ]
    found = [shared.trial(trial) for trial in trials]
    assert len(built) == 1
    assert found == [worker(tmp_path).trial(trial) for trial in trials]
    assert len(built) == 4
    losses = [each.validation_loss for each in found if isinstance(each, TrialResult)]
    assert losses[0] == losses[2] != losses[1]


def test_a_trial_of_another_problem_builds_its_own_and_leaves_the_jobs(
    built: list[JobSpec], tmp_path: Path
) -> None:
    one = worker(tmp_path)
    one._prepare()
    mine = one._problem
    for hidden in (8, 4, 4, 8):
        problem = SPEC["problem"] | {"model": {"name": "mlp", "hidden": [hidden]}}
        assert isinstance(one.trial(changed(problem=problem)), TrialResult)
    assert [spec.problem.model_dump()["model"]["hidden"] for spec in built] == [[8], [4], [8]]
    assert one._problem is mine
    assert isinstance(one.trial(changed(seed=1)), TrialResult)
    assert len(built) == 4
