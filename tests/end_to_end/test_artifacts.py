"""A model too large for Redis, through the whole service: kept, fetched, found after a restart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from drmad_client.records.status import JobStatus
from drmad_workers import spec_adapter, tune
from tests.end_to_end.running import WAIT_S, Service
from tests.end_to_end.test_lifecycle import committed, done, entered, numbers, until, vector
from tests.end_to_end.test_online import spec as online_spec
from tests.s3 import S3

SPEC: dict[str, Any] = {
    "problem": {"data": {"name": "digits"}, "model": {"name": "mlp", "hidden": [64]}},
    "hyperparameters": [{"kind": "l2"}],
    "training": {"steps": 5, "batch_size": 20},
    "hypergradient": {"method": "shortcut"},
    "meta": {"iterations": 3, "confirmation": 0.0},
    "retrain": {"seeds": 2},
}


@pytest.fixture
def service(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    """A service that keeps no model in Redis."""
    import json

    monkeypatch.setenv("DRMAD_INLINE_BYTES", "1000")
    arguments: list[str] = []
    if request.param == "s3":
        s3: S3 = request.getfixturevalue("s3")
        options = tmp_path / "options.json"
        options.write_text(json.dumps(s3.options))
        url = s3.new_bucket().url
        arguments = ["--artifacts-url", url, "--artifacts-options-file", str(options)]
    running = Service(tmp_path / "home", *arguments)
    running.start()
    yield running
    running.interrupt()


IN_A_BUCKET = pytest.mark.parametrize(
    "service", ["s3", pytest.param("folder", marks=pytest.mark.full)], indirect=True
)
IN_A_FOLDER = pytest.mark.parametrize(
    "service", ["folder", pytest.param("s3", marks=pytest.mark.full)], indirect=True
)


@IN_A_BUCKET
@pytest.mark.filterwarnings("ignore::drmad_client.errors.JobWarning")
def test_a_large_model_is_kept_as_an_artifact_and_survives_a_restart(
    service: Service, tmp_path: Path
) -> None:
    with service.client() as client:
        job = client.jobs.create(SPEC).wait(timeout_s=WAIT_S)
        weights = job.model()
        job.save(tmp_path / "before")
    with service.http() as http:
        found = http.get(f"/v1/jobs/{job.id}/model", headers={"Range": "bytes=8-99"})
        assert (found.status_code, len(found.content)) == (206, 92)
        digest = found.headers["etag"].strip('"')
    file = tmp_path / "before" / "model.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
    assert load_file(file).keys() == weights.keys()
    folder = service.home / "data" / "jobs" / job.id
    kept = {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}
    is_folder = "--artifacts-url" not in service._arguments
    assert kept == ({"models", "retrained", "vectors"} if is_folder else set())
    service.interrupt()
    service.start()
    done = service.run("fetch", job.id, "--to", str(tmp_path / "after"))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "after" / "model.safetensors").read_bytes() == file.read_bytes()
    with service.client() as client:
        again = client.jobs.retrieve(job.id)
        (retrained,) = again.retrainings()
        assert again.retrained_model(retrained.id).keys() == weights.keys()


@IN_A_FOLDER
def test_states_and_checkpoints_are_artifacts_from_which_a_job_goes_on_bit_for_bit(
    service: Service,
) -> None:
    with service.client() as client:
        job = client.jobs.create(online_spec())
        until(client, job, committed(6))
        client.jobs.pause(job.id)
        until(client, job, entered(JobStatus.PAUSED))
        client.jobs.resume(job.id)
        ended = done(client, job)
        assert ended.status is JobStatus.SUCCEEDED
        history = numbers(client, ended)
        stated = ended.spec
        problem = spec_adapter.problem(stated, None, None)
        parts = spec_adapter.kinds(stated), spec_adapter.training(stated), None
        whole = tune(problem, *parts, spec_adapter.meta(stated), seed=stated.seed)
        assert [loss for _, loss, _ in history] == [e.validation_loss for e in whole.evaluations]
        forked = done(client, client.jobs.fork(job.id, 8))
        assert numbers(client, forked) == history[8:]
        assert np.array_equal(vector(client, forked), vector(client, ended))
        started = client.jobs.create(online_spec(start={"job": job.id}))
        assert done(client, started).status is JobStatus.SUCCEEDED
        first = client.jobs.hyperparameters(started.id, 0)["sample_weight"]
        assert np.array_equal(first, client.jobs.hyperparameters(job.id, "best")["sample_weight"])
    if "--artifacts-url" not in service._arguments:
        folder = service.home / "data" / "jobs" / job.id
        kept = {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}
        assert kept == {"models", "vectors", "training"}
