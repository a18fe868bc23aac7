"""The life of a job, as its user drives it: every number is that of a job left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from drmad_client.errors import JobFailed
from drmad_client.http.client import Client
from drmad_client.http.job_handle import Job
from drmad_client.records.events import Event
from drmad_client.records.meta_iteration import Arrival
from drmad_client.records.status import JobStatus
from tests.end_to_end.running import WAIT_S, Service

ITERATIONS = 20
ALL_CPUS = {"cpus": 1}
MOST = 1500
"""Hyperparameters that this service takes in a job."""


def spec(**changes: Any) -> dict[str, Any]:
    """A job of about a tenth of a second a meta-iteration."""
    return {
        "problem": {"data": {"name": "digits", "label_noise": 0.5}},
        "hyperparameters": [{"kind": "sample_weight"}],
        "training": {"optimizer": "damped_sgd", "steps": 100, "batch_size": 50},
        "hypergradient": {"method": "shortcut", "horizon": 20},
        "meta": {"iterations": ITERATIONS},
        "resources": {"cpus": 0.5},
    } | changes


def endless(**changes: Any) -> dict[str, Any]:
    return spec(**{"meta": {"iterations": 100_000}} | changes)


def done(client: Client, job: Job) -> Job:
    return client.jobs.wait(job.id, timeout_s=WAIT_S)


def until(client: Client, job: Job, wanted: Callable[[Event], bool]) -> Event:
    """The first event that is wanted; waits for it."""
    return next(event for event in client.jobs.events(job.id) if wanted(event))


def committed(iteration: int) -> Callable[[Event], bool]:
    return lambda event: event.type == "iteration" and event.data["iteration"] == iteration


def entered(status: JobStatus) -> Callable[[Event], bool]:
    return lambda event: event.type == "status" and event.data["status"] == status


def numbers(client: Client, job: Job) -> list[tuple[int, float, float]]:
    return [
        (r.iteration, r.validation_loss, r.hypergradient_norm) for r in client.jobs.history(job.id)
    ]


def vector(client: Client, job: Job, iteration: int | str = "last") -> np.ndarray[Any, Any]:
    tuned: np.ndarray[Any, Any] = client.jobs.hyperparameters(job.id, iteration)["sample_weight"]
    return tuned


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With one CPU, so that a job can have all of it and still compute with one thread."""
    running = Service(tmp_path_factory.mktemp("home"), "--cpus", "1")
    running.environment["DRMAD_MAX_HYPERPARAMETERS"] = f"{MOST}"
    running.start()
    yield running
    running.interrupt()


@pytest.fixture(scope="module")
def undisturbed(service: Service) -> Job:
    with service.client() as client:
        return done(client, client.jobs.create(spec()))


def assert_same_numbers(client: Client, job: Job, undisturbed: Job) -> None:
    assert numbers(client, job) == numbers(client, undisturbed)
    assert np.array_equal(vector(client, job), vector(client, undisturbed))


def assert_patience_ends_it(client: Client) -> None:
    tiny = {"optimizer": "sgd", "learning_rate": 1e-9, "iterations": 1000, "patience": 2}
    repeated = spec()["training"] | {"resample": False}
    job = client.jobs.create(spec(meta=tiny, training=repeated, resources=ALL_CPUS))
    assert (done(client, job).status, job.reload().reason) == (JobStatus.SUCCEEDED, "patience")
    assert len(numbers(client, job)) == 3


def test_pause_frees_the_cluster_for_others_and_resume_goes_on_with_the_same_numbers(
    client: Client, undisturbed: Job
) -> None:
    job = client.jobs.create(spec(resources=ALL_CPUS))
    until(client, job, committed(1))
    assert client.jobs.pause(job.id).status in (JobStatus.PAUSING, JobStatus.PAUSED)
    until(client, job, entered(JobStatus.PAUSED))
    assert_patience_ends_it(client)  # meanwhile, on all of the cluster
    paused = client.jobs.retrieve(job.id)
    assert paused.status is JobStatus.PAUSED
    assert 2 <= paused.progress.iteration < ITERATIONS
    assert client.jobs.resume(job.id).status in (JobStatus.QUEUED, JobStatus.STARTING)
    resumed = done(client, job)
    later = [str(transition.status) for transition in resumed.transitions][-6:]
    assert later == ["pausing", "paused", "queued", "starting", "running", "succeeded"]
    assert_same_numbers(client, job, undisturbed)


def test_succeeded_failed_and_cancelled_jobs_are_extended(client: Client, undisturbed: Job) -> None:
    succeeded = client.jobs.create(spec(meta={"iterations": 3}))
    cancelled = client.jobs.create(spec(meta={"iterations": ITERATIONS - 2}))
    failed = client.jobs.create(endless(timeout_s=3.0, meta={"iterations": 10_000}))
    until(client, cancelled, committed(1))
    client.jobs.cancel(cancelled.id)
    until(client, cancelled, entered(JobStatus.CANCELLED))
    done(client, succeeded)
    client.jobs.extend(succeeded.id, ITERATIONS - 3)
    client.jobs.extend(cancelled.id, 2)
    for job in (succeeded, cancelled):
        assert done(client, job).status is JobStatus.SUCCEEDED
        assert_same_numbers(client, job, undisturbed)
    event = until(client, failed, entered(JobStatus.FAILED))
    assert event.data["reason"] == "timeout"
    assert "timeout_s, 3 s" in event.data["message"]
    client.jobs.extend(failed.id, 1)
    later = [e for e in client.jobs.events(failed.id, after=event.id) if e.type == "status"]
    assert [e.data["reason"] for e in later[:2]] == ["extended", "claimed"]
    assert (later[-1].at - later[1].at).total_seconds() > 2.9  # it had its time once more
    history = numbers(client, failed)
    assert [iteration for iteration, *_ in history] == list(range(len(history)))


def test_fork_repeats_the_numbers_and_with_changes_applies_them(
    client: Client, undisturbed: Job
) -> None:
    same = client.jobs.fork(undisturbed.id, 3)
    changed = client.jobs.fork(
        undisturbed.id, 3, {"name": "slower", "meta": {"learning_rate": 0.01, "iterations": 5}}
    )
    assert done(client, same).record.forked_from == f"{undisturbed.id}@3"
    assert numbers(client, same) == numbers(client, undisturbed)[3:]
    assert np.array_equal(vector(client, same), vector(client, undisturbed))
    slower = done(client, changed)
    assert (slower.name, slower.spec.meta.learning_rate) == ("slower", 0.01)
    assert numbers(client, changed)[0] == numbers(client, undisturbed)[3]
    assert len(numbers(client, changed)) == 2
    start = vector(client, undisturbed, 3)
    step, smaller = (np.abs(vector(client, job, 4) - start).max() for job in (same, changed))
    assert 0.0 < smaller < 0.1 * step


def test_fork_to_shorter_training_probes_again(client: Client) -> None:
    """The choice of auto may be a horizon that is longer than the training of the fork."""
    auto = spec(hypergradient={"method": "auto", "min_cosine": 0.01}, meta={"iterations": 5})
    job = client.jobs.create(auto)
    choices = [record.choice for record in done(client, job).history()]
    (chosen,) = [choice for choice in choices if choice and not choice["trial"]]
    assert chosen["method"]["horizon"] == spec()["training"]["steps"] // 10 > 1
    changes = {
        "training": {"steps": 1},
        "hypergradient": {"hvp": "finite_difference"},
        "meta": {"iterations": 6},
    }
    fork = client.jobs.fork(job.id, 4, changes)
    assert fork.record.adapted[0] == (
        "auto probes again, because training and hypergradient changed"
    )
    first, second = done(client, fork).history()
    assert (fork.reload().status, first.iteration) == (JobStatus.SUCCEEDED, 4)
    assert first.choice is not None
    assert first.choice["method"]["hvp"] == "finite_difference"
    assert second.choice is None  # it continues from the new choice


def test_bad_fork_and_extend_name_the_path(service: Service, undisturbed: Job) -> None:
    path = f"/v1/jobs/{undisturbed.id}"

    def problem(answer: httpx.Response, status: int) -> list[str]:
        assert answer.status_code == status, answer.text
        return [error["path"] for error in answer.json()["errors"]]

    with service.http() as http:
        rate = {"iteration": 1, "changes": {"meta": {"learning_rate": -1}}}
        assert problem(http.post(f"{path}/fork", json=rate), 422) == ["changes.meta.learning_rate"]
        data = {"iteration": 1, "changes": {"problem": {}}}
        assert problem(http.post(f"{path}/fork", json=data), 422) == ["changes.problem"]
        few = {"iteration": 5, "changes": {"meta": {"iterations": 5}}}
        assert problem(http.post(f"{path}/fork", json=few), 422) == ["changes.meta.iterations"]
        gone = {"iteration": 99, "changes": {"meta": {"iterations": 200}}}
        assert problem(http.post(f"{path}/fork", json={"iteration": "x"}), 422) == ["iteration"]
        assert problem(http.post(f"{path}/fork", json=gone), 404) == []
        assert problem(http.post(f"{path}/extend", json={"iterations": 0}), 422) == ["iterations"]
        assert problem(http.post(f"{path}/extend", json={"iterations": 100_000}), 422) == [
            "iterations"
        ]
        assert problem(http.post(f"{path}/pause"), 409) == []
        assert problem(http.post(f"{path}/resume"), 409) == []


def test_replicas_work_side_by_side_and_their_lines_are_kept(client: Client) -> None:
    pair = spec(replicas={"count": 2}, meta={"iterations": 2})
    job = client.jobs.create(pair)
    batch = client.jobs.create(pair | {"replicas": {"count": 2, "batched": "auto"}})
    for record in done(client, job).history():
        assert [figures.replica for figures in record.replicas] == [0, 1]
        losses = [figures.validation_loss for figures in record.replicas]
        assert losses[0] != losses[1]
        assert record.validation_loss == pytest.approx(sum(losses) / 2)
    lines = list(client.jobs.logs(job.id))
    assert {line.replica for line in lines} == {0, 1}
    assert all("1,000 hyperparameters" in line.text for line in lines)
    assert [line.replica for line in client.jobs.logs(job.id, replica=1)] == [1]
    for one, other in zip(done(client, batch).history(), job.history(), strict=True):
        assert [figures.replica for figures in one.replicas] == [0, 1]
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-4)
    np.testing.assert_allclose(vector(client, batch), vector(client, job), atol=1e-3)
    assert [line.replica for line in client.jobs.logs(batch.id)] == [0]  # one worker for both


@pytest.mark.filterwarnings("ignore::drmad_client.errors.JobWarning")
def test_replicas_that_cannot_be_batched_are_computed_side_by_side_and_the_job_warns(
    client: Client,
) -> None:
    pair = spec(hypergradient={"method": "auto"}, meta={"iterations": 2})
    separate = client.jobs.create(pair | {"replicas": {"count": 2}})
    job = client.jobs.create(pair | {"replicas": {"count": 2, "batched": "auto"}})
    assert numbers(client, done(client, job)) == numbers(client, done(client, separate))
    (warning,) = [event.data for event in client.jobs.events(job.id) if event.type == "warning"]
    assert warning["code"] == "not_batched"
    assert "auto probes each replica separately" in warning["message"]
    assert {line.replica for line in client.jobs.logs(job.id)} == {0, 1}


def test_replicas_on_disjoint_shards_apply_their_hypergradients_as_they_arrive(
    client: Client,
) -> None:
    """And a pause in the middle, from which the job goes on at its last commit."""
    replicas = {"count": 2, "data": "disjoint", "mode": "async", "max_staleness": 1}
    iterations = 30  # enough that the pause comes in time
    job = client.jobs.create(spec(replicas=replicas, meta={"iterations": iterations}))
    until(client, job, committed(1))
    client.jobs.pause(job.id)
    until(client, job, entered(JobStatus.PAUSED))
    client.jobs.resume(job.id)
    assert done(client, job).status is JobStatus.SUCCEEDED
    history = list(job.history())
    assert [record.iteration for record in history] == list(range(iterations))
    for record in history:
        assert len(record.replicas) == 2
        for figures in record.replicas:
            assert (figures.train_examples, figures.valid_examples) == (500, 150)
            assert figures.staleness in (0, 1)
        mean = sum(figures.validation_loss for figures in record.replicas) / 2
        assert record.validation_loss == pytest.approx(mean)
    arrivals = [Arrival(**e.data) for e in client.jobs.events(job.id) if e.type == "arrival"]
    for record in history:
        expected = [a for a in arrivals if a.iteration == record.iteration][-2:]
        assert [(a.replica, a.staleness, a.validation_loss) for a in expected] == [
            (figures.replica, figures.staleness, figures.validation_loss)
            for figures in record.replicas
        ]
    # Every weight moved by the outer optimizer, each by its own replica alone.
    weights = vector(client, job)
    assert weights.std() > 0.01
    assert history[-1].validation_loss < history[0].validation_loss


def test_straggler_cut_goes_on_when_enough_replicas_have_answered(client: Client) -> None:
    job = client.jobs.create(spec(replicas={"count": 2, "wait_for": 1}, meta={"iterations": 6}))
    assert done(client, job).status is JobStatus.SUCCEEDED
    history = list(job.history())
    assert [record.iteration for record in history] == list(range(6))
    answered = [[figures.replica for figures in record.replicas] for record in history]
    assert [0] in answered or [1] in answered, answered
    for record in history:
        losses = [figures.validation_loss for figures in record.replicas]
        assert record.validation_loss == pytest.approx(sum(losses) / len(losses))


def test_wild_outer_step_is_taken_back_and_the_job_fails_with_advice(client: Client) -> None:
    overfitting = {
        "problem": {"data": {"name": "digits", "train": 60, "label_noise": 0.5}},
        "hyperparameters": [{"kind": "l2", "per": "layer", "init": -9.0}],
        "training": spec()["training"] | {"steps": 200, "batch_size": 20, "learning_rate": 1.0},
    }

    def submitted(learning_rate: float, max_rollbacks: int) -> Job:
        meta = {"optimizer": "sign", "learning_rate": learning_rate, "max_rollbacks": max_rollbacks}
        return client.jobs.create(spec(**overfitting, meta=meta | {"iterations": 4}))

    jobs = {"fails": submitted(1000.0, 2), "recovers": submitted(40.0, 20)}
    events = {name: list(client.jobs.events(job.id)) for name, job in jobs.items()}
    rollbacks = {
        name: [event.data for event in happened if event.type == "rollback"]
        for name, happened in events.items()
    }
    failed = client.jobs.retrieve(jobs["fails"].id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert "lower meta.learning_rate" in failed.error.message
    assert [r["rollback"] for r in rollbacks["fails"]] == [1, 2]
    assert all("half the step" in r["message"] for r in rollbacks["fails"])
    recovered = client.jobs.retrieve(jobs["recovers"].id)
    assert recovered.status is JobStatus.SUCCEEDED, recovered.error
    assert 1 <= len(rollbacks["recovers"]) <= 20
    assert [r.iteration for r in client.jobs.history(recovered.id)] == list(range(4))


def test_higher_priority_takes_over_at_a_meta_iteration(client: Client, undisturbed: Job) -> None:
    low = client.jobs.create(spec(resources=ALL_CPUS))
    until(client, low, committed(0))
    high = client.jobs.create(spec(resources=ALL_CPUS, priority=10, meta={"iterations": 1}))
    urgent, preempted = done(client, high), done(client, low)
    assert "preempted" in [t.reason for t in preempted.transitions]
    assert urgent.finished_at is not None
    assert preempted.finished_at is not None
    assert urgent.finished_at < preempted.finished_at
    assert_same_numbers(client, low, undisturbed)


def test_job_that_the_cluster_cannot_hold_says_so(client: Client) -> None:
    job = client.jobs.create(spec(resources={"cpus": 0.5, "gpus": 1}, replicas={"count": 2}))
    waiting = client.jobs.retrieve(job.id)
    assert waiting.status is JobStatus.QUEUED
    assert waiting.message == "needs 2 GPUs, the cluster has 0"
    assert waiting.record.waiting is not None
    assert waiting.record.waiting.gpus == 2.0
    assert client.jobs.cancel(job.id).status is JobStatus.CANCELLED
    client.jobs.delete(job.id)
    assert job.id not in [listed.id for listed in client.jobs.list(limit=100)]


def test_cancel_is_heard_in_a_long_training_loop_even_while_pausing(client: Client) -> None:
    long = {"optimizer": "damped_sgd", "steps": 1_000_000, "batch_size": 50}
    job = client.jobs.create(endless(training=long, resources=ALL_CPUS))
    until(client, job, lambda e: e.type == "progress" and e.data["phase"] == "forward")
    assert client.jobs.pause(job.id).status is JobStatus.PAUSING
    client.jobs.cancel(job.id)
    events = list(client.jobs.events(job.id))
    asked = next(e for e in events if e.data.get("status") == "cancelling")
    assert events[-1].data["status"] == "cancelled"
    assert (events[-1].at - asked.at).total_seconds() < 2.0


def test_a_job_that_only_a_worker_finds_too_large_fails_at_its_start(client: Client) -> None:
    problem = {"data": {"name": "digits"}, "model": {"name": "cnn"}}
    weights = [{"kind": "l2", "per": "weight"}]
    job = client.jobs.create(spec(problem=problem, hyperparameters=weights))
    with pytest.raises(JobFailed, match=f"at most {MOST:,} hyperparameters"):
        done(client, job)
    failed = client.jobs.retrieve(job.id)
    assert failed.error is not None
    assert (failed.error.code, failed.progress.iteration) == ("too_many_hyperparameters", 0)


def test_a_job_starts_from_anothers_schedule_of_another_length(client: Client) -> None:
    rate = {"kind": "learning_rate", "per": "step"}
    fields = spec(
        hyperparameters=[rate],
        meta={"iterations": 5, "confirmation": 0.0},
        hypergradient={"method": "replay"},
    )
    other = done(client, client.jobs.create(fields))
    tuned = other.hyperparameters("last", raw=True)["learning_rate"]
    longer = fields | {
        "training": fields["training"] | {"steps": 150},
        "start": {"job": other.id, "iteration": "last"},
    }
    job = client.jobs.create(longer)
    other.delete()
    job = done(client, job)
    assert job.record.started_from == f"{other.id}@4"
    assert job.record.adapted == [
        "learning_rate was interpolated from 100 to 150 steps of training"
    ]
    there, here = (np.arange(100) + 0.5) / 100, (np.arange(150) + 0.5) / 150
    first = job.hyperparameters(0, raw=True)["learning_rate"]
    np.testing.assert_allclose(first, np.interp(here, there, tuned), rtol=1e-5, atol=1e-6)
    assert np.ptp(first) > 1e-3, "the schedule is no longer constant"
