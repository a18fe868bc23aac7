"""Handles of jobs, from either client, against a service on loopback."""

from __future__ import annotations

import io
import json
from contextlib import nullcontext
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save

from drmad_client import errors
from drmad_client.http.client import Client
from drmad_client.http.job_html import as_html
from drmad_client.http.running import progress_bar
from drmad_client.plots import figures
from drmad_client.records.events import LogLine
from drmad_client.records.hyperparameters import HyperparameterGroup, HyperparameterInfo
from drmad_client.records.job import Best, Doubt, JobRecord
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.pages import Page
from drmad_client.records.status import JobStatus
from tests.client import samples
from tests.client.http import fake_service
from tests.client.http.fake_service import Answer, FakeService

JOB = f"/v1/jobs/{samples.ID}"


@pytest.fixture
def done(service: FakeService) -> FakeService:
    """A service whose one job has succeeded."""
    records = [samples.record(number) for number in range(3)]
    line = LogLine(id="1-0", at=samples.START, replica=0, text="hello")
    service.on("GET", JOB, fake_service.record(samples.job(JobStatus.SUCCEEDED, 3), etag='"3"'))
    page = Page[MetaIteration](data=records, has_more=False)
    service.on("GET", f"{JOB}/history", fake_service.record(page))
    service.on("GET", f"{JOB}/events", fake_service.stream(samples.life()))
    logs = Page[LogLine](data=[line], has_more=False)
    service.on("GET", f"{JOB}/logs", fake_service.record(logs))
    arrays = save({"l2": np.zeros(2)}, {"transforms": '{"l2": "exp"}'})
    for part in ("hyperparameters", "hypergradients", "model"):
        service.on("GET", f"{JOB}/{part}", Answer(200, arrays))
    service.on("GET", f"{JOB}/fidelity", Answer(200, b'{"chosen": "replay"}'))
    figure = json.dumps(figures.losses(records)).encode()
    service.on("GET", f"{JOB}/figures/losses", Answer(200, figure))
    return service


def test_a_handle_has_all_that_a_job_has(client: Client, done: FakeService, tmp_path: Path) -> None:
    job = client.jobs.retrieve(samples.ID)
    assert list(job.stream()) == samples.life()
    assert [line.text for line in job.logs()] == ["hello"]
    assert [record.iteration for record in job.history()] == [0, 1, 2]
    assert job.hyperparameters()["l2"].tolist() == [1.0, 1.0]
    assert job.hyperparameters(raw=True)["l2"].tolist() == [0.0, 0.0]
    assert job.hypergradients()["l2"].tolist() == [0.0, 0.0]
    assert job.model("last")["l2"].tolist() == [0.0, 0.0]
    assert job.fidelity() == {"chosen": "replay"}
    assert [trace.name for trace in job.figure("losses").data][:2] == ["validation", "training"]
    assert {path.name for path in job.save(tmp_path)} == {
        "hyperparameters.safetensors",
        "model.safetensors",
        "history.csv",
        "job.yaml",
    }


def test_a_handle_has_the_labels_of_groups_of_examples(
    client: Client, service: FakeService
) -> None:
    groups = [HyperparameterGroup(label=label, start=i, stop=i + 1) for i, label in enumerate("ab")]
    layers = [HyperparameterGroup(label="0.weight", start=0, stop=6)]
    parts = {"mixture": groups, "l2": layers, "each": []}
    infos = [
        HyperparameterInfo(name=name, kind=name, shape=[6], transform="exp", groups=own)
        for name, own in parts.items()
    ]
    record = samples.job(JobStatus.RUNNING, 1).model_copy(update={"hyperparameters": infos})
    service.on("GET", JOB, fake_service.record(record))
    assert client.jobs.retrieve(samples.ID).labels == {"mixture": ["a", "b"]}


def test_a_handle_returns_the_record_of_the_service(client: Client, done: FakeService) -> None:
    job, record = client.jobs.retrieve(samples.ID), samples.job(JobStatus.SUCCEEDED, 3)
    for name in ("id", "name", "status", "reason", "message", "progress", "best", "error", "tags"):
        assert getattr(job, name) == getattr(record, name)
    assert (job.spec, job.created_at, job.finished_at) == (
        record.spec,
        record.created_at,
        record.finished_at,
    )
    assert repr(job).endswith(f"Job {samples.ID} 'clean digits' succeeded 3/3>")
    assert job == client.jobs.retrieve(samples.ID)
    assert len({job, client.jobs.retrieve(samples.ID)}) == 1


def test_a_history_becomes_a_table(client: Client, done: FakeService) -> None:
    table = client.jobs.retrieve(samples.ID).history().to_pandas()
    assert table["validation_loss"].tolist() == [1.0, 1 / 2, 1 / 3]
    assert table["metrics.test_error"].tolist() == [0.25] * 3


def test_waiting_brings_the_handle_up_to_date(client: Client, service: FakeService) -> None:
    ended = samples.job(JobStatus.SUCCEEDED, 3)
    service.on(
        "GET",
        JOB,
        fake_service.record(samples.job(JobStatus.QUEUED), etag='"0"'),
        fake_service.record(samples.job(done=1), etag='"1"'),
        fake_service.record(ended, etag='"3"'),
    )
    job = client.jobs.retrieve(samples.ID)
    assert job.status is JobStatus.QUEUED
    assert job.wait() == job
    assert job.record == ended


def test_a_failure_brings_the_handle_up_to_date_too(client: Client, service: FakeService) -> None:
    service.on("GET", JOB, fake_service.record(samples.job(JobStatus.FAILED), etag='"0"'))
    job = client.jobs.retrieve(samples.ID)
    with pytest.raises(errors.JobFailed, match="the loss became NaN"):
        job.wait(progress=False)
    assert job.status is JobStatus.FAILED


@pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.FAILED])
def test_waiting_passes_each_warning_of_the_job_on_once(
    client: Client, service: FakeService, status: JobStatus
) -> None:
    """A handle that waits again has passed them on; one of a failed job passes them on too."""
    doubts = [Doubt(code="fidelity_low", message="a cosine of 0.08"), Doubt(code="b", message="b")]
    ended = samples.job(status, 3, warnings=doubts)
    service.on("GET", JOB, fake_service.record(ended, etag='"3"'))
    job = client.jobs.retrieve(samples.ID)
    failure = pytest.raises(errors.JobFailed) if status is JobStatus.FAILED else nullcontext()
    with pytest.warns(errors.JobWarning) as caught, failure:
        job.wait(progress=False)
    found = [str(warning.message) for warning in caught]
    assert found == [f"{samples.ID}: a cosine of 0.08", f"{samples.ID}: b"]
    again = pytest.raises(errors.JobFailed) if status is JobStatus.FAILED else nullcontext()
    with again:
        job.wait(progress=False)  # a warning would be an error here
    assert job.warnings == doubts


@pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.FAILED])
def test_waiting_by_the_id_passes_the_warnings_on_too(
    client: Client, service: FakeService, status: JobStatus
) -> None:
    ended = samples.job(status, 3, warnings=[Doubt(code="fidelity_low", message="a cosine of .08")])
    service.on("GET", JOB, fake_service.record(ended, etag='"3"'))
    failure = pytest.raises(errors.JobFailed) if status is JobStatus.FAILED else nullcontext()
    with pytest.warns(errors.JobWarning) as caught, failure:
        client.jobs.wait(samples.ID)
    assert [str(warning.message) for warning in caught] == [f"{samples.ID}: a cosine of .08"]


def test_reload_requests_the_job_again(client: Client, service: FakeService) -> None:
    after = samples.job(JobStatus.SUCCEEDED, 3)
    service.on("GET", JOB, *map(fake_service.record, (samples.job(), after)))
    assert client.jobs.retrieve(samples.ID).reload().record == after


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_notebook_shows_a_job_and_runs_none_of_its_words() -> None:
    best = Best(iteration=1, validation_loss=0.25, metrics={"test_error": 0.0625})
    job = samples.job(JobStatus.FAILED, 2, name="<script>alert(1)</script>", best=best)
    cells = Cells()
    cells.feed(as_html(job))
    assert cells.open == []
    words = " ".join(cells.words)
    for shown in (job.id, job.name, "failed", "2 of 3 meta-iterations", "the loss became NaN"):
        assert shown in words
    assert "meta-iteration 2, validation loss 0.25, test error 6.25 %" in words
    assert "<script>" not in as_html(job)


def wait_in(console: Console, *jobs: JobRecord) -> None:
    with progress_bar.bar(jobs[0], console) as show:
        for job in jobs[1:]:
            show(job)


def test_a_terminal_shows_how_far_the_job_is() -> None:
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=True, color_system=None)
    wait_in(console, samples.job(JobStatus.QUEUED), samples.job(JobStatus.SUCCEEDED, 3))
    assert "clean digits" in text.getvalue()
    assert "3/3 succeeded, best loss 0.25" in text.getvalue()


def test_what_is_no_terminal_is_left_alone() -> None:
    text = io.StringIO()
    wait_in(Console(file=text), samples.job(), samples.job(JobStatus.SUCCEEDED, 3))
    assert text.getvalue() == ""
