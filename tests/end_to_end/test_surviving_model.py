"""A large model of a job survives the loss of its worker and of the API, and is read by range."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from drmad_client.records.status import JobStatus
from tests.end_to_end.test_lifecycle import committed, done, numbers, until
from tests.end_to_end.victim import Victim, running

pytestmark = pytest.mark.filterwarnings("ignore::drmad_client.errors.JobWarning")  # of the loss

ITERATIONS = 4


def spec(hidden: int) -> dict[str, Any]:
    return {
        "problem": {
            "data": {"name": "digits"},
            "model": {"name": "mlp", "hidden": [hidden, hidden]},
        },
        "hyperparameters": [{"kind": "l2"}],
        "training": {"steps": 3, "batch_size": 10, "learning_rate": 0.01},
        "hypergradient": {"method": "stored"},
        "meta": {"iterations": ITERATIONS, "confirmation": 0.0},
    }


def ranged(http: httpx.Client, path: str, start: int, end: int, etag: str) -> bytes:
    headers = {"Range": f"bytes={start}-{end - 1}", "If-Match": etag}
    found = http.get(path, headers=headers, timeout=600.0)
    assert found.status_code == 206, found.text
    return found.content


def survives(victim: Victim, hidden: int, tmp_path: Path) -> int:
    """Trains while a worker is lost, and reads the model around a loss of the API."""
    chance = random.Random(0)
    with victim.service.client() as client:
        whole = done(client, client.jobs.create(spec(hidden)))
        assert whole.status is JobStatus.SUCCEEDED
        job = client.jobs.create(spec(hidden))
        until(client, job, committed(1))
    victim.kill("replica", chance)
    with victim.service.client() as client:
        ended = done(client, job)
        assert ended.status is JobStatus.SUCCEEDED
        assert numbers(client, ended) == numbers(client, whole)
    path = f"/v1/jobs/{job.id}/model"
    with victim.service.http() as http:
        with http.stream("GET", path) as begun:
            etag, size = begun.headers["etag"], int(begun.headers["content-length"])
        half = size // 2
        first = ranged(http, path, 0, half, etag)
    victim.kill("API", chance)
    victim.service.wait_until_ready()
    with victim.service.http() as http:
        digest = hashlib.sha256(first)
        for start in range(half, size, 16 << 20):
            digest.update(ranged(http, path, start, min(size, start + (16 << 20)), etag))
        other = http.head(f"/v1/jobs/{whole.id}/model").headers.get("etag")
    assert f'"{digest.hexdigest()}"' == etag
    assert other in (None, etag)  # the worker that was lost changed nothing
    with victim.service.client() as client:
        file = client.jobs.download_model(job.id, tmp_path / "model.safetensors")
    with file.open("rb") as opened:
        assert f'"{hashlib.file_digest(opened, "sha256").hexdigest()}"' == etag
    return size


def test_a_model_survives_the_loss_of_its_worker_and_of_the_api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRMAD_INLINE_BYTES", "100000")
    with running(tmp_path / "home", ITERATIONS) as victim:
        assert survives(victim, 300, tmp_path) > 400_000


@pytest.mark.full
def test_a_model_of_200_mb_survives_the_loss_of_its_worker_and_of_the_api(tmp_path: Path) -> None:
    with running(tmp_path / "home", ITERATIONS) as victim:
        assert survives(victim, 7050, tmp_path) > 200_000_000
