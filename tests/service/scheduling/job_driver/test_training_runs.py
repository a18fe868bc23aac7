"""Where the training run of an online job goes on after a loss, and what a checkpoint may take."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from drmad_client.records.status import JobStatus
from drmad_client.spec.outer.online import checkpoint_refusal
from drmad_service.ray_driver.connection import CallFailed
from drmad_service.store import Lease, MetaIterationCommit, Store
from drmad_service.store.layout import keys
from drmad_workers.artifacts.artifact import Artifact
from drmad_workers.ray_actor.messages import Failure, PackedTraining, Prepared, StepResult
from tests.service.scheduling.conftest import Drive
from tests.service.scheduling.stand_in import INFO, START, StandInCluster, result

pytestmark = pytest.mark.anyio

LOST = Failure("replica_lost", "The actor is dead because its node has died.")

ONLINE: dict[str, Any] = {
    "training": {"steps": 40, "batch_size": 10},
    "meta": {"mode": "online", "window": 5, "checkpoint_every": 2},
}
"""Eight windows, with checkpoints before the windows 2, 4 and 6."""


def window(number: int, finished: str | None = None) -> StepResult:
    """What a replica returns for a window; the first one is measured."""
    return result(number, finished=finished, is_best=number == 0)


async def checkpointed(cluster: StandInCluster, last: int) -> None:
    """Takes the windows up to `last`."""
    for number in range(last + 1):
        (await cluster.called("whole_meta_iteration")).returns(window(number))
        if number % 2 == 1:
            state = PackedTraining(f"training {number + 1}".encode(), {"step": 5 * number + 5})
            (await cluster.called("training_state")).returns(state)


@pytest.mark.parametrize(
    ("lost", "start", "words"),
    [
        ([], 4, None),
        ([b"training 4"], 2, "before window 5 is lost or damaged"),
        ([b"training 2", b"training 4"], 0, "the training run goes on from its begin"),
    ],
)
async def test_a_lost_replica_trains_again_from_the_last_checkpoint_that_is_whole(
    drive: Drive,
    cluster: StandInCluster,
    redis: Redis,
    lost: list[bytes],
    start: int,
    words: str | None,
) -> None:
    driven = await drive(**ONLINE)
    await checkpointed(cluster, last=4)
    call = await cluster.called("whole_meta_iteration")
    key = keys.job(driven.lease.job_id, "checkpoint_chunks")
    for name, content in (await redis.hgetall(key)).items():
        if content in lost:
            await redis.hset(key, name, content[:-1] + b"?")
    call.raises(CallFailed(LOST))
    again = await cluster.called("resume_training")
    first, state, points = again.arguments
    expected = PackedTraining(f"training {start}".encode(), {"step": 5 * start}) if start else None
    assert (first, state) == (start, expected)
    assert [each.tensors for each in points] == [
        b"state %d" % number if number else b"start" for number in range(start, 5)
    ]
    again.returns(None)
    following = await cluster.called("whole_meta_iteration")
    assert following.arguments[0].tensors == b"state 5"
    following.returns(window(5, finished="iterations"))
    (await cluster.called("training_state")).returns(PackedTraining(b"training 6", {}))
    assert (await driven.released()).status is JobStatus.SUCCEEDED
    told = [w["message"] for w in await driven.events("warning") if w["code"] == "checkpoint_lost"]
    assert len(told) == len(lost)
    assert words is None or words in told[-1]


@pytest.mark.parametrize("mode", [ONLINE, {}], ids=["online", "restart"])
async def test_the_next_meta_iteration_is_computed_while_one_is_committed(
    drive: Drive, cluster: StandInCluster, monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]
) -> None:
    may_commit = asyncio.Event()
    commit = Store.commit

    async def late(store: Store, lease: Lease, step: MetaIterationCommit) -> JobStatus:
        await may_commit.wait()
        return await commit(store, lease, step)

    monkeypatch.setattr(Store, "commit", late)
    driven = await drive(**mode)
    (await cluster.called("whole_meta_iteration")).returns(window(0))
    ahead = await cluster.called("whole_meta_iteration")
    assert ahead.arguments[0] == window(0).state
    assert (await driven.store.get(driven.lease.job_id)).progress.iteration == 0
    ahead.returns(window(1, finished="iterations"))
    assert cluster.calls["training_state"].empty()
    may_commit.set()
    if mode == ONLINE:
        (await cluster.called("training_state")).returns(PackedTraining(b"training 2", {}))
    assert (await driven.released()).progress.iteration == 2
    assert cluster.calls["whole_meta_iteration"].empty()


async def test_a_training_state_is_taken_before_the_next_window_begins(
    drive: Drive, cluster: StandInCluster
) -> None:
    await drive(**ONLINE)
    for number in range(2):
        (await cluster.called("whole_meta_iteration")).returns(window(number))
    state = await cluster.called("training_state")
    assert cluster.calls["whole_meta_iteration"].empty()
    state.returns(PackedTraining(b"training 2", {"step": 10}))
    assert (await cluster.called("whole_meta_iteration")).arguments[0].tensors == b"state 2"


async def test_a_replica_goes_on_by_itself_up_to_the_next_checkpoint(
    drive: Drive, cluster: StandInCluster
) -> None:
    await drive(**ONLINE)
    first = await cluster.called("whole_meta_iteration")
    assert first.arguments[-1] is True
    first.returns(replace(window(0), goes_on=True))
    second = await cluster.called("following_meta_iteration")
    assert second.arguments == (False,)
    second.returns(window(1))
    (await cluster.called("training_state")).returns(PackedTraining(b"training 2", {"step": 10}))
    third = await cluster.called("whole_meta_iteration")
    assert (third.arguments[0].tensors, third.arguments[-1]) == (b"state 2", True)


async def test_a_window_that_may_write_a_superseded_model_waits_for_the_commit(
    drive: Drive, cluster: StandInCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_commit = asyncio.Event(), asyncio.Event()

    async def late(store: Store, lease: Lease, step: MetaIterationCommit) -> JobStatus:
        began.set()
        await may_commit.wait()
        return JobStatus.CANCELLING

    monkeypatch.setattr(Store, "commit", late)
    await drive(**ONLINE)
    measured = replace(window(0), model=Artifact("0" * 64, 8))
    (await cluster.called("whole_meta_iteration")).returns(measured)
    await began.wait()
    assert cluster.calls["whole_meta_iteration"].empty()
    may_commit.set()


async def test_a_checkpoint_that_the_service_does_not_keep_is_refused_at_the_start(
    drive: Drive, cluster: StandInCluster
) -> None:
    cluster.answers["prepare"] = replace(Prepared([INFO], START), training_bytes=600)
    driven = await drive(
        {"max_model_bytes": 1000}, **ONLINE, replicas={"count": 2}, resources={"cpus": 0.5}
    )
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "checkpoint_too_large")
    assert "at most 1000 bytes (max_model_bytes of the service), got 600 for each of 2" in (
        job.message
    )
    assert cluster.calls["preflight"].empty()


def test_one_replica_is_not_called_each_of_one() -> None:
    assert "got 600: take an optimizer with less memory" in checkpoint_refusal(600, 1, 100)
    assert "got 600 for each of 2 replicas: take fewer replicas" in checkpoint_refusal(600, 2, 100)


async def test_a_window_that_diverges_is_not_rolled_back(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive(**ONLINE)
    await checkpointed(cluster, last=0)
    failure = Failure("training_diverged", "meta-iteration 1: the loss is nan", 1, 3)
    (await cluster.called("whole_meta_iteration")).returns(failure)
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "training_diverged")
    assert "are not rolled back: lower meta.learning_rate" in job.message


async def test_patience_ends_an_online_job_that_was_interrupted_with_a_measured_window(
    drive: Drive, cluster: StandInCluster
) -> None:
    meta = ONLINE["meta"] | {"patience": 1}
    driven = await drive(**ONLINE | {"meta": meta})
    (await cluster.called("whole_meta_iteration")).returns(window(0))
    stale = window(1)
    stale.state.scalars["stale"] = 1
    (await cluster.called("whole_meta_iteration")).returns(stale)
    (await cluster.called("training_state")).returns(PackedTraining(b"training 2", {}))
    (await cluster.called("whole_meta_iteration")).raises(CallFailed(LOST))
    (await cluster.called("resume_training")).returns(None)
    last = await cluster.called("whole_meta_iteration")
    assert last.arguments[0].tensors == b"state 2"
    last.returns(result(2, finished="patience"))
    job = await driven.released()
    assert (job.reason, job.best and job.best.iteration) == ("patience", 2)
