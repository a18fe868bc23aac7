"""Retrainings with what a job found, by SDK and command line, through Redis, on Ray."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from drmad_client.errors import Conflict, RetrainingFailed, UnprocessableEntity, WaitTimeout
from drmad_client.export.pytorch import state_dict
from drmad_client.http.job_handle import Job
from drmad_client.records.side_runs.retraining import RetrainedFigure, Retraining
from drmad_client.spec.job import JobSpec
from drmad_client.spec.side_runs.retraining import RetrainSpec
from drmad_workers import spec_adapter
from drmad_workers.catalog import Places
from drmad_workers.retraining.from_spec import retrainer
from drmad_workers.retraining.report import Arms
from tests.end_to_end.running import WAIT_S, Service

SPEC: dict[str, Any] = {
    "problem": {"data": {"name": "digits", "train": 100, "valid": 50, "test": 60}},
    "training": {"steps": 20, "batch_size": 20, "schedule": {"name": "cosine", "warmup": 4}},
    "hyperparameters": [{"kind": "sample_weight"}, {"kind": "learning_rate", "per": "step"}],
    "hypergradient": {"method": "replay"},
    "meta": {"iterations": 2, "confirmation": 0},
    "retrain": {"seeds": 2},
}

ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(("drmad_client", "drmad_workers", "drmad_service")))
runpy.run_path("recipe.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def job(service: Service) -> Iterator[Job]:
    with service.client() as client:
        yield client.jobs.create(SPEC).wait(timeout_s=WAIT_S)


def means(figures: Mapping[str, RetrainedFigure | Arms]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, each in figures.items():
        assert each.tuned is not None
        assert each.untuned is not None
        found |= {name: each.tuned.mean, f"untuned {name}": each.untuned.mean}
    return found


def test_the_cluster_trains_what_this_process_does_and_keeps_the_best_model(job: Job) -> None:
    asked: dict[str, Any] = {"seeds": 2, "steps": 30, "with_validation": True, "threshold": 0.45}
    found = job.retrain(**asked, progress=False)
    assert found.report is not None
    assert (found.report.steps, found.report.rows, found.total) == (30, 150, 4)
    raw = {name: torch.tensor(v) for name, v in job.hyperparameters("best", raw=True).items()}
    spec = JobSpec.model_validate(SPEC)
    here = retrainer(spec, RetrainSpec.model_validate(asked), raw, None, Places(), None)
    runs = [here.train(run, keep_model=True) for run in here.runs]
    expected = here.report([None if run is None else run[0] for run in runs])
    assert found.report.dropped == expected.dropped == len(here.dropped)
    assert means(found.report.figures) == pytest.approx(means(expected.figures), rel=1e-4)
    assert set(found.report.figures) == {"test_loss", "test_error"}

    # The model of the seed that is kept has the error that its run reports.
    assert found.report.best_seed == 0
    best = runs[1]
    assert best is not None
    problem = spec_adapter.problem(spec, Places(), None)
    problem.model.load_state_dict(state_dict(job.retrained_model(found.id)))
    assert problem.test is not None
    inputs, targets = problem.test
    with torch.no_grad():
        error = (problem.model(inputs.float()).argmax(1) != targets).double().mean()
    assert float(error) == pytest.approx(best[0]["test_error"])


def test_a_job_that_asks_for_it_is_retrained_at_its_end_and_ends_with_the_answer(
    job: Job, service: Service
) -> None:
    first = job.retrainings()[-1]
    assert (first.at_end, first.status, first.asked.seeds) == (True, "succeeded", 2)
    assert first.report is not None
    assert job.best is not None
    assert first.iteration == job.best.iteration
    # The record that wait() returned has the answer of the retraining at the end.
    assert job.record.answer == first.report.headline
    watched = service.run("watch", job.id)
    assert watched.stdout.strip().splitlines()[-1] == job.reload().record.answer
    assert f"retrained  {job.record.answer}" in service.run("show", job.id).stdout


def test_the_command_prints_the_answer_as_its_last_line(
    job: Job, service: Service, tmp_path: Path
) -> None:
    ran = service.run(
        "retrain", job.id, "--seeds", "2", "--drop-lowest", "10%", "--to", str(tmp_path)
    )
    assert ran.returncode == 0, ran.stderr
    last = ran.stdout.strip().splitlines()[-1]
    assert last.startswith("test error ")
    assert " in place of " in last
    assert "10 of 100 rows left out" in ran.stdout
    newest = job.retrainings()[0]
    assert newest.report is not None
    assert newest.report.headline == last
    kept = {path.name: path for path in tmp_path.iterdir()}
    assert Retraining.model_validate_json(kept["retraining.json"].read_bytes()) == newest
    assert load_file(kept["model.safetensors"]).keys() == job.retrained_model(newest.id).keys()
    assert load_file(kept["hyperparameters.safetensors"])["learning_rate"].shape == (20,)
    # The folder suffices to train again, where none of drmad can be imported.
    arguments = ["data.safetensors", "--seeds", "2"]
    alone = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 0, alone.stderr
    printed = dict(line.split(" ")[:2] for line in alone.stdout.splitlines())
    tuned = newest.report.figures["test_loss"].tuned
    assert tuned is not None
    assert float(printed["test_loss"]) == pytest.approx(tuned.mean, rel=0.15)


def test_the_data_of_a_recipe_are_those_that_the_job_trains_on(job: Job, tmp_path: Path) -> None:
    written = {path.name: path for path in job.save_recipe(tmp_path)}
    assert written.keys() == {"recipe.py", "hyperparameters.safetensors", "data.safetensors"}
    data = load_file(written["data.safetensors"])
    problem = spec_adapter.problem(JobSpec.model_validate(SPEC), Places(), None)
    for part in ("train", "valid", "test"):
        inputs, targets = getattr(problem, part)
        assert data[f"{part}_inputs"].equal(inputs)
        assert data[f"{part}_targets"].equal(targets)


def test_a_retraining_is_cancelled_and_what_does_not_fit_refused(job: Job) -> None:
    with pytest.raises(UnprocessableEntity, match="query of an attribution"):
        job.retrain(query="valid", progress=False)
    with pytest.raises(RetrainingFailed, match="one minibatch, must be left"):
        job.retrain(drop_lowest=90, progress=False)
    slow: dict[str, Any] = {"seeds": 100, "steps": 20_000}
    with pytest.raises(WaitTimeout, match="is still"):
        job.retrain(**slow, timeout_s=0.0, progress=False)
    with pytest.raises(Conflict, match="not finished"):
        job.retrain(progress=False)
    (running, *_) = job.retrainings()
    job.cancel_retraining(running.id)
    deadline = time.monotonic() + WAIT_S
    while not job.retrainings()[0].is_finished:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert job.retrainings()[0].status == "cancelled"
