"""A home that the previous version wrote: its jobs are read, and its paused job goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from drmad_client.http.client import Client
from drmad_client.records.meta_iteration import MetaIteration
from tests.end_to_end.running import Service
from tests.service.homes import SCHEMA_2, unpack

BY_THE_PREVIOUS_VERSION = {4: 1.3067702054977417, 5: 1.1002999544143677}
"""Validation losses of the paused job, when the version that wrote the home resumed it."""


@pytest.mark.full
def test_paused_job_of_the_previous_version_resumes_as_that_version_would(tmp_path: Path) -> None:
    service = Service(unpack(2, tmp_path / "home"), "--cpus", "1")
    service.start()
    try:
        with service.client() as client:
            _all_jobs_are_read(client)
            history = _resumed(client, SCHEMA_2["paused"], iterations=6)
    finally:
        service.interrupt()
    found = {record.iteration: record.validation_loss for record in history[4:6]}
    assert found == pytest.approx(BY_THE_PREVIOUS_VERSION, rel=1e-5)
    choice = history[5].choice
    assert choice is not None
    assert (choice["reason"], choice["trial"]["method"]["method"]) == ("scheduled", "shortcut")


def _all_jobs_are_read(client: Client) -> None:
    assert {job.id for job in client.jobs.list(limit=50)} == set(SCHEMA_2.values())
    for job_id in SCHEMA_2.values():
        job = client.jobs.retrieve(job_id)
        history = client.jobs.history(job_id)
        assert history[-1].iteration == job.progress.iteration - 1
        tuned = client.jobs.hyperparameters(job_id)
        assert len(tuned) == len(job.spec.hyperparameters)


def _resumed(client: Client, job_id: str, iterations: int) -> list[MetaIteration]:
    """The history once so many meta-iterations are committed; what was there before stays."""
    before = list(client.jobs.history(job_id))
    client.jobs.resume(job_id)
    deadline = time.monotonic() + 120
    while (job := client.jobs.retrieve(job_id)).progress.iteration < iterations:
        assert not job.status.is_terminal, job.message
        assert time.monotonic() < deadline
        time.sleep(0.1)
    client.jobs.cancel(job_id)
    history = list(client.jobs.history(job_id))
    assert history[: len(before)] == before
    return history
