"""What only a worker can find fails the job with advice, and the service goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drmad_client.errors import JobFailed
from drmad_client.http.client import Client
from drmad_client.http.job_handle import Job
from drmad_client.records.job import JobError
from drmad_client.records.status import JobStatus
from tests.end_to_end.running import WAIT_S
from tests.end_to_end.test_tuning import example


def failure(client: Client, job: Job) -> JobError:
    with pytest.raises(JobFailed) as caught:
        client.jobs.wait(job.id, timeout_s=WAIT_S)
    assert caught.value.job.status is JobStatus.FAILED
    error = caught.value.job.error
    assert error is not None
    assert error.message in str(caught.value)
    return error


def small(**changes: Any) -> dict[str, Any]:
    return example("clean-digits.yaml") | {"meta": {"iterations": 1}} | changes


def test_diverged_training_names_step_meta_iteration_and_advice(client: Client) -> None:
    wild = {"steps": 200, "batch_size": 50, "learning_rate": 1000.0}
    l2 = [{"kind": "l2", "init": 5.0}]
    error = failure(client, client.jobs.create(small(training=wild, hyperparameters=l2)))
    assert error.code == "training_diverged"
    assert error.iteration == 0
    assert error.step is not None
    assert 0 < error.step < 200
    assert "meta-iteration 1" in error.message
    assert "lower the learning rate" in error.message
    assert client.jobs.wait(client.jobs.create(small()).id, timeout_s=WAIT_S).best is not None


def test_missing_files_fail_the_first_phase_and_say_which_files_go_where(client: Client) -> None:
    data = {"name": "mnist", "train": 500, "valid": 100, "test": 100, "folder": "/nowhere/at/all"}
    error = failure(client, client.jobs.create(small(problem={"data": data})))
    assert error.code == "problem_invalid"
    assert "/nowhere/at/all" in error.message
    assert error.iteration is None


def test_more_examples_than_the_files_hold_fail_the_first_phase(
    client: Client, data_root: Path
) -> None:
    data = {"name": "mnist", "train": 20_000, "valid": 100, "test": 100}
    data["folder"] = str(data_root / "mnist")
    error = failure(client, client.jobs.create(small(problem={"data": data})))
    assert error.code == "problem_invalid"
    assert "10000" in error.message.replace(",", "").replace(" ", "")


def test_cancel_ends_a_running_job_within_seconds(client: Client) -> None:
    endless = small(training={"steps": 1_000_000, "batch_size": 50})
    job = client.jobs.create(endless)
    for event in client.jobs.events(job.id):
        if event.type == "progress" and event.data["phase"] == "forward":
            client.jobs.cancel(job.id)
            break
    done = list(client.jobs.events(job.id))
    assert done[-1].data["status"] == "cancelled"
    asked = next(e for e in done if e.data.get("status") == "cancelling")
    assert (done[-1].at - asked.at).total_seconds() < 2.0
