"""A home that the previous version wrote: its jobs are read, and its paused job goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from drmad_client.records.job import JobStatus
from tests.end_to_end.running import Service
from tests.service.homes import SCHEMA_2, unpack

BY_THE_PREVIOUS_VERSION = {4: 1.3067702054977417, 5: 1.1002999544143677}
"""Validation losses of the paused job, when the version that wrote the home resumed it."""


def test_paused_job_of_the_previous_version_resumes_as_that_version_would(tmp_path: Path) -> None:
    service = Service(unpack(2, tmp_path / "home"), "--cpus", "1")
    service.start()
    job_id = SCHEMA_2["paused"]
    with service.client() as client:
        assert {job.id for job in client.jobs.list(limit=50)} == set(SCHEMA_2.values())
        for other in SCHEMA_2.values():
            job = client.jobs.retrieve(other)
            assert len(list(client.jobs.history(other))) == job.progress.iteration
            assert client.jobs.hyperparameters(other).keys() == {
                h.name for h in job.hyperparameters
            }
        before = list(client.jobs.history(job_id))
        client.jobs.resume(job_id)
        deadline = time.monotonic() + 120
        while client.jobs.retrieve(job_id).progress.iteration < 6:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        job = client.jobs.cancel(job_id)
        history = list(client.jobs.history(job_id))
    service.interrupt()
    assert job.status in (JobStatus.CANCELLING, JobStatus.CANCELLED)
    assert history[:4] == before
    found = {record.iteration: record.validation_loss for record in history[4:6]}
    assert found == pytest.approx(BY_THE_PREVIOUS_VERSION, rel=1e-5)
    choice = history[5].choice
    assert choice is not None
    assert (choice["reason"], choice["method"]["method"]) == ("scheduled", "shortcut")
