"""The command line against a service on loopback."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save

from drmad_client import __version__
from drmad_client.records.events import Event, LogLine
from drmad_client.records.job import JobRecord, Waiting
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.pages import Page
from drmad_client.records.service.cluster import Cluster
from drmad_client.records.status import JobStatus
from drmad_client.spec import capabilities
from drmad_client.spec.job import JobSpec
from tests.client import samples
from tests.client.cli import command_line
from tests.client.http import fake_service
from tests.client.http.fake_service import Answer, FakeService

JOB = f"/v1/jobs/{samples.ID}"
ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
DRMAD = [sys.executable, "-c", "from drmad_client.cli.main import main; main()"]


def drmad(
    service: FakeService | None,
    *arguments: str,
    stdin: str = "",
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    settings = {"COLUMNS": "100", "NO_COLOR": "1"} | (environment or {})
    if service:
        settings["DRMAD_URL"] = service.url
    return command_line.drmad(*arguments, stdin=stdin, cwd=cwd, environment=settings)


@pytest.fixture
def job_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(samples.SPEC))
    return path


def serve_life_cycle(service: FakeService, status: JobStatus) -> None:
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
    serve_life_cycle(service, JobStatus.SUCCEEDED)
    done = drmad(
        service, "submit", str(job_yaml), "--watch", "--set", "meta.iterations=5", "--set", "seed=7"
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == samples.ID
    assert lines[-1].startswith("succeeded after 41 s; best: meta-iteration 3")
    sent = json.loads(service.requests[0].body)
    assert sent == samples.SPEC | {"meta": {"iterations": 5}, "seed": 7}


def test_submit_says_that_no_node_holds_the_job(service: FakeService, job_yaml: Path) -> None:
    why = "no node has 2 GPUs; the largest has 1"
    needs = {"cpus": 1.0, "gpus": 2.0, "free_cpus": 4.0, "free_gpus": 1.0}
    waiting = Waiting.model_validate(
        needs | {"cluster_cpus": 4.0, "cluster_gpus": 1.0, "impossible": why}
    )
    queued = samples.job(JobStatus.QUEUED).model_copy(update={"waiting": waiting, "message": why})
    service.on("POST", "/v1/jobs", fake_service.record(queued, 201))
    done = drmad(service, "submit", str(job_yaml))
    assert (done.returncode, done.stdout) == (0, f"{samples.ID}\n")
    assert done.stderr == f"the job waits for other nodes: {why}\n"


def test_bad_fields_are_printed_one_a_line(service: FakeService, job_yaml: Path) -> None:
    errors = [
        {"path": "training.steps", "message": "must be at least 1, got -1"},
        {"path": "hyperparameters[0].kind", "message": "must be one of 'l2', got 'l3'"},
    ]
    service.on("POST", "/v1/jobs", fake_service.problem(422, "2 fields do not fit", errors))
    done = drmad(service, "submit", str(job_yaml), "--dry-run")
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.splitlines() == [
        "error: 2 fields do not fit",
        "  training.steps: must be at least 1, got -1",
        "  hyperparameters[0].kind: must be one of 'l2', got 'l3'",
    ]


def test_a_dry_run_creates_nothing(service: FakeService) -> None:
    service.on("POST", "/v1/jobs", fake_service.record(JobSpec.model_validate(samples.SPEC)))
    done = drmad(service, "submit", "-", "--dry-run", stdin=yaml.safe_dump(samples.SPEC))
    assert done.returncode == 0
    assert "no job was created" in done.stdout
    assert [request.query for request in service.requests] == ["validate_only=true&deep=false"]


REFUSED = f"""\
error: proofs of the preflight failed, so the job does not start:
  second_derivatives (my_problem.py:31): the product differs by 0.4; {samples.FAILED_PROOF.remedy}
correct the cause, or start the job in spite of the failure with \
preflight: {{override: [second_derivatives]}}
"""
OVERRIDE = ("--set", "preflight.override=[second_derivatives]")
OVERRIDDEN = "preflight: second_derivatives failed and was overridden: the product differs by 0.4"


def proofs_of(printed: str) -> list[list[str]]:
    """The cells of each printed proof."""
    table = printed[printed.index("PROOF") :].partition("\n\n")[0]
    return [re.split(r" {2,}", line.strip()) for line in table.splitlines()[1:]]


@pytest.mark.parametrize(("changes", "code", "stderr"), [((), 1, REFUSED), (OVERRIDE, 0, "")])
def test_a_check_prints_the_proofs_and_fails_unless_a_failed_one_is_overridden(
    service: FakeService, job_yaml: Path, changes: tuple[str, ...], code: int, stderr: str
) -> None:
    service.on("POST", "/v1/jobs", fake_service.record(samples.PREFLIGHT))
    done = drmad(service, "submit", str(job_yaml), "--check", *changes)
    assert (done.returncode, done.stderr) == (code, stderr)
    assert "predicted for the whole job on this hardware: about 3" in done.stdout
    assert "no problems found" not in done.stdout
    assert proofs_of(done.stdout) == [
        ["repeatable", "passed", "0.0"],
        [
            "second_derivatives",
            "failed",
            "my_problem.py:31",
            "return the derivative of backward, too",
            "0.2",
        ],
        ["hypergradient", "skipped", "0.0"],
    ]
    assert "\nhypergradient was skipped: too large\n" in done.stdout
    assert (OVERRIDDEN in done.stdout) == bool(changes)


def test_a_check_without_a_failed_proof_finds_no_problems(
    service: FakeService, job_yaml: Path
) -> None:
    proofs = [p for p in samples.PREFLIGHT.proofs if p.result != "failed"]
    report = samples.PREFLIGHT.model_copy(update={"proofs": proofs})
    service.on("POST", "/v1/jobs", fake_service.record(report))
    done = drmad(service, "submit", str(job_yaml), "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "no problems found"


def test_a_job_shows_the_proofs_of_its_preflight(service: FakeService) -> None:
    service.on("GET", JOB, fake_service.record(samples.job(preflight=samples.PREFLIGHT)))
    shown = drmad(service, "show", samples.ID).stdout
    assert [cells[:2] for cells in proofs_of(shown)] == [
        ["repeatable", "passed"],
        ["second_derivatives", "failed"],
        ["hypergradient", "skipped"],
    ]
    service.on("GET", JOB, fake_service.record(samples.job()))
    assert "PROOF" not in drmad(service, "show", samples.ID).stdout


def test_jobs_are_listed_as_a_table_or_as_data(service: FakeService) -> None:
    jobs = [samples.job(), samples.job(JobStatus.SUCCEEDED, 3)]
    page = Page[JobRecord](data=jobs, has_more=True, next="job_1")
    service.on("GET", "/v1/jobs", fake_service.record(page))
    table = drmad(service, "jobs", "--status", "running", "--tag", "team:vision", "--limit", "2")
    assert table.returncode == 0
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["ID", samples.ID, samples.ID]
    assert table.stderr == "more jobs follow; list them with: --after job_1\n"
    assert service.requests[0].query == "status=running&tag=team%3Avision&limit=2"
    listed = drmad(service, "jobs", "--output", "json")
    assert [JobRecord.model_validate(job) for job in json.loads(listed.stdout)] == jobs


def test_one_job_is_shown_as_text_or_as_data(service: FakeService) -> None:
    job = samples.job(JobStatus.SUCCEEDED, 3)
    service.on("GET", JOB, fake_service.record(job))
    assert "3 of 3 meta-iterations" in drmad(service, "show", samples.ID).stdout
    shown = drmad(service, "show", samples.ID, "--output", "yaml")
    assert JobRecord.model_validate(yaml.safe_load(shown.stdout)) == job


@pytest.mark.parametrize(("status", "code"), [(JobStatus.FAILED, 1), (JobStatus.CANCELLED, 2)])
def test_watch_ends_with_the_jobs_exit_code(
    service: FakeService, status: JobStatus, code: int
) -> None:
    serve_life_cycle(service, status)
    done = drmad(service, "watch", samples.ID)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1].startswith(f"{status} after 41 s: ")


@pytest.fixture
def default_sigint() -> Iterator[None]:
    """A shell ignores SIGINT in its background processes, and their children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_sigint")
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
    output, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output.splitlines()[-1] == (
        f"The job continues. Follow it again with: drmad watch {samples.ID}"
    )
    assert error == ""
    assert not service.heard("POST", f"{JOB}/cancel")


def log_lines(*texts: str) -> Page[LogLine]:
    lines = [
        LogLine(id=f"{n}-0", at=samples.START, replica=n % 2, text=text)
        for n, text in enumerate(texts)
    ]
    return Page[LogLine](data=lines, has_more=False, next=lines[-1].id)


def test_logs_are_printed_with_time_and_replica(service: FakeService) -> None:
    nothing = Page[LogLine](data=[], has_more=False)
    service.on("GET", JOB, fake_service.record(samples.job(JobStatus.SUCCEEDED, 3)))
    service.on("GET", f"{JOB}/logs", *map(fake_service.record, (log_lines("one", "two"), nothing)))
    done = drmad(service, "logs", samples.ID, "--follow", "--replica", "1")
    assert (done.returncode, done.stdout) == (0, "12:00:00 [0] one\n12:00:00 [1] two\n")
    assert [r.query for r in service.heard("GET", f"{JOB}/logs")] == [
        "replica=1&limit=1000",
        "replica=1&after=1-0&limit=1000",
    ]


def test_events_are_lines_of_json(service: FakeService) -> None:
    serve_life_cycle(service, JobStatus.SUCCEEDED)
    done = drmad(service, "events", samples.ID, "--after", "0-1")
    assert done.returncode == 0
    lines = done.stdout.removesuffix("\n").split("\n")
    end = samples.status_event(7, JobStatus.SUCCEEDED)
    assert [Event.model_validate_json(line) for line in lines] == [*samples.life()[:-1], end]
    assert service.requests[0].headers["last-event-id"] == "0-1"


def test_history_is_a_table_or_data(service: FakeService) -> None:
    records = [samples.record(number) for number in range(3)]
    page = Page[MetaIteration](data=records, has_more=False)
    service.on("GET", f"{JOB}/history", fake_service.record(page))
    table = drmad(service, "history", samples.ID).stdout.splitlines()
    assert table[0].split() == [
        *("iteration", "valid.", "loss", "valid.", "error", "test", "error"),
        *("hypergradient", "seconds"),
    ]
    assert [line.split()[:2] for line in table[1:]] == [
        ["1", "1.00000"],
        ["2", "0.50000"],
        ["3", "0.33333"],
    ]
    assert [line.endswith("best") for line in table[1:]] == [False, True, False]
    shown = drmad(service, "history", samples.ID, "--output", "json").stdout
    assert [MetaIteration.model_validate(record) for record in json.loads(shown)] == records
    rows = csv.DictReader(drmad(service, "history", samples.ID, "-o", "csv").stdout.splitlines())
    assert [float(row["validation_loss"]) for row in rows] == [1.0, 1 / 2, 1 / 3]


def test_diff_shows_where_two_jobs_differ_and_what_came_of_it(service: FakeService) -> None:
    l2 = {"hyperparameters": [{"kind": "l2", "init": -6.0}], "meta": {"iterations": 5}}
    other = samples.job(
        JobStatus.FAILED, 0, id="job_2", spec=JobSpec.model_validate(samples.SPEC | l2)
    )
    service.on("GET", JOB, fake_service.record(samples.job(JobStatus.SUCCEEDED, 3)))
    service.on("GET", "/v1/jobs/job_2", fake_service.record(other))
    found = json.loads(drmad(service, "diff", samples.ID, "job_2", "-o", "json").stdout)
    lines = {line["what"]: (line["first"], line["second"]) for line in found}
    assert lines["hyperparameters[0].kind"] == ("sample_weight", "l2")
    assert lines["hyperparameters[0].init"] == (0.0, -6.0)
    assert lines["hyperparameters[0].per"] == ("example", "unit")
    assert lines["meta.iterations"] == (3, 5)
    assert lines["best.validation_loss"] == (0.25, None)
    assert lines["status"] == ("succeeded", "failed")
    assert lines["error"] == (None, "the loss became NaN")
    assert "training.steps" not in lines
    table = drmad(service, "diff", samples.ID, "job_2").stdout
    assert table.splitlines()[0].split() == [samples.ID, "job_2"]
    assert len(table.splitlines()) == len(found) + 1


def test_arrays_are_summed_up_or_printed_whole(service: FakeService) -> None:
    file = save({"l2": np.array([-1.0, 0.0, 1.0])}, {"transforms": '{"l2": "exp"}'})
    for part in ("hyperparameters", "hypergradients", "model"):
        service.on("GET", f"{JOB}/{part}", Answer(200, file))
        table = drmad(service, part, samples.ID).stdout.splitlines()
        middle = "1" if part == "hyperparameters" else "0"
        assert table[1].split()[:2] == ["l2", "3"]
        assert table[1].split()[3] == middle
    raw = drmad(service, "hyperparameters", samples.ID, "--iteration", "1", "--raw", "-o", "json")
    assert json.loads(raw.stdout) == {"l2": [-1.0, 0.0, 1.0]}
    assert service.requests[-1].query == "iteration=0"
    refused = drmad(service, "hyperparameters", samples.ID, "--iteration", "0")
    assert refused.returncode == 64
    assert "at least 1, the first meta-iteration, got 0" in refused.stderr


def test_what_the_service_knows_of_itself_is_shown(service: FakeService) -> None:
    service.on("GET", "/v1/catalog", Answer(200, json.dumps(capabilities.describe()).encode()))
    table = drmad(service, "catalog").stdout
    for word in ("mlp", "digits", "sample_weight", "shortcut", "label_noise"):
        assert word in table
    assert json.loads(drmad(service, "catalog", "-o", "json").stdout) == capabilities.describe()
    service.on("GET", f"{JOB}/fidelity", Answer(200, json.dumps(samples.MEASURED).encode()))
    _, first, second, *_ = drmad(service, "fidelity", samples.ID).stdout.splitlines()
    assert " ".join(first.split()) == (
        "shortcut, horizon 50 0.910 0.850 0.700 1.30x one training run chosen"
    )
    assert " ".join(second.split()).startswith("shortcut, preset paper diverged diverged")
    shown = drmad(service, "fidelity", samples.ID, "--output", "json").stdout
    assert json.loads(shown) == samples.MEASURED


def test_the_cluster_is_shown_with_what_waits_and_why(service: FakeService) -> None:
    service.on("GET", "/v1/cluster", fake_service.record(samples.CLUSTER))
    table = drmad(service, "cluster").stdout.splitlines()
    assert [line.split() for line in table[1:3]] == [
        ["big", "10.0.0.1", "16", "1", "alive"],
        ["lost", "10.0.0.2", "8", "0", "lost"],
    ]
    assert table[4] == "2 of 16 CPUs and 0.5 of 1 GPUs are reserved for jobs"
    assert table[-1].split()[0] == samples.ID
    assert table[-1].rstrip().endswith("needs 32 CPUs, cluster has 16")
    shown = drmad(service, "cluster", "--output", "json").stdout
    assert Cluster.model_validate_json(shown) == samples.CLUSTER


def test_figures_are_printed_or_written(service: FakeService, tmp_path: Path) -> None:
    service.on("GET", f"{JOB}/figures/losses", Answer(200, b'{"data": [], "layout": {}}'))
    assert json.loads(drmad(service, "figure", samples.ID).stdout) == {"data": [], "layout": {}}
    page = tmp_path / "losses.html"
    done = drmad(service, "figure", samples.ID, "losses", "--to", str(page))
    assert done.stdout.replace("\n", "") == str(page)
    assert "<html>" in page.read_text(encoding="utf-8")


def test_all_jobs_are_listed_through_their_pages(service: FakeService) -> None:
    pages = [
        Page[JobRecord](data=[samples.job(id="job_1")], has_more=True, next="job_1"),
        Page[JobRecord](data=[samples.job(id="job_0")], has_more=False),
    ]
    service.on("GET", "/v1/jobs", *map(fake_service.record, pages))
    done = drmad(service, "jobs", "--all")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ID", "job_1", "job_0"]
    assert done.stderr == ""
    assert drmad(service, "jobs", "--quiet").stdout == "job_0\n"


@pytest.mark.parametrize(
    ("action", "status"),
    [("pause", JobStatus.PAUSING), ("resume", JobStatus.QUEUED), ("extend", JobStatus.QUEUED)],
)
def test_actions_say_what_became_of_the_job(
    service: FakeService, action: str, status: JobStatus
) -> None:
    service.on("POST", f"{JOB}/{action}", fake_service.record(samples.job(status)))
    options = ["--iterations", "10"] if action == "extend" else []
    done = drmad(service, action, samples.ID, *options)
    assert (done.returncode, done.stdout) == (0, f"{samples.ID} is {status}\n")
    body = service.requests[0].body
    assert (json.loads(body) if body else None) == ({"iterations": 10} if options else None)


def test_fork_prints_the_new_jobs_id(service: FakeService) -> None:
    forked = samples.job(JobStatus.QUEUED, id="job_2", adapted=["adam begins anew"])
    service.on("GET", JOB, fake_service.record(samples.job(JobStatus.SUCCEEDED, 3)))
    service.on("POST", f"{JOB}/fork", fake_service.record(forked, 201))
    changes = ["--set", "meta.learning_rate=0.1", "--set", "name=again"]
    done = drmad(service, "fork", samples.ID, "--iteration", "7", *changes)
    assert (done.returncode, done.stdout) == (0, "job_2\n")
    assert done.stderr == "adam begins anew\n"
    assert json.loads(service.requests[-1].body) == {
        "iteration": 7,
        "changes": {"meta": {"learning_rate": 0.1}, "name": "again"},
    }


def test_edit_changes_the_labels_of_several_jobs(service: FakeService) -> None:
    service.on("PATCH", JOB, fake_service.record(samples.job(JobStatus.SUCCEEDED)))
    ids = [samples.ID, samples.ID]
    done = drmad(service, "edit", *ids, "--tag", "team:a:b", "--untag", "old", "--archive")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert done.stdout.rstrip().endswith(", archived")
    sent = [json.loads(request.body) for request in service.heard("PATCH", JOB)]
    assert sent == [{"tags": {"old": None, "team": "a:b"}, "archived": True}] * 2
    for wrong in ([], ["--tag", "x"], ["--tag", "x:1", "--untag", "x"]):
        refused = drmad(service, "edit", samples.ID, *wrong)
        assert refused.returncode == 64, refused.stderr
    assert "expected KEY:VALUE" in drmad(service, "edit", samples.ID, "--tag", "x").stderr


def test_delete_asks_first(service: FakeService) -> None:
    service.on("DELETE", JOB, Answer(204))
    refused = drmad(service, "delete", samples.ID, stdin="n\n")
    assert refused.returncode == 130
    assert not service.requests
    assert drmad(service, "delete", samples.ID, stdin="y\n").returncode == 0
    done = drmad(service, "delete", samples.ID, "--yes")
    assert (done.returncode, done.stdout) == (0, f"{samples.ID} was deleted\n")
    assert len(service.heard("DELETE", JOB)) == 2


def test_init_writes_a_job_that_the_service_takes(service: FakeService, tmp_path: Path) -> None:
    first = drmad(None, "init", str(tmp_path / "new"))
    assert first.stdout.split() == [
        str(tmp_path / "new" / name) for name in ("job.yaml", "my_problem.py")
    ]
    again = drmad(None, "init", str(tmp_path / "new"))
    assert again.returncode == 64
    assert "exists already; --force overwrites it" in again.stderr
    assert drmad(None, "init", str(tmp_path / "new"), "--force").returncode == 0
    fields = yaml.safe_load((tmp_path / "new" / "job.yaml").read_text())
    fields["problem"]["code"] = f"sha256:{64 * '0'}"  # what --code fills in
    JobSpec.model_validate(fields)
    compile((tmp_path / "new" / "my_problem.py").read_text(), "my_problem.py", "exec")


def test_watch_mirrors_the_history(service: FakeService, tmp_path: Path) -> None:
    serve_life_cycle(service, JobStatus.SUCCEEDED)
    page = Page[MetaIteration](data=[samples.record(n) for n in range(3)], has_more=False)
    service.on("GET", f"{JOB}/history", fake_service.record(page))
    done = drmad(service, "watch", samples.ID, "--log-to", f"tensorboard:{tmp_path}")
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / samples.ID).glob("events.out.tfevents.*"))


def completed(service: FakeService, words: str) -> list[str]:
    environment = os.environ | {
        "DRMAD_URL": service.url,
        "_DRMAD_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(DRMAD, env=environment, capture_output=True, text=True)
    return done.stdout.split()


def test_the_shell_completes_commands_options_and_jobs(service: FakeService) -> None:
    jobs = [samples.job(id="job_a1"), samples.job(id="job_a2"), samples.job(id="job_b")]
    service.on("GET", "/v1/jobs", fake_service.record(Page[JobRecord](data=jobs, has_more=False)))
    assert completed(service, "drmad su") == ["submit"]
    assert completed(service, "drmad submit --dr") == ["--dry-run"]
    assert completed(service, "drmad show job_a") == ["job_a1", "job_a2"]
    service.on("GET", "/v1/jobs", fake_service.problem(401, "no key"))
    assert completed(service, "drmad show job_a") == []


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
            "history.csv",
            "job.yaml",
            "model.safetensors",
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
    assert "no model was written: not here" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        "hyperparameters.safetensors",
        "history.csv",
        "job.yaml",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "http://127.0.0.1:9", "jobs"], "start one with: drmad up"),
        (["submit", "missing.yaml"], "cannot read missing.yaml: No such file"),
        (["shw", "x"], "Did you mean 'show'?"),
        (["jobs", "--colour"], "see: drmad jobs --help"),
        (["show"], "see: drmad show --help"),
    ],
)
def test_errors_say_what_to_do_in_two_lines(arguments: list[str], words: str) -> None:
    done = drmad(None, *arguments)
    assert (done.returncode, done.stdout) == (69 if "--url" in arguments else 64, "")
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_debug_shows_the_traceback() -> None:
    done = drmad(None, "--debug", "submit", "missing.yaml")
    assert done.returncode == 64
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot read missing.yaml")


def test_a_command_of_a_missing_extra_says_what_to_install() -> None:
    """As where only the client is installed: the wheel is there, what the service needs is not."""
    code = (
        "import sys; sys.modules.update(redis=None)\n"
        "from drmad_client.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    up, shown = (
        subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        for arguments in (["up", "--port", "80"], ["--help"])
    )
    assert up.returncode == 1
    assert up.stderr.startswith("error: drmad up is not installed")
    assert up.stderr.endswith('pip install ".[all]" in the clone\n')
    assert shown.returncode == 0
    assert shown.stdout.count("Not installed") == 10


def test_help_has_examples_and_every_command() -> None:
    done = drmad(None)
    assert done.returncode == 0
    assert done.stdout == drmad(None, "--help").stdout
    for word in ("submit", "jobs", "show", "watch", "cancel", "fetch", "version", "up", "Examples"):
        assert word in done.stdout


def test_version() -> None:
    assert drmad(None, "version").stdout == f"drmad {__version__}\n"


def test_control_characters_of_users_are_written_out(service: FakeService) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202e"
    shown = r"\x1b]0;owned\x07\x9b31m\u202e"
    job = samples.job(JobStatus.RUNNING, 1)
    job = job.model_copy(update={"name": evil, "message": evil, "tags": {"a": evil}})
    service.on("GET", JOB, fake_service.record(job))
    service.on("GET", "/v1/jobs", fake_service.record(Page[JobRecord](data=[job], has_more=False)))
    line = LogLine(id="1-0", at=job.created_at, replica=0, text=f"a\r{evil}\tb")
    logs = Page[LogLine](data=[line], has_more=False, next="1-0")
    service.on("GET", f"{JOB}/logs", fake_service.record(logs))
    for command in (("show", samples.ID), ("jobs",), ("logs", samples.ID)):
        printed = drmad(service, *command).stdout
        assert shown[:8] in printed, command
        assert not set(evil) & set(printed) & set("\x1b\x07\x9b\u202e\r")
    assert rf"a\r{shown}" in printed
    assert "\tb" in printed
    listed = drmad(service, "jobs", "--output", "json").stdout
    assert not set(listed) & set("\x1b\x07\x9b\u202e")
    assert json.loads(listed)[0]["name"] == evil


def test_exit_codes_tell_usage_from_a_service_out_of_reach(
    service: FakeService, tmp_path: Path
) -> None:
    wrong = tmp_path / "job.yaml"
    wrong.write_text("- a list\n")
    assert drmad(service, "jobs", "--no-such-option").returncode == 64
    assert drmad(service, "submit", str(wrong)).returncode == 64
    assert drmad(None, "--url", "http://127.0.0.1:9", "jobs").returncode == 69
    service.on("GET", JOB, fake_service.problem(404, "there is no job", []))
    assert drmad(service, "show", samples.ID).returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["history", samples.ID, "--out", "x.xlsx"],
        ["history", "", "--output", "csv"],
        ["attribution", samples.ID, "--out", "x.xlsx"],
        ["mirror", "--to", "comet:x", "--once"],
        ["mirror", "--to", "mlflow", "--once"],
        ["watch", samples.ID, "--log-to", "comet:x"],
        ["fetch", samples.ID, "--iteration", "0"],
        ["validate", samples.ID, "--directions", "0"],
        ["validate", "job.yaml", "--iteration", "2"],
        ["retrain", samples.ID, "--steps", "0"],
        ["retrain", samples.ID, "--scores", "x.csv"],
        ["retrain", "job.yaml"],
        ["data", "upload", "missing.npz"],
        ["data", "upload", "job.yaml"],
        ["data", "upload", "."],
        ["submit", "job.yaml", "--code", "missing"],
        ["submit", "job.yaml", "--set", "training"],
        ["submit", "job.yaml", "--sweep", "training.steps"],
        ["init", "job.yaml"],
        ["--url", "tcp://127.0.0.1", "jobs"],
        ["--url", "127.0.0.1:8080", "jobs"],
    ],
    ids=" ".join,
)
def test_what_is_wrong_after_parsing_is_wrong_usage_too(
    service: FakeService, arguments: list[str], tmp_path: Path
) -> None:
    """No option of these is unknown; the command itself finds what does not hold."""
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(samples.SPEC))
    done = drmad(service, *arguments, cwd=tmp_path)
    assert done.returncode == 64, done.stderr
    assert done.stderr.startswith("error: ")
    assert "bug" not in done.stderr
    assert not service.requests
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_a_spec_that_the_service_refuses_is_wrong_usage(
    service: FakeService, job_yaml: Path
) -> None:
    for status in (400, 422):
        service.on("POST", "/v1/jobs", fake_service.problem(status, "it does not hold", []))
        assert drmad(service, "submit", str(job_yaml)).returncode == 64
    for status in (401, 403, 404, 409):
        service.on("POST", "/v1/jobs", fake_service.problem(status, "it may not", []))
        assert drmad(service, "submit", str(job_yaml)).returncode == 1


@pytest.mark.parametrize("redirect", ["| head -n 0", ">&-", "2>&- >&-", ">/dev/full"])
def test_a_closed_a_full_or_an_ascii_output_is_no_bug(service: FakeService, redirect: str) -> None:
    job = samples.job(JobStatus.RUNNING, 1).model_copy(update={"name": "größe ✓"})
    service.on("GET", "/v1/jobs", fake_service.record(Page[JobRecord](data=[job], has_more=False)))
    command = f"{shlex.join([*DRMAD, 'jobs'])} {redirect}"
    for settings in ({}, ASCII):
        done = subprocess.run(
            ["sh", "-c", command],
            env=os.environ | {"DRMAD_URL": service.url} | settings,
            capture_output=True,
            text=True,
        )
        for words in ("bug", "Traceback", "Exception ignored"):
            assert words not in done.stdout + done.stderr


def test_text_beyond_ascii_is_written_out_where_the_output_is_ascii(service: FakeService) -> None:
    job = samples.job(JobStatus.RUNNING, 1).model_copy(update={"name": "größe ✓"})
    service.on("GET", "/v1/jobs", fake_service.record(Page[JobRecord](data=[job], has_more=False)))
    shown = subprocess.run(
        [*DRMAD, "jobs"],
        env=os.environ | {"DRMAD_URL": service.url} | ASCII,
        capture_output=True,
    )
    assert b"gr\\xf6\\xdfe \\u2713" in shown.stdout


def test_a_key_that_is_not_ascii_is_refused_with_a_sentence(service: FakeService) -> None:
    done = drmad(service, "jobs", environment={"DRMAD_API_KEY": "schlüssel"})
    assert done.returncode == 64
    assert done.stderr.startswith("error: the key of the service must be printable ASCII")


def test_a_group_is_submitted_shown_and_cancelled(service: FakeService, job_yaml: Path) -> None:
    valid = fake_service.record(JobSpec.model_validate(samples.SPEC))
    created = fake_service.record(samples.job(JobStatus.QUEUED), 201)
    service.on("POST", "/v1/jobs", valid, valid, created, created)
    arguments = ("--sweep", "training.learning_rate=0.01,0.1", "--seeds", "1")
    submitted = drmad(service, "submit", str(job_yaml), *arguments)
    heading, *ids = submitted.stdout.splitlines()
    assert (submitted.returncode, ids) == (0, [samples.ID] * 2)
    sent = [json.loads(request.body) for request in service.requests]
    assert {f"group {each['tags']['group']}" for each in sent} == {heading}
    assert [each["training"]["learning_rate"] for each in sent[2:]] == [0.01, 0.1]
    tags = {"group": "g", "sweep.seed": "1"}
    failed = samples.job(JobStatus.FAILED).model_copy(update={"tags": tags})
    page = Page[JobRecord](data=[failed], has_more=False)
    service.on("GET", "/v1/jobs", fake_service.record(page))
    service.on("GET", JOB, fake_service.record(failed))
    service.on("POST", f"{JOB}/cancel", fake_service.problem(409, "it has ended"))
    shown = drmad(service, "group", "g", "--cancel")
    assert shown.returncode == 1
    assert re.search(r"seed=1\s+1\s+0\s+–\s+–", shown.stdout)
