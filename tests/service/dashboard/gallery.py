"""Fills a real store with jobs in every state, which the dashboard shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from safetensors import numpy as safetensors

from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.job import Best, JobError, PreflightReport, Progress, Proof
from drmad_client.records.search import Start
from drmad_client.records.service.cluster import Node, SchedulerView
from drmad_client.records.side_runs.confirmation import Confirmation, ConfirmedFigures, Interval
from drmad_client.spec.job import JobSpec
from drmad_service.store import Capacity, Lease, MetaIterationCommit, ResumePoint, Store
from drmad_service.store.jobs.placement import NodeCapacity
from drmad_service.store.layout import keys
from drmad_service.store.layout.state_machine import Action

NODES = [
    Node(
        id=f"node-{number}",
        name=f"gpu-box-{number}",
        address=f"10.0.0.{3 + number}",
        alive=number < 3,
        cpus=16,
        gpus=4,
        memory_bytes=64_000_000_000,
        gpu_kind="H200",
    )
    for number in (1, 2, 3)
]
CAPACITY = Capacity.of(
    [NodeCapacity(node.id, node.cpus, node.gpus) for node in NODES if node.alive]
)
ASYNC = {"count": 2, "mode": "async", "data": "disjoint", "max_staleness": 3}
AUTO = {"method": "auto", "min_cosine": 0.9}
SHORTCUT = {
    "method": "shortcut",
    "horizon": 300,
    "interpolation_nodes": 8,
    "averaging_window": 10,
    "max_stride": 5,
    "max_adjoint_change": 0.1,
    "minibatch_subsampling": 4,
}
META = {"iterations": 60, "rollback_tolerance": 4.0, "max_rollbacks": 3}
SEARCH = {
    "trials": 16,
    "parameters": {
        "training.learning_rate": {"low": 0.01, "high": 1.0, "log": True},
        "hyperparameters[0].init": {"low": -12.0, "high": -2.0},
    },
}
LAYERS = ("layer 0", "layer 1", "layer 2")
CHOICE = {
    "method": {"method": "shortcut", "horizon": None},
    "reason": "first",
    "last_probe": 0,
    "next_probe": 5,
    "interval": 5,
    "probes": [
        {"method": {"method": "one_step"}, "cosine": 0.41, "cost": 1.0},
        {"method": {"method": "shortcut", "horizon": None}, "cosine": 0.97, "cost": 1.2},
    ],
}
PROOFS = [
    Proof(
        name="repeatable",
        result="passed",
        detail="the gradient is equal to the bit under four global random states",
        seconds=0.06,
    ),
    Proof(
        name="training",
        result="passed",
        detail="weights after 20 steps differ from those of torch.optim by at most 3.1e-07",
        seconds=0.21,
    ),
    Proof(
        name="second_derivatives",
        result="failed",
        detail="the Hessian-vector product differs from the central difference of two gradients "
        "by a factor of 0.41 (expected at most 0.01)",
        where="my_problem.py:31",
        remedy="return a differentiable derivative from Attention.backward, or use "
        "torch.nn.functional.scaled_dot_product_attention with the math backend",
        seconds=0.09,
    ),
    Proof(
        name="hypergradient",
        result="skipped",
        detail="1,400,000 weights would take longer than one meta-iteration",
        seconds=0.0,
    ),
    Proof(
        name="unchanged",
        result="passed",
        detail="data, given weights and buffers are as before",
        seconds=0.01,
    ),
]
START_S = 3.0
"""Time from the submission of a job to its first meta-iteration."""
ITERATION_S = 0.98
"""Time of a meta-iteration."""
PREFLIGHT = PreflightReport(
    hyperparameters={"l2": [164]},
    validation_loss=2.21,
    training_loss=2.19,
    steps=20,
    seconds=0.4,
    method="shortcut",
    fidelity={"shortcut": 0.98},
    job_seconds=61.0,
    memory_bytes=231_000_000,
    proofs=PROOFS,
)
OVERRIDE = {"override": ["second_derivatives"]}


def spec(name: str, iterations: int = 30, kind: str = "l2", **changes: Any) -> JobSpec:
    hyperparameter: dict[str, Any] = {"kind": kind}
    if kind == "l2":
        hyperparameter |= {"per": "unit", "init": -6.0}
    return JobSpec.model_validate(
        {
            "name": name,
            "problem": {"model": {"name": "mlp", "hidden": [50, 50]}, "data": {"name": "digits"}},
            "hyperparameters": [hyperparameter],
            "training": {"steps": 400, "batch_size": 50},
            "meta": {"iterations": iterations},
        }
        | changes
    )


async def running(store: Store, wanted: JobSpec, size: int = 164) -> Lease:
    """Creates a job with `size` hyperparameters and claims it as a scheduler does."""
    job, _ = await store.create(wanted)
    lease = await store.claim("scheduler_gallery", 3600.0, CAPACITY)
    assert lease is not None
    assert lease.job_id == job.id
    kind = wanted.hyperparameters[0].kind
    info: dict[str, Any] = {"name": kind, "kind": kind, "shape": [size]}
    info["transform"] = "exp" if kind == "l2" else "sigmoid"
    if kind == "l2":
        places = [0, *(size * (n + 1) // len(LAYERS) for n in range(len(LAYERS)))]
        info["groups"] = [
            {"label": label, "start": start, "stop": stop}
            for label, start, stop in zip(LAYERS, places, places[1:], strict=False)
        ]
    await store.begin(
        lease, [HyperparameterInfo.model_validate(info)], _point(0, kind, _values(0, size))
    )
    await store.act(lease, Action.RUN, "started")
    return lease


async def commit(
    store: Store,
    lease: Lease,
    iterations: range,
    total: int,
    kind: str = "l2",
    size: int = 164,
    floor: float = 0.32,
    method: str = "shortcut",
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Commits meta-iterations with falling losses; `metrics` are further ones."""
    best = math.inf
    for iteration in iterations:
        loss = (
            floor + 0.9 * math.exp(-iteration / (0.25 * total)) + 0.02 * math.sin(iteration * 2.1)
        )
        values = _values(iteration, size)
        measured = {"validation_error": loss / 8, "test_error": loss / 7, **(metrics or {})}
        record = {
            "iteration": iteration,
            "validation_loss": loss,
            "training_loss": loss * 0.7,
            "metrics": measured,
            "hypergradient_norm": 0.4 * loss,
            "cosine_to_previous": None if iteration == 0 else math.cos(0.2 + 1 / (1 + iteration)),
            "hyperparameters": {kind: _summary(values, kind)},
            "seconds": {"forward": 0.61, "backward": 0.24, "evaluate": 0.05, "total": ITERATION_S},
            "replicas": [_replica(number, loss) for number in range(2)],
            "method": "shortcut",
            "cost": 1.2,
            "choice": CHOICE if method == "auto" and iteration == 0 else None,
            "is_best": loss < best,
            "smoothed": {"validation_loss": _band(loss, iteration)},
        }
        is_best, best = loss < best, min(loss, best)
        await store.commit(
            lease,
            MetaIterationCommit(
                iteration=iteration,
                record=record,
                next_state=_point(iteration + 1, kind, _values(iteration + 1, size)),
                hypergradient=_tensors(kind, values * 1e-3),
                model=safetensors.save({"weight": values[:8]}) if total < 1000 else None,
                progress=Progress(
                    iteration=iteration + 1,
                    iterations=total,
                    remaining_s=ITERATION_S * (total - iteration - 1),
                ),
                best=Best(iteration=iteration, validation_loss=loss, metrics=measured)
                if is_best
                else None,
            ),
        )


def _band(loss: float, iteration: int) -> dict[str, float | None]:
    half = 0.03 if iteration > 1 else None
    low, high = (None, None) if half is None else (loss - half, loss + half)
    return {"mean": loss, "low": low, "high": high}


def _confirmed(iteration: int, loss: float) -> ConfirmedFigures:
    figures = {
        "validation_loss": Interval(mean=loss, low=loss - 0.02, high=loss + 0.02),
        "test_error": Interval(mean=loss / 7, low=loss / 7 - 0.004, high=loss / 7 + 0.004),
    }
    return ConfirmedFigures(iteration=iteration, draws=3, diverged=0, figures=figures)


async def confirm(store: Store, lease: Lease, iterations: int) -> None:
    """Confirms the best meta-iteration of a job whose meta-iterations are committed."""
    job = await store.get(lease.job_id)
    assert job.best is not None
    best = _confirmed(job.best.iteration, job.best.validation_loss + 0.012)
    found = Confirmation(
        iterations=iterations,
        runs=1.2 * iterations,
        allowed=9,
        draws=9,
        best=best,
        last=_confirmed(iterations - 1, job.best.validation_loss + 0.015),
        first=_confirmed(0, 1.26),
        gain=Interval(mean=0.88, low=0.83, high=0.93),
    )
    means = {name: interval.mean for name, interval in best.figures.items()}
    loss = means.pop("validation_loss")
    update = {"validation_loss": loss, "intervals": best.figures, "draws": best.draws}
    metrics = {"metrics": job.best.metrics | means}
    await store.keep_confirmation(lease, found, job.best.model_copy(update=update | metrics))


async def gallery(store: Store) -> dict[str, str]:
    """Creates one job in each state and returns the ids by name."""
    ids: dict[str, str] = {}
    durations: dict[str, float] = {}

    async def driven(wanted: JobSpec, done: int) -> Lease:
        kind = wanted.hyperparameters[0].kind
        lease = await running(store, wanted)
        floor = 0.36 - 0.07 * len(ids) % 0.2
        total, method = wanted.meta.iterations, wanted.hypergradient.method
        await commit(store, lease, range(done), total, kind, floor=floor, method=method)
        durations[lease.job_id] = START_S + done * ITERATION_S
        ids[wanted.name] = lease.job_id
        return lease

    notify = {"webhook": "https://hooks.example/drmad"}
    good = await driven(spec("digits, l2 per unit", tags={"team": "vision"}, notify=notify), 30)
    await confirm(store, good, 30)
    await store.act(good, Action.SUCCEED, "iterations", "completed all 30 meta-iterations")
    notice = await store.next_notice(60.0)
    assert notice is not None
    outcome = {"outcome": "delivered", "attempts": notice.attempt, "message": "answered 204"}
    await store.settle(notice, {"host": "hooks.example"} | outcome)
    weights = await driven(spec("clean digits", kind="sample_weight", hypergradient=AUTO), 30)
    await store.act(
        weights,
        Action.SUCCEED,
        "patience",
        "no lower validation loss in 8 meta-iterations",
    )
    bad = await driven(
        spec(
            "rate too high",
            tags={"team": "vision", "try": "2"} | {f"sweep-{n}": f"{n} of 7" for n in range(7)},
        ),
        3,
    )
    error = JobError(
        code="training_diverged",
        message="the training loss is NaN from step 37 on; lower training.learning_rate",
        iteration=3,
        step=37,
        traceback='Traceback (most recent call last):\n  File "training.py", line 81, in forward\n',
    )
    await store.act(bad, Action.FAIL, error.code, error.message, error)
    gone = await driven(spec("a mistake"), 4)
    await store.cancel(gone.job_id)
    await store.act(gone, Action.YIELD, "cancelled", "cancelled by its user")
    held = await driven(spec("night shift", replicas=ASYNC), 12)
    await store.pause(held.job_id)
    await store.act(held, Action.YIELD, "paused", "paused by its user")
    live = await driven(
        spec(
            "digits, two replicas",
            hypergradient=SHORTCUT,
            meta=META,
            replicas={"count": 2, "placement": "spread"},
            search=SEARCH,
            preflight=OVERRIDE,
        ),
        24,
    )
    await _search(store, live)
    await store.keep_preflight(live, PREFLIGHT, Progress(iteration=24, iterations=60))
    await store.warn(
        live, "replica_lost", "a replica was lost, the meta-iteration restarts: a node failed"
    )
    await store.roll_back(
        live,
        replace(_point(24, "l2", _values(24, 164)), scalars={"iteration": 24, "rollbacks": 1}),
        "the validation loss rose from 0.32 to 0.71; meta-iteration 23 restored, step halved",
    )
    await store.log(live, 0, ["epoch 1: loss 0.7123", "epoch 2: loss 0.5011"])
    await store.log(live, 1, ["epoch 1: loss 0.7201"])
    await store.progress(
        live,
        Progress(
            iteration=24,
            iterations=60,
            phase="backward",
            step=210,
            steps=400,
            remaining_s=35.3,
            trials=16,
        ),
    )
    wrong = await running(store, spec("attention kernel", tags={"team": "language"}))
    ids["attention kernel"] = wrong.job_id
    await store.keep_preflight(wrong, PREFLIGHT, Progress(iterations=30))
    refusal = PREFLIGHT.refusal(spec("attention kernel").preflight)
    error = JobError(code="preflight_failed", message=refusal)
    await store.act(wrong, Action.FAIL, error.code, error.message, error)
    for wanted in (
        spec(
            "<img src=x onerror=alert(1)><b>bold</b>",
            resources={"cpus": 1, "gpus": 1},
            replicas={"count": 64},
        ),
        spec("ablation, 3 of 3", priority=5),
    ):
        job, _ = await store.create(wanted)
        ids[wanted.name] = job.id
    await _backdate(store, durations)
    return ids


async def used(store: Store, hours: int = 30) -> None:
    """Adds samples of the cluster's use, one every ten minutes until now."""
    now = int(datetime.now(UTC).timestamp() // 60)
    for place, minute in enumerate(range(now - 60 * hours, now, 10)):
        share = 0.5 + 0.45 * math.sin(place / 11)
        sample = {
            "cpus": CAPACITY.cpus,
            "gpus": CAPACITY.gpus,
            "reserved_cpus": float(round(share * CAPACITY.cpus)),
            "reserved_gpus": float(round(share * CAPACITY.gpus)),
            "running": round(6 * share),
            "queued": max(0, place % 37 - 25),
        }
        fields = {name: repr(value) for name, value in sample.items()}
        await store._redis.xadd(keys.USE, fields, f"{60_000 * minute}-1")


def nodes() -> str:
    """The node report of a scheduler with a small cluster."""
    later = datetime.now(UTC) + timedelta(hours=1)  # no scheduler renews the report
    return SchedulerView(scheduler="scheduler_1", at=later, nodes=NODES).model_dump_json()


async def _backdate(store: Store, durations: dict[str, float]) -> None:
    """Move the times of jobs back: each took so many seconds, and ended before the next began."""
    age_s = 0.0
    for job_id, seconds in reversed(durations.items()):
        job = keys.job(job_id)
        if await store._redis.hexists(job, "finished_at"):
            await store._redis.hincrby(job, "finished_at", -round(1000 * age_s))
        age_s += seconds
        for field in ("created_at", "started_at"):
            await store._redis.hincrby(job, field, -round(1000 * age_s))


async def _search(store: Store, lease: Lease) -> None:
    """Adds the trials of a search over two scalars; one of them diverged."""
    trials = SEARCH["trials"]
    assert isinstance(trials, int)
    best, best_loss = 0, math.inf
    values: dict[str, float] = {}
    for number in range(trials):
        tried = {
            "training.learning_rate": 0.01 * 100 ** ((number * 0.618) % 1),
            "hyperparameters[0].init": -12 + 10 * ((number * 0.414) % 1),
        }
        loss = 0.5 + 0.02 * abs(tried["hyperparameters[0].init"] + 6) + 0.3 * math.cos(number) ** 2
        outcome: dict[str, Any] = {"state": "done", "validation_loss": loss}
        if number == 5:
            outcome = {"state": "diverged", "message": "the training loss is NaN from step 12 on"}
        elif loss < best_loss:
            best, best_loss, values = number, loss, tried
        record = {"number": number, "values": tried, "seconds": 0.7, **outcome}
        progress = Progress(iteration=24, iterations=60, trials=number + 1)
        await store.add_trial(lease, record, progress)
    await store.start_from(lease, Start(trial=best, values=values, validation_loss=best_loss))


def _values(iteration: int, size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    places = np.linspace(0.0, 6.0, size, dtype=np.float32)
    moved = 1.5 * (1 - math.exp(-iteration / 10))
    return np.asarray(-6.0 + moved * np.sin(places), dtype=np.float32)


def _tensors(kind: str, values: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    return safetensors.save({f"hyperparameters/{kind}": values})


def _point(iteration: int, kind: str, values: np.ndarray[Any, np.dtype[np.float32]]) -> ResumePoint:
    return ResumePoint(iteration, _tensors(kind, values), {"iteration": iteration})


def _summary(values: np.ndarray[Any, np.dtype[np.float32]], kind: str) -> Mapping[str, Any]:
    shown = np.exp(values) if kind == "l2" else 1 / (1 + np.exp(-values))
    five = np.quantile(shown[:: max(1, len(shown) // 1000)], [0.0, 0.25, 0.5, 0.75, 1.0]).tolist()
    names = ("minimum", "lower_quartile", "median", "upper_quartile", "maximum")
    parts = np.array_split(shown, len(LAYERS))
    groups = [
        {"label": label, "median": float(part[len(part) // 2]), "hypergradient_norm": 0.1 + n / 10}
        for n, (label, part) in enumerate(zip(LAYERS, parts, strict=True))
    ]
    return {
        **dict(zip(names, five, strict=True)),
        "hypergradient_norm": 0.4,
        "groups": groups if kind == "l2" else [],
    }


def _replica(number: int, loss: float) -> dict[str, Any]:
    return {
        "replica": number,
        "validation_loss": loss * (1 + 0.01 * number),
        "hypergradient_norm": 0.41,
        "cosine_to_mean": 0.97 - 0.02 * number,
        "staleness": 2 * number,
        "train_examples": 500,
        "valid_examples": 150,
        "seconds": {"forward": 0.61, "backward": 0.24},
        "peak_memory_bytes": 214_000_000,
        "node": f"node-{number + 1}",
        "device": "cpu",
    }
