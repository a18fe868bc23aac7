"""The baselines: Optuna's samplers over the same training runs, and fixed values."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import Tensor

from drmad_client.spec.job import JobSpec
from drmad_workers import EngineError, TrainingDiverged, Tuner, spec_adapter
from drmad_workers.catalog import Places
from drmad_workers.evaluation import peak_memory_bytes
from experiments.results import Result
from experiments.tasks import Fresh, Measured, Retrained, Search, Task

DIVERGED = 1e3
"""Validation loss that a sampler gets for a trial whose training diverged."""

RAW_ENTRIES = 100
"""Maximum number of entries of a tensor of which a search keeps every trial."""

LONG_S = 3.0
"""CPU seconds from which the overhead of a first meta-iteration is at most two percent."""

UPLOADED = f"sha256:{0:064d}"
"""Placeholder for the digest of uploaded code, because the code is read from its folder."""


def search(task: Search) -> Result:
    """Trains `trials` times in this process; every entry of every hyperparameter is a dimension.

    A trial is one training run with the weights and minibatches that the meta-iteration of this
    number has in a job of the same seed.
    """
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tuner = tuner_of(task, task.spec["hypergradient"])
    result = Result(task.case, task.arm, task.seed, task.key, cost=float(task.trials))
    sampler: optuna.samplers.BaseSampler = (
        optuna.samplers.TPESampler(seed=task.seed)
        if task.sampler == "tpe"
        else optuna.samplers.RandomSampler(seed=task.seed)
    )
    study = optuna.create_study(sampler=sampler)
    first = task.first if isinstance(task, Fresh) else 0
    tried: list[dict[str, Tensor]] = []
    began = time.perf_counter()
    for number in range(task.trials):
        trial = study.ask()
        values = tuner.initial_values()
        for name, (low, high) in task.space.items():
            for i, entry in enumerate(values[name].view(-1)):
                fixed = task.sampler == "fixed"
                label = f"{name}[{i}]"
                entry.fill_((low + high) / 2 if fixed else trial.suggest_float(label, low, high))
        if isinstance(task, Retrained):
            values |= {
                name: torch.tensor(entries).view(values[name].shape)
                for name, entries in task.values.items()
            }
        tried.append(values)
        try:
            metrics = tuner.train(values, first + number)
        except TrainingDiverged:
            loss, metrics = DIVERGED, dict.fromkeys(result.metrics, 1.0)
        else:
            loss = metrics.pop("validation_loss")
        study.tell(trial, loss)
        result.validation_loss.append(loss)
        for name, value in metrics.items():
            result.metrics.setdefault(name, [1.0] * number).append(value)
    result.seconds["total"] = time.perf_counter() - began
    result.peak_memory_bytes = peak_memory_bytes(torch.device("cpu"))
    best = tried[result.best]
    result.raw = {name: best[name].view(-1).tolist() for name in task.space}
    if task.sampler != "fixed":
        result.figures["tried"] = {
            name: [values[name].view(-1).tolist() for values in tried]
            for name in task.space
            if best[name].numel() <= RAW_ENTRIES
        }
    return result


def measure(task: Measured) -> Result:
    """Trains and differentiates, twice where that is short.

    To be called in a fresh process, whose memory it reports. CPU seconds of one thread, so that a
    busy machine has little part in them: of the second time, as all of a job but its first is.
    """
    torch.set_num_threads(1)
    tuner = tuner_of(task, task.spec["hypergradient"])
    result = Result(task.case, task.arm, task.seed, task.key)
    before = peak_memory_bytes(torch.device("cpu"))
    began = time.process_time()
    try:
        evaluation = tuner.evaluate(tuner.initial_values(), 0)
        first = time.process_time() - began
        if evaluation.choice is None and first < LONG_S:
            began = time.process_time()
            tuner.evaluate(tuner.initial_values(), 0)
    except EngineError as error:
        result.error = str(error)
    else:
        gradient = torch.cat([g.flatten() for g in evaluation.hypergradient.values()])
        result.validation_loss = [evaluation.validation_loss]
        result.figures = {"norm": float(gradient.norm()), "products": evaluation.backward_steps}
        if evaluation.choice is not None:  # the first probe does not represent the cost of auto
            result.figures["probed"] = True
    result.seconds["total"] = time.process_time() - began
    result.peak_memory_bytes = peak_memory_bytes(torch.device("cpu"))
    result.figures["peak_growth_bytes"] = result.peak_memory_bytes - before
    return result


def tuner_of(task: Task, hypergradient: Mapping[str, Any]) -> Tuner:
    """The tuner that a worker would build."""
    stated: dict[str, Any] = dict(task.spec, hypergradient=hypergradient, seed=task.seed)
    if task.code is not None:
        stated["problem"] = {"code": UPLOADED} | stated["problem"]
    spec = JobSpec.model_validate(stated)
    return Tuner(
        spec_adapter.problem(spec, Places(data_roots()), task.code),
        [spec_adapter.kind(hyperparameter) for hyperparameter in spec.hyperparameters],
        spec_adapter.training(spec),
        spec_adapter.method(spec.hypergradient),
        seed=spec.seed,
    )


def data_roots() -> list[Path]:
    """Where MNIST's files are, as `drmad up` finds them."""
    return [Path(r) for r in os.environ.get("DRMAD_DATA_ROOTS", "").split(os.pathsep) if r]
