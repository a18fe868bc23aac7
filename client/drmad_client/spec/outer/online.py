"""What the mode online asks of the rest of a job, and its defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from drmad_client.spec import defaults
from drmad_client.spec.base import Misfit, Spec
from drmad_client.spec.hyperparameters import HyperparameterSpec
from drmad_client.spec.inner.training import TrainingSpec
from drmad_client.spec.methods import HypergradientSpec
from drmad_client.spec.outer.meta import MetaSpec
from drmad_client.spec.outer.search import SearchSpec
from drmad_client.spec.replicas import ReplicasSpec

_ALONE = ("window", "checkpoint_every", "validation_batch")
"""The fields of `meta` that only the mode online reads."""


class TunedJob(Protocol):
    """The parts of a job that its mode depends on; `JobSpec` has them."""

    @property
    def kind(self) -> str: ...
    @property
    def hyperparameters(self) -> Sequence[HyperparameterSpec]: ...
    @property
    def training(self) -> TrainingSpec: ...
    @property
    def hypergradient(self) -> HypergradientSpec: ...
    @property
    def meta(self) -> MetaSpec: ...
    @property
    def search(self) -> SearchSpec | None: ...
    @property
    def replicas(self) -> ReplicasSpec: ...
    @property
    def windows_before(self) -> int: ...


def with_online_defaults(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a job; one of mode online has its own defaults of `meta`.

    Its meta-iterations are the windows of one training run. It is neither rolled back nor
    confirmed, because a window is no training run of its own.
    """
    meta = _stated(fields.get("meta"))
    if meta.get("mode") != "online":
        return fields
    of_online: dict[str, Any] = {"confirmation": 0.0, "rollback_tolerance": None}
    steps = _stated(fields.get("training")).get("steps", defaults.Training.steps)
    window = meta.get("window", defaults.Online.window)
    if isinstance(steps, int) and isinstance(window, int) and 0 < window <= steps:
        of_online["iterations"] = steps // window
    return {**fields, "meta": {**of_online, **meta}}


def _stated(part: Any) -> Mapping[str, Any]:
    if isinstance(part, Spec):
        return part.model_dump(include=part.model_fields_set)
    return part if isinstance(part, Mapping) else {}


def checkpoint_refusal(
    replica_bytes: int, replicas: int, most: int = defaults.Online.checkpoint_bytes
) -> str:
    """Why a service keeps no checkpoints of this size; empty if it does.

    Args:
        replica_bytes: the size of the training state of a replica.
        most: max_model_bytes of the service.
    """
    if replica_bytes * replicas <= most:
        return ""
    several = replicas > 1
    each, fewer = (
        (f" for each of {replicas} replicas", "fewer replicas or ") if several else ("", "")
    )
    return (
        f"the checkpoints of an online job must take at most {most} bytes (max_model_bytes of the "
        f"service), got {replica_bytes}{each}: take {fewer}an optimizer with less memory, use "
        "mode: restart, or ask the operator to raise the bound"
    )


def first_window(job: TunedJob, number: int) -> int:
    """The number of the first window of the training run of a window."""
    return number - number % max(1, job.training.steps // job.meta.window)


def checkpoint_due(job: TunedJob, number: int) -> bool:
    """Whether a job keeps its training state before meta-iteration `number`."""
    meta, first = job.meta, first_window(job, number)
    if meta.mode != "online" or number >= meta.iterations or number == first:
        return False
    return (number - first) % meta.checkpoint_every == 0


def online_misfits(spec: TunedJob) -> Iterator[Misfit]:
    """The settings that do not fit the mode of a job."""
    meta = spec.meta
    if meta.mode == "restart":
        for name in _ALONE:
            if (value := getattr(meta, name)) != getattr(defaults.Online, name):
                message = f"has no effect with mode: restart, got {value}: set mode: online"
                yield ("meta", name), value, message
        return
    yield from _outer_misfits(spec)
    replicas = spec.replicas
    if replicas.mode != "sync":
        message = (
            "must be sync with meta.mode: online, whose replicas take the same windows at the same "
            f"hyperparameters, got {replicas.mode}"
        )
        yield ("replicas", "mode"), replicas.mode, message
    if replicas.wait_for not in (None, replicas.count):
        message = (
            "must be null with meta.mode: online, whose training runs go on from every window, got "
            f"{replicas.wait_for}"
        )
        yield ("replicas", "wait_for"), replicas.wait_for, message
    if spec.hypergradient.method == "reversible":
        message = (
            "must be another one with meta.mode: online, where a window starts from any velocity "
            "and reversible starts from 0: stored is exact too"
        )
        yield ("hypergradient", "method"), "reversible", message
    before = spec.windows_before
    if before >= meta.checkpoint_every:
        horizon = getattr(spec.hypergradient, "horizon", None)
        message = (
            "must read fewer windows before its own than lie between two checkpoints, "
            f"{meta.checkpoint_every}, got {before} by a horizon of {horizon}: shorten it, or "
            "raise meta.checkpoint_every"
        )
        yield ("hypergradient", "horizon"), horizon, message
    for index, hyperparameter in enumerate(spec.hyperparameters):
        if hyperparameter.kind == "init_scale":
            message = (
                "cannot be tuned with meta.mode: online, which draws the weights once, before the "
                "first window: use mode: restart"
            )
            yield ("hyperparameters", index, "kind"), hyperparameter.kind, message
        elif hyperparameter.per_step:
            message = (
                "must be another one with meta.mode: online, where the rate of a step that was "
                "taken has no later use: tune one rate for all steps (per model, group or layer)"
            )
            yield ("hyperparameters", index, "per"), getattr(hyperparameter, "per", None), message
    if spec.search is not None and "training.steps" in spec.search.parameters:
        message = "must be left out with meta.mode: online, whose windows divide training.steps"
        yield ("search", "parameters", "training.steps"), None, message


def _outer_misfits(spec: TunedJob) -> Iterator[Misfit]:
    meta, steps = spec.meta, spec.training.steps
    if spec.kind == "attribution":
        message = "must be restart for an attribution, which has no outer steps, got online"
        yield ("meta", "mode"), "online", message
    if steps % meta.window:
        below = steps // meta.window * meta.window
        message = (
            f"must divide training.steps, {steps}, got {meta.window}: take "
            f"{f'{below} or ' if below else ''}{below + meta.window} steps, or another window"
        )
        yield ("meta", "window"), meta.window, message
    if meta.rollback_tolerance is not None:
        message = (
            "must be null with mode: online, whose windows are parts of one training run and are "
            f"not repeated, got {meta.rollback_tolerance:g}: lower learning_rate where it diverges"
        )
        yield ("meta", "rollback_tolerance"), meta.rollback_tolerance, message
    if meta.confirmation:
        message = (
            "must be 0 with mode: online, got "
            f"{meta.confirmation:g}: the loss of a window is that of weights which trained under "
            "the hyperparameters of all windows before; retrain with those that were found"
        )
        yield ("meta", "confirmation"), meta.confirmation, message
    if meta.optimizer == "auto":
        message = (
            "must be another one with mode: online, whose windows cannot be trained again at other "
            "hyperparameters, got auto: adam"
        )
        yield ("meta", "optimizer"), "auto", message
    if meta.judging_share:
        message = (
            f"must be 0 with mode: online, got {meta.judging_share:g}: a window is judged by the "
            "validation examples that it differentiates; keep others as test data"
        )
        yield ("meta", "judging_share"), meta.judging_share, message
