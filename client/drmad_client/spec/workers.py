"""What several workers, which share the training run of a replica, ask of the rest of a job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from drmad_client.spec.base import Misfit
from drmad_client.spec.hyperparameters import HyperparameterSpec
from drmad_client.spec.inner.training import TrainingSpec
from drmad_client.spec.outer.meta import MetaSpec
from drmad_client.spec.problem import ProblemSpec
from drmad_client.spec.replicas import LEAST_MEMORY, ReplicasSpec, ResourcesSpec


class SharedJob(Protocol):
    """The parts of a job that workers depend on; `JobSpec` has them."""

    @property
    def kind(self) -> str: ...
    @property
    def problem(self) -> ProblemSpec: ...
    @property
    def hyperparameters(self) -> Sequence[HyperparameterSpec]: ...
    @property
    def training(self) -> TrainingSpec: ...
    @property
    def meta(self) -> MetaSpec: ...
    @property
    def replicas(self) -> ReplicasSpec: ...
    @property
    def resources(self) -> ResourcesSpec: ...


def worker_misfits(job: SharedJob) -> Iterator[Misfit]:
    """Settings that workers cannot share, and resources that do not divide among them.

    What only the model or its code can tell, such as dropout, a worker finds before any training.
    """
    workers = job.replicas.workers
    if workers == 1:
        return
    if job.kind == "attribution":
        yield _workers(workers, "must be 1 for an attribution, whose draws are trained alone")
    if job.meta.mode == "online":
        yield _workers(
            workers, "must be 1 with meta.mode: online, whose training run goes on alone"
        )
    if job.replicas.batched == "auto":
        message = f"must be off with workers: {workers}: a batch of replicas lies on one worker"
        yield ("replicas", "batched"), job.replicas.batched, message
    batch_size = job.training.batch_size
    if batch_size < workers:
        message = (
            f"must be at least replicas.workers, {workers}, which split each minibatch, got "
            f"{batch_size}: take larger minibatches or fewer workers"
        )
        yield ("training", "batch_size"), batch_size, message
    for index, hyperparameter in enumerate(job.hyperparameters):
        if getattr(hyperparameter, "normalised", False):
            message = (
                f"must be false with replicas.workers: {workers}: the sum of the weights in a "
                "minibatch belongs to the rows of all workers; or set replicas.workers to 1"
            )
            yield ("hyperparameters", index, "normalised"), True, message
    yield from _model_misfits(job)
    yield from _resource_misfits(job.resources, workers)


def _model_misfits(job: SharedJob) -> Iterator[Misfit]:
    if job.problem.kind != "catalog":
        return
    for name in ("batch_norm", "dropout"):
        value = getattr(job.problem.model, name, None)
        if value:
            message = (
                f"must be {'false' if value is True else '0'} with replicas.workers: "
                f"{job.replicas.workers}, got {str(value).lower()}: the loss of a minibatch must "
                "be the mean of those of its rows; or set replicas.workers to 1"
            )
            yield ("problem", "model", name), value, message


def _resource_misfits(resources: ResourcesSpec, workers: int) -> Iterator[Misfit]:
    if resources.cpus < workers:
        message = (
            f"must be at least replicas.workers, {workers}, a core for each worker of the replica, "
            f"got {resources.cpus:g}"
        )
        yield ("resources", "cpus"), resources.cpus, message
    least = workers * LEAST_MEMORY
    if resources.memory_bytes is not None and resources.memory_bytes < least:
        message = (
            f"must be at least {least}, {LEAST_MEMORY} for each of the {workers} workers of the "
            f"replica, got {resources.memory_bytes}"
        )
        yield ("resources", "memory_bytes"), resources.memory_bytes, message
    if resources.gpus not in (0.0, float(workers)):
        message = (
            f"must be 0 or replicas.workers, {workers}, a GPU for each worker of the replica, got "
            f"{resources.gpus:g}"
        )
        yield ("resources", "gpus"), resources.gpus, message


def _workers(value: int, message: str) -> tuple[tuple[str | int, ...], Any, str]:
    return ("replicas", "workers"), value, f"{message}, got {value}"
