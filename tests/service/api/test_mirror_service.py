"""Jobs are mirrored while nobody watches, read back by the tools themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis
from safetensors.numpy import save
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from drmad_client.cli.mirror_service import MirrorService
from drmad_client.http.client import Client
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.spec.job import JobSpec
from drmad_service.settings import ApiSettings
from drmad_service.store import Lease, MetaIterationCommit, ResumePoint, Store
from drmad_service.store.layout.state_machine import Action
from tests.service.api.serving import serving
from tests.service.store.test_store import CAPACITY, step

pytestmark = pytest.mark.anyio

pb2: Any = wandb_internal_pb2  # its classes are made when it is imported


@pytest.fixture
def client(redis: Redis, redis_url: str) -> Iterator[Client]:
    with (
        serving(ApiSettings(redis_url=redis_url)) as (host, port),
        Client(f"http://{host}:{port}") as client,
    ):
        yield client


STATE = save({"hyperparameters/l2": np.zeros(2, np.float32)})


async def started(store: Store, spec: JobSpec) -> Lease:
    await store.create(spec)
    lease = await store.claim("scheduler", 60.0, CAPACITY)
    assert lease is not None
    infos = [HyperparameterInfo(name="l2", kind="l2", shape=[2], transform="exp")]
    await store.begin(lease, infos, ResumePoint(0, STATE, {"iteration": 0}))
    await store.act(lease, Action.RUN, "started")
    return lease


async def commit(store: Store, lease: Lease, iteration: int, loss: float = 1.0) -> None:
    point = ResumePoint(iteration + 1, STATE, {"iteration": iteration + 1})
    fields = {"next_state": point, "hypergradient": STATE}
    done = step(iteration, loss)
    await store.commit(lease, MetaIterationCommit(**vars(done) | fields))


async def polled(service: MirrorService) -> list[str]:
    return await asyncio.to_thread(lambda: list(service.poll()))


def losses(folder: Path) -> list[tuple[int, float]]:
    read = EventAccumulator(str(folder))
    read.Reload()
    return [(each.step, each.value) for each in read.Scalars("validation_loss")]


@pytest.mark.filterwarnings("ignore::FutureWarning:mlflow", "ignore::DeprecationWarning")
async def test_a_job_is_mirrored_as_it_goes_and_once_after_a_restart(
    client: Client,
    store: Store,
    spec: JobSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    runs, state = tmp_path / "runs", tmp_path / "state.txt"
    uri = f"file:{tmp_path / 'mlflow'}"
    targets = [f"tensorboard:{runs}", f"mlflow:{uri}"]
    service = MirrorService(client, targets, [], state)
    lease = await started(store, spec)
    assert await polled(service) == []
    await commit(store, lease, 0, 2.0)
    await polled(service)
    metrics = MlflowClient(uri)
    experiment = metrics.get_experiment_by_name("drmad")
    assert experiment is not None
    (run,) = metrics.search_runs([experiment.experiment_id])
    assert run.data.metrics["validation_loss"] == 2.0

    again = MirrorService(client, targets, [], state)  # the first one was killed
    await commit(store, lease, 1, 1.5)
    await polled(again)
    await store.act(lease, Action.SUCCEED, "iterations")
    queued, _ = await store.create(spec)
    await store.cancel(queued.id)
    assert sorted(await polled(again)) == sorted(
        f"{job_id} is mirrored" for job_id in (lease.job_id, queued.id)
    )
    assert losses(runs / lease.job_id) == [(0, 2.0), (1, 1.5)]
    history = metrics.get_metric_history(run.info.run_id, "validation_loss")
    assert [(each.step, each.value) for each in history] == [(0, 2.0), (1, 1.5)]
    assert metrics.get_run(run.info.run_id).info.status == "FINISHED"
    assert sorted(state.read_text().split()) == sorted([lease.job_id, queued.id])
    assert await polled(MirrorService(client, targets, [], state)) == []


async def test_a_tool_out_of_reach_holds_back_no_other_and_is_tried_again(
    client: Client, store: Store, spec: JobSpec, tmp_path: Path
) -> None:
    runs, late = tmp_path / "runs", tmp_path / "late"
    late.write_text("a file where the folder should be")
    targets = [f"tensorboard:{late}", f"tensorboard:{runs}"]
    service = MirrorService(client, targets, ["team:a"], tmp_path / "state.txt")
    lease = await started(store, spec.model_copy(update={"tags": {"team": "a"}}))
    await commit(store, lease, 0)
    await store.act(lease, Action.FAIL, "test")
    other, _ = await store.create(spec)
    await store.cancel(other.id)
    (trouble,) = await polled(service)
    assert trouble.startswith(f"{lease.job_id} is tried again: ")
    assert losses(runs / lease.job_id) == [(0, 1.0)]
    late.unlink()
    assert await polled(service) == [f"{lease.job_id} is mirrored"]
    assert losses(late / lease.job_id) == losses(runs / lease.job_id)


async def test_weights_and_biases_offline_holds_the_history(
    client: Client, store: Store, spec: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_DATA_DIR": str(tmp_path / "data"),
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }.items():
        monkeypatch.setenv(name, value)
    lease = await started(store, spec)
    await commit(store, lease, 0, 2.0)
    await commit(store, lease, 1, 1.5)
    await store.act(lease, Action.SUCCEED, "iterations")
    service = MirrorService(client, ["wandb:team/tuning"], [], tmp_path / "state.txt")
    assert await polled(service) == [f"{lease.job_id} is mirrored"]
    (file,) = tmp_path.glob(f"wandb/offline-run-*-{lease.job_id}/*.wandb")
    assert _history(file) == [(0, 2.0), (1, 1.5)]


def _history(file: Path) -> list[tuple[int, float]]:
    """Steps and losses of a run, from the records that its synchronisation would send."""
    found = []
    for raw in _records(file.read_bytes()):
        record: Any = pb2.Record()
        record.ParseFromString(raw)
        items = {
            item.key or ".".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        if "validation_loss" in items:
            found.append((int(items["_step"]), items["validation_loss"]))
    return found


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, which follows a header of seven bytes.

    Blocks have 32 KiB. A chunk has a checksum, its length and its type: whole, first, middle, last.
    """
    block, place, record = 32_768, 7, b""
    while place + 7 <= len(content):
        left = block - place % block
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if kind == 0:
            place += left
            continue
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""
