"""A job confirms its best meta-iteration before it succeeds, within its share of training runs."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_service.cancellation import cancel_and_wait
from drmad_service.store import Store
from drmad_service.store.layout import keys
from drmad_workers.ray_actor.messages import Failure, Retrained
from tests.service.scheduling.conftest import Drive
from tests.service.scheduling.stand_in import Call, StandInCluster, result
from tests.service.stored_models import model as model_of

pytestmark = pytest.mark.anyio


async def meta_iterations(cluster: StandInCluster, losses: list[float], runs: float) -> None:
    """Let a job of so many meta-iterations compute all of them."""
    for iteration, loss in enumerate(losses):
        finished = "iterations" if iteration == len(losses) - 1 else None
        is_best = loss == min(losses[: iteration + 1])
        model = f"model {iteration}".encode()
        call = await cluster.called("whole_meta_iteration")
        call.returns(result(iteration, loss, finished, runs, is_best, model))


def iteration_of(call: Call) -> int:
    """The meta-iteration at whose hyperparameters a draw trains, by its state."""
    state, iteration = call.arguments[:2]
    assert state.tensors == (f"state {iteration}".encode() if iteration else b"start")
    return int(iteration)


def trained(loss: float, model: bytes | None = None) -> Retrained:
    return Retrained([{"validation_loss": loss, "test_error": loss / 2.0}], model)


async def test_best_is_reported_by_draws_that_did_not_choose_it(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive()
    await meta_iterations(cluster, [3.0, 1.0, 2.0], runs=60.0)
    draws: list[tuple[int, int]] = []
    for number in range(6):
        call = await cluster.called("retrain")
        draws.append((iteration_of(call), call.arguments[2]))
        call.returns(trained(1.5 + 0.125 * (number // 2) + 0.5 * (draws[-1][0] == 2)))
    job = await driven.released()
    assert [iteration for iteration, _ in draws] == [1, 2] * 3
    assert [draws[0][1], draws[2][1], draws[4][1]] == [draw for _, draw in draws[1::2]], "common"
    assert len({draw for _, draw in draws}) == 3
    assert (job.status, job.reason) == (JobStatus.SUCCEEDED, "iterations")
    assert job.best is not None
    assert (job.best.iteration, job.best.draws) == (1, 3)
    assert job.best.validation_loss == 1.625
    assert job.best.metrics["test_error"] == 0.8125
    # Student's t for 2 degrees of freedom, s = 1/8, 3 draws against the mean of 10 others.
    half = 4.3027 * 0.125 * (1 / 3 + 1 / 10) ** 0.5
    interval = job.best.intervals["validation_loss"]
    assert (interval.low, interval.high) == pytest.approx((1.625 - half, 1.625 + half))
    assert job.confirmation is not None
    assert job.confirmation.last is not None
    assert job.confirmation.last.figures["validation_loss"].mean == 2.125
    assert (job.confirmation.draws, job.confirmation.allowed, job.confirmation.runs) == (6, 6, 60.0)


async def test_job_too_small_for_its_share_says_that_it_is_not_confirmed(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive()
    await meta_iterations(cluster, [3.0, 1.0, 2.0], runs=9.0)
    job = await driven.released()
    assert cluster.calls["retrain"].empty()
    assert job.status is JobStatus.SUCCEEDED
    assert job.best is not None
    assert (job.best.iteration, job.best.validation_loss, job.best.draws) == (1, 1.0, 0)
    assert job.confirmation is not None
    assert (job.confirmation.draws, job.confirmation.best) == (0, None)
    assert job.confirmation.reason == (
        "meta.confirmation 0.1 allows 1 more beside the 9 training runs of the job, and it takes "
        "2; 18 of the job, or a larger share, suffice"
    )


async def test_a_share_of_zero_confirms_nothing(drive: Drive, cluster: StandInCluster) -> None:
    driven = await drive(meta={"iterations": 3, "confirmation": 0.0})
    await meta_iterations(cluster, [3.0, 1.0, 2.0], runs=900.0)
    job = await driven.released()
    assert (job.status, job.confirmation) == (JobStatus.SUCCEEDED, None)
    assert cluster.calls["retrain"].empty()


LEVELS = {0: 3.0, 1: 2.0, 2: 1.0}


async def test_the_race_replaces_a_lucky_best_and_its_model(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    driven = await drive()
    await meta_iterations(cluster, [3.0, 0.5, 2.0], runs=240.0)
    models = 0
    while True:
        called = asyncio.ensure_future(cluster.called("retrain"))
        await asyncio.wait({called, driven.task}, return_when=asyncio.FIRST_COMPLETED)
        if not called.done():
            called.cancel()
            break
        call = called.result()
        iteration, index = iteration_of(call), call.arguments[2] % 1024
        model = b"model of a draw" if call.arguments[3] else None
        models += model is not None
        call.returns(trained(LEVELS[iteration] + 0.1 * (index % 7), model))
    job = await driven.released()
    assert job.best is not None
    assert job.best.iteration == 2
    assert job.best.draws >= 2
    assert job.confirmation is not None
    assert {each.iteration for each in job.confirmation.candidates} == {0, 1, 2}
    assert job.confirmation.draws <= job.confirmation.allowed == 26
    assert job.confirmation.gain is not None
    assert job.confirmation.gain.mean == pytest.approx(2.0)
    assert models == 1
    assert await model_of(store, job.id, "best") == (2, b"model of a draw")
    assert await model_of(store, job.id, "last") == (2, b"model 2")


async def test_retraining_that_fails_leaves_the_job_its_result(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive()
    await meta_iterations(cluster, [3.0, 1.0, 2.0], runs=60.0)
    (await cluster.called("retrain")).returns(Failure("user_code", "ValueError: 3", 1))
    job = await driven.released()
    assert (job.status, job.error) == (JobStatus.SUCCEEDED, None)
    assert job.confirmation is not None
    assert job.confirmation.reason == "retraining failed: ValueError: 3"
    (warning,) = await driven.events("warning")
    assert warning["code"] == "not_confirmed"


async def test_a_draw_that_diverges_is_counted(drive: Drive, cluster: StandInCluster) -> None:
    driven = await drive()
    await meta_iterations(cluster, [3.0, 2.0, 1.0], runs=40.0)
    for number in range(4):
        (await cluster.called("retrain")).returns(trained(1.0) if number else Retrained([None]))
    job = await driven.released()
    assert job.best is not None
    assert (job.best.draws, job.best.validation_loss) == (4, 1.0)
    assert job.confirmation is not None
    assert job.confirmation.best is not None
    assert job.confirmation.best.diverged == 1


async def test_pause_and_another_scheduler_continue_with_the_same_draws(
    drive: Drive, cluster: StandInCluster, store: Store, redis: Redis
) -> None:
    """Two draws, a pause; two draws, a lost scheduler; two draws: the six of an unbroken job."""
    driven = await drive()
    job_id = driven.lease.job_id
    await meta_iterations(cluster, [3.0, 1.0, 2.0], runs=60.0)
    draws: list[tuple[int, int]] = []

    async def two(then: str = "") -> None:
        for number in range(2):
            call = await cluster.called("retrain")
            draws.append((iteration_of(call), call.arguments[2] % 1024))
            if number and then == "pause":
                await store.pause(job_id)
            call.returns(trained(1.0 + 0.25 * len(draws)))

    await two("pause")
    assert (await driven.released()).status is JobStatus.PAUSED
    await store.resume(job_id)
    second = await drive(name="second")  # claims the older job, the resumed one
    await two()
    await cluster.called("retrain")  # the draw that is lost
    await cancel_and_wait([second.task])
    await redis.zadd(keys.LEASES, {job_id: 0})
    third = await drive(name="third")
    assert third.lease.job_id == job_id
    await two()
    job = await third.released()
    assert draws == [(iteration, index) for index in (512, 513, 514) for iteration in (1, 2)]
    assert job.status is JobStatus.SUCCEEDED
    assert job.best is not None
    assert job.best.validation_loss == pytest.approx(1.0 + 0.25 * (1 + 3 + 5) / 3)
    assert await store.confirmation_work(job_id) is None


async def test_an_extended_job_confirms_anew_with_other_draws(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    driven = await drive()
    await meta_iterations(cluster, [3.0, 2.0, 1.0], runs=20.0)
    draws = []
    for _ in range(2):
        call = await cluster.called("retrain")
        draws.append(call.arguments[2])
        call.returns(trained(1.25))
    job = await driven.released()
    assert job.confirmation is not None
    longer = job.spec.model_dump()
    longer["meta"]["iterations"] = 4
    await store.extend(job, JobSpec.model_validate(longer))
    again = await drive(name="another")
    call = await cluster.called("whole_meta_iteration")
    during = await store.get(job.id)
    assert during.best is not None
    assert during.best.validation_loss == 1.25
    call.returns(result(3, 0.5, "iterations", 27.0))
    call = await cluster.called("retrain")
    assert iteration_of(call) == 3
    assert (await store.get(job.id)).confirmation is None, "the first end is outdated"
    for number in range(3):
        draws.append(call.arguments[2])
        call.returns(trained(0.75))
        call = await cluster.called("retrain") if number < 2 else call
    job = await again.released()
    assert job.best is not None
    assert (job.best.iteration, job.best.validation_loss, job.best.draws) == (3, 0.75, 3)
    assert len(set(draws)) == 5


async def test_patience_that_ended_the_job_is_not_forgotten_by_the_next_scheduler(
    drive: Drive, cluster: StandInCluster, redis: Redis
) -> None:
    meta = {"iterations": 9, "patience": 1}
    driven = await drive(meta=meta)
    stopped = result(0, finished="patience", runs=60.0)
    stopped.state.scalars["stale"] = 1
    (await cluster.called("whole_meta_iteration")).returns(stopped)
    await cluster.called("retrain")
    await cancel_and_wait([driven.task])
    await redis.zadd(keys.LEASES, {driven.lease.job_id: 0})
    again = await drive(name="another")
    for _ in range(6):
        (await cluster.called("retrain")).returns(trained(1.0))
    job = await again.released()
    assert (job.status, job.reason) == (JobStatus.SUCCEEDED, "patience")
    assert job.progress.iteration == 1
    assert cluster.calls["whole_meta_iteration"].empty()
