"""Jobs of kind attribution by SDK, REST and command line, through Redis, on Ray."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from drmad_client.errors import DrmadError, JobFailed, NotFound, UnprocessableEntity
from drmad_client.files.influence_scores import InfluenceScores
from drmad_client.http.client import Client
from drmad_client.records.side_runs.retraining import RetrainingReport
from tests.end_to_end.running import WAIT_S, Service

SPEC: dict[str, Any] = {
    "kind": "attribution",
    "problem": {"data": {"name": "digits", "train": 100, "valid": 50, "test": 0}},
    "training": {"steps": 20, "batch_size": 20},
    "attribution": {"queries": ["valid", "rows:0-3"], "lds": 6},
    "replicas": {"count": 2},
}


def test_the_cluster_attributes_what_this_machine_does_and_keeps_it_with_the_job(
    client: Client, service: Service, tmp_path: Path
) -> None:
    job = client.jobs.create(SPEC).wait(timeout_s=WAIT_S)
    assert job.record.status == "succeeded", job.record.message
    assert (job.record.progress.iteration, job.record.progress.iterations) == (1, 1)
    report, scores = job.attribution(), job.scores()
    assert [query.name for query in report.queries] == ["valid", *(f"row {r}" for r in range(4))]
    assert (report.draws, report.rows, report.retrainings) == (2, 100, 6)
    assert report.agreement is not None
    assert report.queries[0].lds is not None
    best = report.queries[0].helpers[0]
    assert best.row == int(scores.order("valid")[-1])
    assert best.influence == pytest.approx(float(scores.of("valid").max()))
    assert best.picture is not None
    assert best.picture.startswith("data:image/png;base64,")

    file, here = tmp_path / "job.yaml", tmp_path / "here.safetensors"
    file.write_text(yaml.safe_dump(SPEC))
    options = ["--queries", "valid", "--queries", "rows:0-3", "--draws", "2", "--out", str(here)]
    ran = service.run("attribute", str(file), *options)
    assert ran.returncode == 0, ran.stderr
    expected = InfluenceScores.unpack(here.read_bytes())
    np.testing.assert_allclose(scores.influence, expected.influence, rtol=1e-4, atol=1e-7)

    with service.http() as http:
        page = http.get(f"/jobs/{job.id}").text
        text = http.get(f"/v1/jobs/{job.id}/attribution/scores?format=csv").text
    assert f"row {best.row}" in page
    assert best.picture.removeprefix("data:image/png;base64,")[:60] in page
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 100
    assert float(rows[best.row]["influence on valid"]) == pytest.approx(best.influence)

    out = tmp_path / "scores.parquet"
    shown = service.run("attribution", job.id, "--out", str(out), "--top", "2")
    assert shown.returncode == 0, shown.stderr
    assert f"row {best.row}" in shown.stdout
    assert out.read_bytes()[:4] == b"PAR1"
    retrained = service.run(
        "retrain", job.id, "--drop-lowest", "10%", "--seeds", "2", "--query", "row 1",
        "--output", "json",
    )  # fmt: skip
    assert retrained.returncode == 0, retrained.stderr
    found = RetrainingReport.model_validate(json.loads(retrained.stdout))
    difference = found.figures["validation_loss"].difference
    assert difference is not None
    assert (found.dropped, difference.count) == (10, 2)


def test_a_tuned_job_is_retrained_without_the_rows_of_lowest_weight(
    client: Client, service: Service
) -> None:
    tuning = {
        "problem": SPEC["problem"],
        "training": SPEC["training"],
        "hyperparameters": [{"kind": "sample_weight"}, {"kind": "l2"}],
        "hypergradient": {"method": "replay"},
        "meta": {"iterations": 2},
    }
    job = client.jobs.create(tuning).wait(timeout_s=WAIT_S)
    asked = ["retrain", job.id, "--drop-lowest", "20", "--seeds", "2"]
    ran = service.run(*asked, "--output", "json")
    assert ran.returncode == 0, ran.stderr
    found = RetrainingReport.model_validate(json.loads(ran.stdout))
    loss = found.figures["validation_loss"]
    assert (found.rows, found.dropped, found.seeds) == (100, 20, 2)
    assert loss.difference is not None
    assert loss.difference.mean != 0.0
    refused = service.run(*asked, "--query", "valid")
    assert refused.returncode == 64
    assert "query of an attribution; leave it out for a tuning job" in refused.stderr


def test_an_attribution_is_cancelled_while_it_runs(client: Client) -> None:
    slow = SPEC | {"replicas": {"count": 1}, "attribution": {"lds": 1000}}
    job = client.jobs.create(slow)
    deadline = time.monotonic() + WAIT_S
    while job.reload().record.progress.phase != "retraining":
        assert time.monotonic() < deadline
        assert not job.record.status.is_terminal, job.record.message
        time.sleep(0.1)
    job.cancel()
    with pytest.raises(JobFailed, match="cancelled by its user"):
        job.wait(timeout_s=WAIT_S, progress=False)
    with pytest.raises(NotFound, match="has no attribution"):
        job.attribution()


def test_jobs_that_cannot_be_attributed_are_refused_by_field(client: Client) -> None:
    for words, changes in (
        ("differentiates by the weights", {"hyperparameters": [{"kind": "l2"}]}),
        ("must be valid, each", {"attribution": {"queries": ["all"]}}),
        ("auto, replay, stored, shortcut", {"hypergradient": {"method": "one_step"}}),
        ("belongs to kind attribution", {"kind": "tuning", "hyperparameters": [{"kind": "l2"}]}),
        ("at least one hyperparameter", {"kind": "tuning", "attribution": None}),
    ):
        with pytest.raises(UnprocessableEntity, match=words):
            client.jobs.create(SPEC | changes)
    wrong = client.jobs.create(SPEC | {"attribution": {"queries": ["rows:99"]}})
    with pytest.raises(DrmadError, match="below 50"):
        wrong.wait(timeout_s=WAIT_S)
