"""Groups: the specs of seeds and of a grid, and their table."""

from __future__ import annotations

import math
from typing import Any

import pytest

from drmad_client.records.group import group_rows
from drmad_client.records.job import Best, JobRecord
from drmad_client.records.status import JobStatus
from drmad_client.spec.groups import variants
from drmad_client.spec.job import JobSpec
from drmad_client.spec.text.job_file import BadJobFile
from tests.client import samples

SPEC: dict[str, Any] = {
    "problem": {"data": {"name": "digits"}, "model": {"name": "mlp"}},
    "hyperparameters": [{"kind": "l2"}],
    "tags": {"team": "vision"},
    "seed": 3,
}


def test_a_grid_has_each_combination_under_each_seed() -> None:
    sweep = ["training.learning_rate=0.01,0.1", "problem.model.hidden=[8, 8],[16]"]
    made = [JobSpec.model_validate(each) for each in variants(SPEC, "g", 2, sweep)]
    found = [
        (job.training.learning_rate, job.model_dump()["problem"]["model"]["hidden"], job.seed)
        for job in made
    ]
    assert [(rate, list(hidden), seed) for rate, hidden, seed in found] == [
        (rate, hidden, seed) for rate in (0.01, 0.1) for hidden in ([8, 8], [16]) for seed in (3, 4)
    ]
    assert made[0].tags == {
        "team": "vision",
        "group": "g",
        "sweep.training.learning_rate": "0.01",
        "sweep.problem.model.hidden": "[8, 8]",
    }
    assert SPEC["tags"] == {"team": "vision"}


@pytest.mark.parametrize(
    ("seeds", "sweep", "words"),
    [
        (1, ["training.steps"], "--sweep takes path=value,value"),
        (1, ["training.steps="], "--sweep takes path=value,value"),
        (1, ["seed=1", "seed=2"], "sweeps each field once"),
        (101, [], "1 to 100 jobs"),
        (20, ["training.steps=1,2,3,4,5,6"], "got 120 jobs"),
        (1, ["hyperparameters[4].init=1"], "must be below the length of the list"),
    ],
)
def test_a_wrong_sweep_is_refused(seeds: int, sweep: list[str], words: str) -> None:
    with pytest.raises(BadJobFile) as refused:
        variants(SPEC, "g", seeds, sweep)
    assert words in str(refused.value)


def _job(number: int, loss: float | None, rate: str) -> JobRecord:
    status = JobStatus.FAILED if loss is None else JobStatus.SUCCEEDED
    best = None if loss is None else Best(iteration=0, validation_loss=loss)
    tags = {"group": "g", "sweep.training.learning_rate": rate}
    job_id = f"{samples.ID[:-2]}{number:02}"
    return samples.job(status).model_copy(update={"id": job_id, "best": best, "tags": tags})


def test_a_row_has_the_mean_over_the_seeds_and_its_interval() -> None:
    jobs = [_job(3, 4.0, "1"), _job(0, 1.0, "1"), _job(1, None, "1"), _job(2, 2.0, "0.1")]
    first, second = group_rows(jobs)
    assert first.setting == {"training.learning_rate": "1"}
    assert first.jobs == [jobs[1].id, jobs[2].id, jobs[0].id]
    assert (first.succeeded, first.mean) == (2, 2.5)
    # Student's t at 97.5 % with one degree of freedom is tan(0.475 pi), and the error is 1.5.
    half = math.tan(0.475 * math.pi) * 1.5
    assert (first.low, first.high) == pytest.approx((2.5 - half, 2.5 + half), rel=1e-5)
    assert (second.mean, second.low, second.high) == (2.0, None, None)
