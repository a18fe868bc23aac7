"""Histories in MLflow and TensorBoard, read back by those tools themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from drmad_client.cli.mirroring import BadMirror, MirrorMissing, mirrored, open_mirror
from drmad_client.http.client import Client
from drmad_client.records.events import Event
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.pages import Page
from drmad_client.records.status import JobStatus
from tests.client import samples
from tests.client.http import fake_service
from tests.client.http.fake_service import Answer, FakeService

JOB = f"/v1/jobs/{samples.ID}"
FILES = {"hyperparameters.safetensors", "model.safetensors", "history.csv", "job.yaml"}


def serve_history(service: FakeService, *lengths: int) -> None:
    """Serve a job whose history has the next of the given lengths at each request."""
    service.on("GET", JOB, fake_service.record(samples.job(JobStatus.SUCCEEDED, 3)))
    pages = [
        Page[MetaIteration](data=[samples.record(n) for n in range(length)], has_more=False)
        for length in lengths
    ]
    service.on("GET", f"{JOB}/history", *map(fake_service.record, pages))
    for part in ("hyperparameters", "model"):
        service.on("GET", f"{JOB}/{part}", Answer(200, save({"l2": np.zeros(2)})))


def mirror(service: FakeService, target: str, *events: Event) -> None:
    with (
        Client(service.url) as client,
        mirrored(client, samples.ID, [open_mirror(target)]) as on_event,
    ):
        for event in events:
            on_event(event)


# The job is mirrored while it runs: the event of an iteration that the history had already, that
# of a new one, and one that only the history at the end has.
EVENTS = (samples.iteration_event(1, 0), samples.iteration_event(2, 1))
LENGTHS = (1, 3)


def test_tensorboard_reads_every_iteration_once(service: FakeService, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        serve_history(service, *LENGTHS)
        mirror(service, f"tensorboard:{tmp_path}", *EVENTS)
        read: Any = EventAccumulator(str(tmp_path / samples.ID))
        read.Reload()
        losses = [(event.step, event.value) for event in read.Scalars("validation_loss")]
        assert losses == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
        assert "metrics/test_error" in read.Tags()["scalars"]
        files = {path.name for path in (tmp_path / samples.ID).iterdir()}
        assert {name for name in files if "tfevents" not in name} == FILES


@pytest.mark.filterwarnings("ignore::FutureWarning:mlflow", "ignore::DeprecationWarning")
def test_mlflow_has_one_run_for_a_job(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    uri = (tmp_path / "runs").as_uri()
    for _ in range(2):
        serve_history(service, *LENGTHS)
        mirror(service, f"mlflow:{uri}", *EVENTS)
        read: Any = MlflowClient(uri)
        experiment = read.get_experiment_by_name("drmad")
        (run,) = read.search_runs([experiment.experiment_id])
        losses = read.get_metric_history(run.info.run_id, "validation_loss")
        assert [(m.step, m.value) for m in losses] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
        assert run.info.status == "FINISHED"
        assert run.data.params["meta.iterations"] == "3"
        assert run.data.params["hyperparameters.0.kind"] == "sample_weight"
        assert run.data.tags["team"] == "vision"
        assert {file.path for file in read.list_artifacts(run.info.run_id)} == FILES


@pytest.mark.parametrize("target", ["comet:there", "mlflow", "wandb:", "tensorboard:", ""])
def test_an_unknown_mirror_is_named(target: str) -> None:
    with pytest.raises(BadMirror, match="expected mlflow:URI, wandb:PROJECT or tens"):
        open_mirror(target)


@pytest.mark.parametrize("tool", ["mlflow", "tensorboard", "wandb"])
def test_a_missing_package_says_what_to_install(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [n for n in sys.modules if n.split(".")[0] == tool] + [tool]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MirrorMissing, match=rf'install it: pip install "\.\[{tool}\]" in the clone'
    ):
        open_mirror(f"{tool}:somewhere")
