"""The recipe of a job as a file of plain PyTorch, which runs without drmad."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from importlib import resources
from typing import Any

from drmad_client.errors import DrmadError
from drmad_client.spec.job import JobSpec
from drmad_client.spec.side_runs.retraining import RetrainSpec

_KINDS = (
    "sample_weight",
    "loss_weight",
    "l1",
    "l2",
    "learning_rate",
    "momentum",
    "weight_decay",
    "init_scale",
)
_RATES = ("learning_rate", "momentum", "weight_decay")
_OPTIMIZERS = ("sgd", "damped_sgd", "adam", "adamw")
_SCHEDULES = ("constant", "linear", "cosine", "table")


class NotPlain(DrmadError):
    """The recipe has a part that the file does not state; the message names it."""


def recipe(spec: JobSpec, asked: RetrainSpec, job: str) -> str:
    """The source of the file: what `export.pytorch` has, and the training below it.

    It reads hyperparameters.safetensors beside it: the tuned values in the user's units, by name.

    Args:
        spec: The job that began, with the values that its search found.
        asked: How it is retrained.
        job: The id of the job, for a comment.
    Raises:
        NotPlain: The file does not state a part of the recipe.
    """
    if reasons := list(_missing(spec)):
        raise NotPlain(f"recipe.py does not state {'; '.join(reasons)}")
    package = resources.files("drmad_client.export")
    parts = (package / "pytorch.py").read_text(encoding="utf-8")
    template = (package / "recipe.py.txt").read_text(encoding="utf-8")
    settings = json.dumps(_settings(spec, asked), indent=1)
    return parts + template.format(job=job, settings=settings)


def shortcomings(spec: JobSpec) -> str:
    """What recipe.py of this job lacks, known before anything runs; empty if it is complete."""
    if reasons := list(_missing(spec)):
        return f"recipe.py will be no program, because it does not state {'; '.join(reasons)}"
    if spec.problem.kind != "catalog":
        return "recipe.py will need your own build_model, and loss_of_rows if the loss is your own"
    if spec.problem.model.name != "mlp":
        return (
            f"recipe.py will need your own build_model: it does not state {spec.problem.model.name}"
        )
    return ""


def _missing(spec: JobSpec) -> Iterator[str]:
    training = spec.training
    if spec.kind != "tuning":
        yield "an attribution, which tunes nothing"
    if training.optimizer not in _OPTIMIZERS:
        yield f"training.optimizer {training.optimizer}, only {', '.join(_OPTIMIZERS)}"
    if training.schedule.name not in _SCHEDULES:
        yield f"training.schedule {training.schedule.name}, only {', '.join(_SCHEDULES)}"
    for name in ("groups", "nesterov", "clip_value"):
        if getattr(training, name):
            yield f"training.{name}"
    if training.accumulate != 1:
        yield "training.accumulate"
    for each in spec.hyperparameters:
        per = getattr(each, "per", "model")
        if each.kind not in _KINDS:
            yield f"hyperparameters of kind {each.kind}"
        if per in ("source", "group"):
            yield f"{each.kind} per {per}"


def _settings(spec: JobSpec, asked: RetrainSpec) -> dict[str, Any]:
    training = spec.training if asked.steps is None else spec.training.over(asked.steps)
    model = spec.problem.model.model_dump() if spec.problem.kind == "catalog" else None
    if model is not None and model["name"] != "mlp":
        model = None
    tuned = [
        {"per": "model", **each.model_dump(), "name": each.name or each.kind}
        for each in spec.hyperparameters
    ]
    weights = [each for each in tuned if each["kind"] == "sample_weight"]
    adam = training.optimizer in ("adam", "adamw")
    return {
        "model": model,
        "optimizer": training.optimizer,
        "steps": training.steps,
        "batch_size": training.batch_size,
        "learning_rate": training.learning_rate,
        "momentum": training.betas[0] if adam else training.momentum,
        "betas": list(training.betas),
        "eps": training.eps,
        "weight_decay": training.weight_decay,
        "clip_norm": training.clip_norm,
        "schedule": training.schedule.model_dump(),
        "tunes_momentum": any(each["kind"] == "momentum" for each in tuned),
        "untuned_weight": math.prod(1.0 / (1.0 + math.exp(-each["init"])) for each in weights),
        "normalised": any(each["normalised"] for each in weights),
        "with_validation": asked.with_validation,
        "threshold": asked.threshold,
        "drop_lowest": asked.drop_lowest,
        "hyperparameters": [
            {name: each[name] for name in ("kind", "name", "per", "normalised") if name in each}
            for each in tuned
        ],
    }
