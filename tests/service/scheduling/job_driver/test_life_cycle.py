from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from drmad_client.records.job import PreflightReport
from drmad_client.records.status import JobStatus
from drmad_client.spec import refusals
from drmad_client.spec.job import JobSpec
from drmad_service.store import Store
from drmad_service.store.layout import keys
from drmad_workers.ray_actor.messages import Failure, Prepared, TrialResult
from tests.service.scheduling.conftest import Drive
from tests.service.scheduling.stand_in import INFO, PREFLIGHT, START, StandInCluster, result

pytestmark = pytest.mark.anyio


async def test_job_runs_its_meta_iterations_and_succeeds(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    driven = await drive()
    for iteration in range(3):
        call = await cluster.called("whole_meta_iteration")
        assert call.arguments[0].scalars["iteration"] == iteration
        call.returns(result(iteration, 2.0 - iteration, "iterations" if iteration == 2 else None))
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.SUCCEEDED, "iterations")
    assert [h.name for h in job.hyperparameters] == ["w"]
    assert job.preflight is not None
    assert await driven.events("warning") == []
    history = (await store.history(job.id)).data
    assert [record.warnings for record in history] == [[]] * 3
    assert [record.validation_loss for record in history] == [2.0, 1.0, 0.0]
    assert all(record.seconds["total"] > 0.0 for record in history)
    assert (job.progress.iteration, job.progress.remaining_s) == (3, 0.0)


async def test_job_ends_when_its_validation_loss_no_longer_improves(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive()
    (await cluster.called("whole_meta_iteration")).returns(result(0, finished="patience"))
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.SUCCEEDED, "patience")
    assert job.message == "the validation loss no longer improves"


async def test_mistake_of_the_problem_fails_the_job_in_its_preflight(
    drive: Drive, cluster: StandInCluster
) -> None:
    cluster.answers["preflight"] = Failure("user_code", "NameError: x", traceback="line 1")
    job = await (await drive()).released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "user_code")
    assert job.error is not None
    assert job.error.traceback == "line 1"
    assert cluster.calls["whole_meta_iteration"].empty()


async def test_job_whose_preflight_could_not_run_says_that_nothing_is_proved(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    cluster.answers["preflight"] = Failure("out_of_memory", "2 GB are too little")
    driven = await drive()
    (await cluster.called("whole_meta_iteration")).returns(result(0, finished="iterations"))
    job = await driven.released()
    assert (job.status, job.preflight) == (JobStatus.SUCCEEDED, None)
    message = "the preflight could not run, so nothing is proved: 2 GB are too little"
    found = await driven.events("warning")
    assert found == [{"code": "preflight_incomplete", "message": message}]
    assert (await store.iteration(job.id, 0)).warnings == [f"preflight: {message}"]


DIVERGED = {
    "code": "training_diverged",
    "message": "meta-iteration 0: training loss must stay finite, got nan at step 7 of 20",
    "iteration": 0,
    "step": 7,
}
FIGURES = ("validation_loss", "training_loss", "seconds", "job_seconds", "memory_bytes")
UNMEASURED = PREFLIGHT | dict.fromkeys(FIGURES) | {"failure": DIVERGED}
SKIPPED = {"name": "hypergradient", "result": "skipped", "detail": "none", "seconds": 0.1}


async def test_job_that_diverges_in_its_preflight_fails_with_the_way_to_override(
    drive: Drive, cluster: StandInCluster
) -> None:
    cluster.answers["preflight"] = UNMEASURED
    job = await (await drive()).released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "training_diverged")
    assert job.error is not None
    assert (job.error.iteration, job.error.step) == (0, 7)
    assert job.error.message.splitlines() == [
        "training diverges, so the job does not start:",
        f"  training: {DIVERGED['message']}",
        "correct the cause, or start the job in spite of the failure with preflight: "
        "{override: [training]}",
    ]
    assert job.preflight is not None
    assert cluster.calls["whole_meta_iteration"].empty()


async def test_job_that_overrides_its_divergence_starts_with_a_warning(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    cluster.answers["preflight"] = UNMEASURED | {"proofs": [SKIPPED]}
    driven = await drive(preflight={"override": ["training"]})
    (await cluster.called("whole_meta_iteration")).returns(result(0, finished="iterations"))
    job = await driven.released()
    assert job.status is JobStatus.SUCCEEDED
    message = (
        f"preflight: its 20 steps have no result: {DIVERGED['message']}; proofs that did not run: "
        "hypergradient"
    )
    found = await driven.events("warning")
    assert found == [{"code": "preflight_overridden", "message": message}]
    assert (await store.iteration(job.id, 0)).warnings == [message]


async def test_search_repeats_a_preflight_that_diverged_with_the_values_that_it_finds(
    drive: Drive, cluster: StandInCluster
) -> None:
    cluster.answers["preflight"] = UNMEASURED
    rates = {"training.learning_rate": {"low": 0.01, "high": 0.1}}
    driven = await drive(search={"trials": 1, "parameters": rates})
    trial = await cluster.called("trial")
    cluster.answers["preflight"] = PREFLIGHT
    trial.returns(TrialResult(1.0, {}))
    (await cluster.called("whole_meta_iteration")).returns(result(0, finished="iterations"))
    job = await driven.released()
    assert job.status is JobStatus.SUCCEEDED
    assert job.preflight is not None
    assert job.preflight.failure is None
    assert await driven.events("warning") == []


REPEATABLE = {"name": "repeatable", "result": "passed", "detail": "equal", "seconds": 0.1}
WRONG_DERIVATIVE = {
    "name": "second_derivatives",
    "result": "failed",
    "detail": "the product differs from the difference of gradients by 0.4",
    "where": "my_problem.py:31",
    "remedy": "return the derivative of backward, too",
    "seconds": 0.2,
}
CHANGED_DATA = {
    "name": "unchanged",
    "result": "failed",
    "detail": "batch 3 differs from its copy",
    "seconds": 0.0,
}


async def test_failed_proof_fails_the_job_whose_record_shows_the_report(
    drive: Drive, cluster: StandInCluster
) -> None:
    proofs = [REPEATABLE, WRONG_DERIVATIVE, CHANGED_DATA]
    cluster.answers["preflight"] = PREFLIGHT | {"proofs": proofs}
    driven = await drive(preflight={"override": ["repeatable"]})
    job = await driven.released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "preflight_failed")
    assert job.error is not None
    assert job.error.code == "preflight_failed"
    assert job.error.message.splitlines() == [
        "proofs of the preflight failed, so the job does not start:",
        "  second_derivatives (my_problem.py:31): the product differs from the difference of "
        "gradients by 0.4; return the derivative of backward, too",
        "  unchanged: batch 3 differs from its copy",
        "correct the cause, or start the job in spite of the failure with "
        "preflight: {override: [repeatable, second_derivatives, unchanged]}",
    ]
    assert job.preflight is not None
    assert [proof.result for proof in job.preflight.proofs] == ["passed", "failed", "failed"]
    assert await driven.events("warning") == []
    assert cluster.calls["whole_meta_iteration"].empty()
    assert cluster.created == 1, "a failed proof is not retried"


async def test_failed_proof_fails_a_search_before_its_trials(
    drive: Drive, cluster: StandInCluster
) -> None:
    cluster.answers["preflight"] = PREFLIGHT | {"proofs": [CHANGED_DATA]}
    rates = {"training.learning_rate": {"low": 0.01, "high": 1.0, "log": True}}
    job = await (await drive(search={"trials": 2, "parameters": rates})).released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "preflight_failed")
    assert cluster.calls["trial"].empty()


async def test_failed_proof_of_a_kept_report_fails_the_job_of_the_next_lease(
    drive: Drive, cluster: StandInCluster, store: Store, redis: Redis
) -> None:
    """As after the loss of a scheduler between the report and the failure."""
    driven = await drive()
    (await cluster.called("whole_meta_iteration")).returns(result(0))
    call = await cluster.called("whole_meta_iteration")
    await driven.committed(1)
    await store.pause(driven.lease.job_id)
    call.returns(result(1))
    await driven.released()
    report = PreflightReport.model_validate(PREFLIGHT | {"proofs": [CHANGED_DATA]})
    key = keys.job(driven.lease.job_id)
    await redis.hset(key, "preflight", report.model_dump_json())
    await store.resume(driven.lease.job_id)
    job = await (await drive(name="another")).released()
    assert job.id == driven.lease.job_id
    assert (job.status, job.reason) == (JobStatus.FAILED, "preflight_failed")


async def test_overridden_proof_warns_once_and_in_every_meta_iteration(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    cluster.answers["preflight"] = PREFLIGHT | {"proofs": [REPEATABLE, WRONG_DERIVATIVE]}
    driven = await drive(preflight={"override": ["second_derivatives"]})
    (await cluster.called("whole_meta_iteration")).returns(result(0))
    call = await cluster.called("whole_meta_iteration")
    await driven.committed(1)
    await store.pause(driven.lease.job_id)
    call.returns(result(1))
    assert (await driven.released()).status is JobStatus.PAUSED
    await store.resume(driven.lease.job_id)
    again = await drive(name="another")  # claims the older job, the resumed one
    (await cluster.called("whole_meta_iteration")).returns(result(2, finished="iterations"))
    job = await again.released()
    assert (job.id, job.status) == (driven.lease.job_id, JobStatus.SUCCEEDED)
    message = (
        "preflight: second_derivatives failed and was overridden: "
        "the product differs from the difference of gradients by 0.4"
    )
    history = (await store.history(job.id)).data
    assert [record.warnings for record in history] == [[message]] * 3
    assert await again.events("warning") == [{"code": "preflight_overridden", "message": message}]


async def test_method_of_low_fidelity_is_compared_once_and_warned_of(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    prediction = {"doubtful": True, "figure": {"cosine": 0.25}}
    cluster.answers["fidelity"] = {"predictions": [prediction]}
    driven = await drive(hypergradient={"method": "shortcut"})
    (await cluster.called("whole_meta_iteration")).returns(result(0, finished="iterations"))
    job = await driven.released()
    (warning,) = await driven.events("warning")
    assert warning["code"] == "fidelity_low"
    assert "shortcut's hypergradient has a cosine of 0.25" in warning["message"]
    assert await store.fidelity_report(job.id) == {"predictions": [prediction]}


async def test_draws_that_disagree_are_warned_of_with_a_remedy(
    drive: Drive, cluster: StandInCluster
) -> None:
    prediction = {"doubtful": False, "figure": {"cosine": 0.99}}
    cluster.answers["fidelity"] = {
        "predictions": [prediction],
        "agreement": {"cosine": 0.19, "low": 0.19, "high": 0.19, "draws": 2},
    }
    driven = await drive(hypergradient={"method": "shortcut"})
    (await cluster.called("whole_meta_iteration")).returns(result(0, finished="iterations"))
    await driven.released()
    (warning,) = await driven.events("warning")
    assert warning["code"] == "draws_disagree"
    assert "a cosine of 0.19" in warning["message"]
    assert "replicas: {count: 4}" in warning["message"]


async def test_a_doubtful_preflight_is_a_warning_and_no_bare_pass(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    cluster.answers["preflight"] = PREFLIGHT | {"fidelity": {"shortcut": 0.076}, "agreement": 0.2}
    driven = await drive()
    (await cluster.called("whole_meta_iteration")).returns(result(0, finished="iterations"))
    job = await driven.released()
    (warning,) = await driven.events("warning")
    assert warning["code"] == "fidelity_low"
    for words in ("cosine of 0.076", "{method: auto}"):
        assert words in warning["message"]
    (record,) = (await store.history(job.id)).data
    assert len(record.warnings) == 1


async def test_too_many_hyperparameters_fail_the_job(drive: Drive, cluster: StandInCluster) -> None:
    cluster.answers["prepare"] = Prepared([INFO | {"shape": [3, 4]}], START)
    job = await (await drive({"max_hyperparameters": 11})).released()
    assert (job.status, job.reason) == (JobStatus.FAILED, "too_many_hyperparameters")
    assert "at most 11 hyperparameters per job, got 12" in job.message


async def test_job_goes_back_to_the_queue_when_its_replicas_are_not_placed_in_time(
    drive: Drive, cluster: StandInCluster
) -> None:
    del cluster.answers["prepare"]
    job = await (await drive({"start_timeout_s": 1.0})).released()
    assert job.status is JobStatus.QUEUED
    assert job.transitions[-1].reason == "not_placed"
    assert job.transitions[-1].message == "the replicas (1) were not ready within 1 s"


async def test_job_resumes_from_its_last_commit(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    driven = await drive()
    call = await cluster.called("whole_meta_iteration")
    await store.pause(driven.lease.job_id)
    call.returns(result(0))
    assert (await driven.released()).status is JobStatus.PAUSED
    await store.resume(driven.lease.job_id)
    again = await drive(name="another")  # claims the older job, the resumed one
    assert again.lease.job_id == driven.lease.job_id
    call = await cluster.called("whole_meta_iteration")
    assert call.arguments[0].tensors == b"state 1"
    call.returns(result(1, finished="iterations"))
    job = await again.released()
    assert job.status is JobStatus.SUCCEEDED
    assert cluster.calls["preflight"].qsize() == 1, "the preflight runs once a job"


async def test_outranked_job_makes_room_after_its_meta_iteration(
    drive: Drive, cluster: StandInCluster, store: Store, spec: JobSpec
) -> None:
    driven = await drive()
    call = await cluster.called("whole_meta_iteration")
    urgent = JobSpec.model_validate(spec.model_dump() | {"priority": 9})
    await store.create(urgent)
    iteration = 0
    while not driven.task.done():  # ranks are compared once a poll, not after every iteration
        call.returns(result(iteration))
        iteration += 1
        called = asyncio.ensure_future(cluster.called("whole_meta_iteration"))
        await asyncio.wait({called, driven.task}, return_when=asyncio.FIRST_COMPLETED)
        if driven.task.done():
            called.cancel()
            break
        call = await called
    job = await driven.released()
    assert job.status is JobStatus.QUEUED
    assert job.transitions[-1].reason == "preempted"
    assert iteration - job.progress.iteration in (0, 1), "the last one may have been ahead"


async def test_commit_is_retried_while_redis_is_full(
    drive: Drive, cluster: StandInCluster, store: Store, redis: Redis
) -> None:
    driven = await drive()
    call = await cluster.called("whole_meta_iteration")
    await redis.config_resetstat()
    await redis.config_set("maxmemory", "1")
    try:
        call.returns(result(0, finished="iterations"))
        async with asyncio.timeout(30):
            while not await redis.info("errorstats"):
                await asyncio.sleep(0.01)
        assert not driven.task.done()
    finally:
        await redis.config_set("maxmemory", "0")
    job = await driven.released()
    assert job.status is JobStatus.SUCCEEDED
    assert [record.iteration for record in (await store.history(job.id)).data] == [0]
    assert cluster.created == 1, "no replica is lost because Redis is full"


async def test_replicas_that_cannot_be_batched_get_an_actor_each_and_the_job_warns_once(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    """Where only a worker can tell; a resumed job knows it."""
    del cluster.answers["prepare"]
    driven = await drive(hypergradient={"method": "replay"}, **BATCHED)
    reason = "the model draws random numbers"
    (await cluster.called("prepare")).returns(Prepared([INFO], START, reason))
    (await cluster.called("prepare")).returns(Prepared([INFO], START))
    call = await cluster.called("whole_meta_iteration")
    await store.pause(driven.lease.job_id)
    call.returns(result(0))
    job = await driven.released()
    assert (job.status, job.not_batched) == (JobStatus.PAUSED, reason)
    assert job.spec.replicas.batched == "auto"
    assert [spec.replicas.batched for spec in cluster.specs] == ["auto", "off"]
    await store.resume(job.id)
    again = await drive(name="another")  # claims the older job, the resumed one
    (await cluster.called("prepare")).returns(Prepared([INFO], START))
    (await cluster.called("whole_meta_iteration")).returns(result(1, finished="iterations"))
    assert (await again.released()).status is JobStatus.SUCCEEDED
    assert [spec.replicas.batched for spec in cluster.specs[2:]] == ["off"]
    assert await driven.events("warning") == [not_batched(reason)]


async def test_replicas_that_the_method_cannot_batch_are_prepared_once(
    drive: Drive, cluster: StandInCluster
) -> None:
    driven = await drive(hypergradient={"method": "auto"}, **BATCHED)
    (await cluster.called("whole_meta_iteration")).returns(result(0, finished="iterations"))
    assert (await driven.released()).status is JobStatus.SUCCEEDED
    assert cluster.created == 1
    assert cluster.calls["prepare"].qsize() == 1
    assert await driven.events("warning") == [not_batched(refusals.AUTO_NOT_BATCHED)]


BATCHED: dict[str, Any] = {
    "resources": {"cpus": 0.5},
    "replicas": {"count": 2, "batched": "auto"},
}


def not_batched(reason: str) -> dict[str, str]:
    message = (
        f"the replicas are not batched: {reason}; each has an actor of its own, as with "
        "replicas.batched: off"
    )
    return {"code": "not_batched", "message": message}


async def test_trials_of_a_search_run_side_by_side_before_replicas_are_batched(
    drive: Drive, cluster: StandInCluster
) -> None:
    ranges = {"training.learning_rate": {"low": 0.01, "high": 0.1}}
    search = {"trials": 1, "parameters": ranges}
    await drive(resources={"cpus": 0.5}, replicas={"count": 2, "batched": "auto"}, search=search)
    (await cluster.called("trial")).returns(TrialResult(1.0, {}))
    (await cluster.called("whole_meta_iteration")).returns(result(0, finished="iterations"))
    assert [spec.replicas.batched for spec in cluster.specs] == ["off", "auto"]


async def test_record_says_where_the_time_of_the_start_went(
    drive: Drive, cluster: StandInCluster, store: Store
) -> None:
    del cluster.answers["prepare"]
    driven = await drive()
    prepare = await cluster.called("prepare")
    assert (await store.get(driven.lease.job_id)).start_phases is None
    prepare.returns(Prepared([INFO], START))
    (await cluster.called("whole_meta_iteration")).returns(result(0, finished="iterations"))
    phases = (await driven.released()).start_phases
    assert phases is not None
    assert phases.prepare > 0.0
    assert phases.total >= phases.prepare + phases.first_iteration
    assert min(phases.model_dump().values()) >= 0.0
