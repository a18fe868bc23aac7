"""The command line as a process, against a service on loopback."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save

from drmad_client import __version__
from drmad_client.records import Job, JobStatus, MetaIteration, Page
from drmad_client.specs import JobSpec
from tests.client import fake_service, samples
from tests.client.fake_service import Answer, FakeService

JOB = f"/v1/jobs/{samples.ID}"
DRMAD = [sys.executable, "-c", "from drmad_client.cli import main; main()"]


def drmad(
    service: FakeService | None, *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1"}
    if service:
        environment["DRMAD_URL"] = service.url
    return subprocess.run(
        [*DRMAD, *arguments], input=stdin, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def job_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(samples.SPEC))
    return path


def tell_life(service: FakeService, status: JobStatus) -> None:
    service.on("GET", JOB, fake_service.record(samples.job(status, 3)))
    service.on(
        "GET",
        f"{JOB}/events",
        fake_service.stream([*samples.life()[:-1], samples.status_event(7, status)]),
    )


def test_submit_sends_the_file_with_its_changes_and_follows(
    service: FakeService, job_yaml: Path
) -> None:
    service.on("POST", "/v1/jobs", fake_service.record(samples.job(JobStatus.QUEUED), 201))
    tell_life(service, JobStatus.SUCCEEDED)
    done = drmad(
        service, "submit", str(job_yaml), "--watch", "--set", "meta.iterations=5", "--set", "seed=7"
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == samples.ID
    assert lines[-1].startswith("succeeded after 41 s; best: iteration 2")
    sent = json.loads(service.requests[0].body)
    assert sent == samples.SPEC | {"meta": {"iterations": 5}, "seed": 7}


def test_bad_fields_are_printed_one_a_line(service: FakeService, job_yaml: Path) -> None:
    errors = [
        {"path": "training.steps", "message": "must be at least 1, got -1"},
        {"path": "hyperparameters[0].kind", "message": "must be one of 'l2', got 'l3'"},
    ]
    service.on("POST", "/v1/jobs", fake_service.problem(422, "2 fields do not fit", errors))
    done = drmad(service, "submit", str(job_yaml), "--dry-run")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "error: 2 fields do not fit",
        "  training.steps: must be at least 1, got -1",
        "  hyperparameters[0].kind: must be one of 'l2', got 'l3'",
    ]


def test_a_dry_run_creates_nothing(service: FakeService) -> None:
    service.on("POST", "/v1/jobs", fake_service.record(JobSpec.model_validate(samples.SPEC)))
    done = drmad(service, "submit", "-", "--dry-run", stdin=yaml.safe_dump(samples.SPEC))
    assert done.returncode == 0
    assert "nothing was created" in done.stdout
    assert [request.query for request in service.requests] == ["validate_only=true"]


def test_jobs_are_listed_as_a_table_or_as_data(service: FakeService) -> None:
    jobs = [samples.job(), samples.job(JobStatus.SUCCEEDED, 3)]
    page = Page[Job](data=jobs, has_more=True, next="job_1")
    service.on("GET", "/v1/jobs", fake_service.record(page))
    table = drmad(service, "jobs", "--status", "running", "--tag", "team:vision", "--limit", "2")
    assert table.returncode == 0
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["ID", samples.ID, samples.ID]
    assert table.stderr == "there are more: --after job_1\n"
    assert service.requests[0].query == "status=running&tag=team%3Avision&limit=2"
    listed = drmad(service, "jobs", "--output", "json")
    assert [Job.model_validate(job) for job in json.loads(listed.stdout)] == jobs


def test_one_job_is_shown_as_text_or_as_data(service: FakeService) -> None:
    job = samples.job(JobStatus.SUCCEEDED, 3)
    service.on("GET", JOB, fake_service.record(job))
    assert "3 of 3 meta-iterations" in drmad(service, "show", samples.ID).stdout
    shown = drmad(service, "show", samples.ID, "--output", "yaml")
    assert Job.model_validate(yaml.safe_load(shown.stdout)) == job


@pytest.mark.parametrize(("status", "code"), [(JobStatus.FAILED, 1), (JobStatus.CANCELLED, 2)])
def test_watch_ends_with_the_jobs_exit_code(
    service: FakeService, status: JobStatus, code: int
) -> None:
    tell_life(service, status)
    done = drmad(service, "watch", samples.ID)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1].startswith(f"{status} after 41 s: ")


def test_ctrl_c_stops_watching_and_not_the_job(service: FakeService) -> None:
    service.on("GET", JOB, fake_service.record(samples.job()))
    service.on("GET", f"{JOB}/events", fake_service.stream(samples.life()[:3]), Answer(503))
    process = subprocess.Popen(
        [*DRMAD, "--url", service.url, "watch", samples.ID],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(service.heard("GET", f"{JOB}/events")) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=10)
    assert process.returncode == 130
    assert output.splitlines()[-1] == (
        f"The job goes on. Look again with: drmad watch {samples.ID}"
    )
    assert error == ""
    assert not service.heard("POST", f"{JOB}/cancel")


def test_cancel_says_what_became_of_the_job(service: FakeService) -> None:
    service.on("POST", f"{JOB}/cancel", fake_service.record(samples.job(JobStatus.CANCELLING)))
    done = drmad(service, "cancel", samples.ID)
    assert (done.returncode, done.stdout) == (0, f"{samples.ID} is cancelling\n")


def test_fetch_writes_what_is_needed_to_use_and_to_repeat_a_job(
    service: FakeService, tmp_path: Path
) -> None:
    job, values = samples.job(JobStatus.SUCCEEDED, 3), {"l2": np.array([-9.0, 1.0])}
    records = [samples.record(i) for i in range(3)]
    file = save(values, {"iteration": "2", "transforms": '{"l2": "exp"}'})
    service.on("GET", JOB, fake_service.record(job))
    page = Page[MetaIteration](data=records, has_more=False)
    service.on("GET", f"{JOB}/history", fake_service.record(page))
    service.on("GET", f"{JOB}/hyperparameters", Answer(200, file))
    service.on("GET", f"{JOB}/model", Answer(200, save({"0.weight": np.ones((2, 2))})))
    folder = tmp_path / "new" / "tuned"
    done = drmad(service, "fetch", samples.ID, "--to", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        str(folder / name)
        for name in (
            "hyperparameters.safetensors",
            "model.safetensors",
            "history.csv",
            "job.yaml",
        )
    ]
    assert (folder / "hyperparameters.safetensors").read_bytes() == file
    assert load_file(folder / "model.safetensors")["0.weight"].shape == (2, 2)
    with (folder / "history.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["iteration"]) for row in rows] == [0, 1, 2]
    assert {row["metrics.test_error"] for row in rows} == {"0.25"}
    spec = yaml.safe_load((folder / "job.yaml").read_text())
    assert JobSpec.model_validate(spec) == job.spec


def test_fetch_does_without_a_model_that_is_not_kept(service: FakeService, tmp_path: Path) -> None:
    service.on("GET", JOB, fake_service.record(samples.job(JobStatus.SUCCEEDED, 3)))
    empty = Page[MetaIteration](data=[], has_more=False)
    service.on("GET", f"{JOB}/history", fake_service.record(empty))
    service.on("GET", f"{JOB}/hyperparameters", Answer(200, save({"l2": np.ones(1)})))
    done = drmad(service, "fetch", samples.ID, "--to", str(tmp_path))
    assert done.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "hyperparameters.safetensors",
        "history.csv",
        "job.yaml",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "http://127.0.0.1:9", "jobs"], "start it with: drmad up"),
        (["submit", "missing.yaml"], "cannot read missing.yaml: No such file"),
        (["shw", "x"], "Did you mean 'show'?"),
        (["jobs", "--colour"], "see: drmad jobs --help"),
        (["show"], "see: drmad show --help"),
    ],
)
def test_errors_say_what_to_do_in_two_lines(arguments: list[str], words: str) -> None:
    done = drmad(None, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_debug_shows_the_traceback() -> None:
    done = drmad(None, "--debug", "submit", "missing.yaml")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot read missing.yaml")


def test_a_command_of_a_missing_extra_says_what_to_install() -> None:
    """As where only the client is installed: the entry point is there, its package is not."""
    code = (
        "import sys; sys.modules.update(drmad_service=None)\n"
        "from drmad_client.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    up, shown = (
        subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        for arguments in (["up", "--port", "80"], ["--help"])
    )
    assert up.returncode == 1
    assert up.stderr.startswith("error: drmad up is not installed")
    assert up.stderr.endswith('pip install "drmad[all]"\n')
    assert shown.returncode == 0
    assert shown.stdout.count('pip install "drmad[all]"') == 5


def test_help_has_examples_and_every_command() -> None:
    done = drmad(None)
    assert done.returncode == 0
    assert done.stdout == drmad(None, "--help").stdout
    for word in ("submit", "jobs", "show", "watch", "cancel", "fetch", "version", "up", "Examples"):
        assert word in done.stdout


def test_version() -> None:
    assert drmad(None, "version").stdout == f"drmad {__version__}\n"
