"""The user's own model, loss and hyperparameters, from a folder of theirs."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from drmad_client.errors import JobFailed, JobWarning, UnprocessableEntity
from drmad_client.http.client import Client
from drmad_client.records.job import JobError
from drmad_client.records.status import JobStatus
from tests.end_to_end.running import WAIT_S, Service, descendants

EXAMPLE = Path(__file__).parents[2] / "examples" / "own-model"


SMALL: dict[str, Any] = {
    "problem": {"data": {"name": "digits", "train": 100, "valid": 50, "test": 0}},
    "hyperparameters": [{"kind": "l2", "per": "layer"}],
    "training": {"steps": 10, "batch_size": 10},
    "hypergradient": {"method": "replay"},
}
CALM = """
import time
import torch
from drmad_workers import Problem

def inner_loss(forward, hyperparameters, batch):
    assert batch.inputs.isfinite().all()  # a check of values prevents tracing
    time.sleep(0.01)
    loss = torch.nn.functional.cross_entropy(forward(batch.inputs), batch.targets)
    return loss

def build():
    data = torch.randn(40, 3), torch.arange(40) % 2
    return Problem(model=torch.nn.Linear(3, 2), train=data, valid=data, inner_loss=inner_loss)
"""


@pytest.fixture(scope="module", autouse=True)
def bystander(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A calm job beside all of the bad ones, and processes: none of them may notice anything."""
    folder = written(tmp_path_factory.mktemp("calm") / "code", CALM)
    assert service.process is not None
    before = processes(service)
    with service.client() as client:
        problem = {"entrypoint": "my_problem:build", "code": client.code.upload(folder)}
        job = client.jobs.create(
            {
                "problem": problem,
                "hyperparameters": [{"kind": "l2", "per": "model"}],
                "training": {"steps": 5, "batch_size": 10},
                "hypergradient": {"method": "stored"},
                "meta": {"iterations": 100_000, "rollback_tolerance": None},
                "resources": {"cpus": 0.5},
            }
        )
        yield
        for event in client.jobs.events(job.id):
            if event.type == "iteration":
                break
        job.reload()
        assert job.status is JobStatus.RUNNING
        assert [t.reason for t in job.record.transitions][-2:] == ["claimed", "started"]
        assert processes(service) == before
        job.cancel()
        with pytest.raises(JobFailed):
            job.wait(timeout_s=WAIT_S)
        done = [record.iteration for record in job.history()]
        assert done == list(range(len(done)))
        assert done
        assert not [e for e in client.jobs.events(job.id) if e.type == "warning"]


def processes(service: Service) -> set[int]:
    """API and scheduler."""
    assert service.process is not None
    return {
        pid
        for pid, command in descendants(service.process.pid).items()
        if "drmad_client serve" in command or "drmad_client schedule" in command
    }


def spec(client: Client, folder: Path, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = yaml.safe_load((EXAMPLE / "job.yaml").read_text())
    fields["problem"]["code"] = client.code.upload(folder)
    fields["training"] |= {"steps": 30, "batch_size": 10}
    return fields | changes


def written(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "my_problem.py").write_text(text)
    return folder


def failure(client: Client, folder: Path, **changes: Any) -> JobError:
    job = client.jobs.create(spec(client, folder, **changes))
    with pytest.raises(JobFailed) as caught:
        client.jobs.wait(job.id, timeout_s=WAIT_S)
    error = caught.value.job.error
    assert error is not None
    return error


def test_own_problem_runs_like_a_built_in_one(
    client: Client, service: Service, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(EXAMPLE, folder)
    submitted = service.run("submit", str(folder / "job.yaml"), "--code", str(folder), "--watch")
    assert submitted.returncode == 0, submitted.stderr
    job = client.jobs.retrieve(submitted.stdout.split()[0])
    assert [h.shape for h in job.record.hyperparameters] == [[10, 10], [3]]
    history = client.jobs.history(job.id)
    assert [r.iteration for r in history] == list(range(5))
    mixing = client.jobs.hyperparameters(job.id, "last")["mixing"]
    assert mixing.shape == (10, 10)
    assert (mixing != client.jobs.hyperparameters(job.id, 0)["mixing"]).any()
    assert "features.1.running_mean" in client.jobs.model(job.id)


def test_a_worker_checks_a_job_that_is_not_created(
    client: Client, service: Service, tmp_path: Path
) -> None:
    before = [job.id for job in client.jobs.list(limit=100)]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(SMALL))
    printed = service.run("submit", str(tmp_path / "job.yaml"), "--check", timeout_s=WAIT_S)
    assert printed.returncode == 0, printed.stderr
    assert "hyperparameter l2: 2" in printed.stdout
    assert "no problems found" in printed.stdout
    folder = written(tmp_path / "bad", "def build(**_): return 1 / 0")
    with pytest.raises(UnprocessableEntity) as caught:
        client.jobs.check(spec(client, folder))
    assert caught.value.code == "user_code"
    assert "ZeroDivisionError" in str(caught.value)
    assert "my_problem.py" in str(caught.value)
    assert [job.id for job in client.jobs.list(limit=100)] == before


def test_two_versions_of_a_module_run_side_by_side(client: Client, tmp_path: Path) -> None:
    original = (EXAMPLE / "my_problem.py").read_text()
    narrow = written(tmp_path / "a", original)
    wide = written(tmp_path / "b", original.replace("ConvNet(width)", "ConvNet(2 * width)"))
    short = {"meta": {"iterations": 1}}
    jobs = [client.jobs.create(spec(client, folder, **short)) for folder in (narrow, wide)]
    widths = []
    for job in jobs:
        client.jobs.wait(job.id, timeout_s=WAIT_S)
        widths.append(client.jobs.model(job.id)["features.0.weight"].shape[0])
    assert widths == [8, 16]


@pytest.mark.parametrize(
    ("code", "error_code", "words", "traceback"),
    [
        ("import no_such_module", "user_code", "No module named 'no_such_module'", "my_problem.py"),
        ("def build(**_): return 1 / 0", "user_code", "ZeroDivisionError", "1 / 0"),
        ("def build(**_): return 3", "problem_invalid", "must return a drmad_workers.Problem", ""),
        (
            "def other(): pass",
            "problem_invalid",
            "must name a function of my_problem, got 'build'",
            "",
        ),
        ("raise SystemExit(3)", "user_code", "SystemExit: 3", "my_problem.py"),
    ],
)
def test_bad_code_fails_the_job_with_the_users_own_message(
    client: Client, tmp_path: Path, code: str, error_code: str, words: str, traceback: str
) -> None:
    error = failure(client, written(tmp_path / "bad", code))
    assert error.code == error_code
    assert words in error.message
    assert traceback in (error.traceback or "")
    assert "drmad_workers" not in (error.traceback or "")


def test_exception_in_the_loss_names_the_users_line(client: Client, tmp_path: Path) -> None:
    text = (EXAMPLE / "my_problem.py").read_text()
    raising = text.replace(
        "    soft = ",
        "    CALLS.append(float(batch.inputs.sum()))  # a value, so that this is not traced\n"
        "    if len(CALLS) == 37:\n        raise RuntimeError('at 37')\n"
        "    soft = ",
    ).replace("class ConvNet", "CALLS = []\n\n\nclass ConvNet")
    error = failure(client, written(tmp_path / "raising", raising))
    assert error.code == "user_code"
    assert "at 37" in error.message
    assert "my_problem.py" in error.message


@pytest.mark.filterwarnings("ignore::drmad_client.errors.JobWarning")
def test_process_that_exits_fails_its_job_and_no_other(client: Client, tmp_path: Path) -> None:
    exits = "import os\ndef build(**_): os._exit(1)"
    error = failure(client, written(tmp_path / "exits", exits), retry={"replica_failures": 1})
    assert error.code == "replica_lost"
    assert "2 times in a row" in error.message
    assert "os._exit" in error.message
    good = client.jobs.create(spec(client, EXAMPLE, meta={"iterations": 1}))
    assert client.jobs.wait(good.id, timeout_s=WAIT_S).best is not None


@pytest.mark.filterwarnings("ignore::drmad_client.errors.JobWarning")
def test_the_last_words_of_a_process_that_crashes_are_in_the_log(
    client: Client, tmp_path: Path
) -> None:
    crashes = """
        import ctypes, faulthandler, os
        def build(**_):
            faulthandler.enable()
            print("before the crash")
            os.write(1, b"no end of line")
            ctypes.string_at(0)
    """
    job_spec = written(tmp_path / "crashes", textwrap.dedent(crashes))
    job = client.jobs.create(spec(client, job_spec, retry={"replica_failures": 1}))
    with pytest.raises(JobFailed) as caught:
        client.jobs.wait(job.id, timeout_s=WAIT_S)
    lines = [line.text for line in client.jobs.logs(job.id)]
    for _ in range(2):  # each of the two processes
        lines = lines[lines.index("before the crash") :]
        assert lines[1] == "no end of line"
        assert "Fatal Python error: Segmentation fault" in lines
        assert any("in build" in line for line in lines)
        lines = lines[1:]
    assert caught.value.log_tail
    assert lines[-len(caught.value.log_tail) :] == caught.value.log_tail


@pytest.mark.filterwarnings("ignore::drmad_client.errors.JobWarning")
def test_lack_of_memory_counts_as_a_lost_replica_and_says_what_needs_less(
    client: Client, tmp_path: Path
) -> None:
    text = (EXAMPLE / "my_problem.py").read_text()
    greedy = text.replace("    soft = ", "    print('begins')\n    torch.empty(2**50)\n    soft = ")
    error = failure(
        client,
        written(tmp_path / "greedy", greedy),
        retry={"replica_failures": 1},
        hypergradient={"method": "replay"},
    )
    assert error.code == "out_of_memory"
    assert "2 times in a row" in error.message
    assert "smaller training.batch_size" in error.message
    job = next(iter(client.jobs.list(status=JobStatus.FAILED, limit=1)))
    warnings = [event.data for event in client.jobs.events(job.id) if event.type == "warning"]
    assert [warning["code"] for warning in warnings] == ["replica_lost"]
    assert "can't allocate memory" in warnings[0]["message"]
    assert [line.text for line in client.jobs.logs(job.id)].count("begins") == 2


def test_code_that_allocates_all_memory_meets_its_limit(client: Client, tmp_path: Path) -> None:
    """The pages are never touched, so that nothing else on the machine feels it."""
    hoards = "import torch\ndef build(**_):\n    kept = []\n    while True: kept.append("
    folder = written(tmp_path / "hoards", hoards + "torch.empty(2**26))")
    limits = {"resources": {"memory_bytes": 4 << 30}, "retry": {"replica_failures": 0}}
    error = failure(client, folder, **limits)
    assert error.code == "out_of_memory"
    assert "allocate" in error.message


def test_endless_loop_ends_with_the_time_limit(client: Client, tmp_path: Path) -> None:
    endless = "def build(**_):\n    while True: pass"
    error = failure(client, written(tmp_path / "endless", endless), timeout_s=5.0)
    assert error.code == "timeout"


def test_what_the_code_prints_is_in_the_logs(client: Client, tmp_path: Path) -> None:
    text = (EXAMPLE / "my_problem.py").read_text()
    prints = """
    import os, subprocess
    print("building now, with a surrogate \\ud800")
    subprocess.run(["echo", "by a subprocess"], check=True)
    os.write(2, b"by the system, without an end of line")
    images, labels"""
    printing = text.replace("\n    images, labels", prints, 1)
    assert printing != text
    lost = '"error": error_rate, "lost": lambda *of: error_rate(*of) * float("nan")'
    printing = printing.replace('"error": error_rate', lost)
    folder = written(tmp_path / "printing", printing)
    job = client.jobs.create(spec(client, folder, meta={"iterations": 1}))
    with pytest.warns(JobWarning, match="_lost is nan at meta-iteration 1"):
        client.jobs.wait(job.id, timeout_s=WAIT_S)
    lines = [line.text for line in client.jobs.logs(job.id)]
    assert "building now, with a surrogate \\ud800" in lines
    assert "by a subprocess" in lines
    assert "by the system, without an end of line" in lines
    assert not [line for line in lines if line.startswith(":")]  # what Ray tells its own monitor
    (done,) = client.jobs.retrieve(job.id).history()
    assert done.not_finite == {"validation_lost": "nan", "test_lost": "nan"}
    assert "validation_lost" not in done.metrics


def test_code_that_was_not_uploaded_is_refused_at_once(client: Client) -> None:
    fields = spec(client, EXAMPLE)
    fields["problem"]["code"] = "sha256:" + "0" * 64
    with pytest.raises(UnprocessableEntity) as caught:
        client.jobs.create(fields)
    assert caught.value.errors[0].path == "problem.code"
