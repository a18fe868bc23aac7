"""Trainings outside the engine: the users' own loops, which know nothing of drmad.

A template of `drmad init` has such a loop in my_training.py. It reads the tuned hyperparameters
from a file; here it also trains with the draws of the engine, to be compared with it.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import default_collate

from drmad_client.spec.job import JobSpec
from drmad_workers import Problem, Tuner, spec_adapter
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.global_generators import seed_all
from drmad_workers.objective.parameters.weight_draw import draw_weights
from drmad_workers.random_streams import WEIGHTS, seed_of
from experiments.results import Result
from experiments.tasks import Spec, Task

UPLOADED = f"sha256:{0:064d}"
"""Placeholder for the digest of uploaded code, because the code is read from its folder."""


@dataclass(frozen=True)
class Plain(Task):
    """Training runs of my_training.py in the folder of the code.

    Attributes:
        runs: training runs, each with weights and minibatches of its own.
        values: raw hyperparameters by name; empty trains as usual.
    """

    runs: int = 5
    values: dict[str, list[float]] = field(default_factory=dict)


def train_plainly(task: Plain) -> Result:
    """The figures of each run, and the difference to the engine under the same draws."""
    torch.set_num_threads(1)
    assert task.code is not None
    result = Result(task.case, task.arm, task.seed, task.key, cost=float(task.runs))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        tuned = written(task.values, Path(name)) if task.values else None
        program = own_program(task.code)
        first = 100 * (
            task.seed + 1
        )  # the seeds share no draw, or one lucky draw would count thrice
        for draw in range(first, first + task.runs):
            figures = program.run(task.seed, draw, tuned)
            result.validation_loss.append(figures.pop("validation_loss"))
            for metric, value in figures.items():
                result.metrics.setdefault(metric, []).append(value)
        result.figures["difference"] = differences(task.code, task.spec, task.seed, tuned)
    result.seconds["total"] = time.perf_counter() - began
    return result


def written(values: Mapping[str, Sequence[float]], folder: Path) -> Path:
    """The folder with the file of hyperparameters that `drmad fetch` would write."""
    tensors = {name: torch.tensor(entries) for name, entries in values.items()}
    save_file(tensors, folder / "hyperparameters.safetensors")
    return folder


def own_program(code: Path) -> ModuleType:
    """The module my_training of the folder; a process can load that of one folder."""
    if str(code) not in sys.path:
        sys.path.insert(0, str(code))
    return importlib.import_module("my_training")


def differences(
    code: Path, spec: Spec, seed: int, tuned: Path | None, draw: int = 1000
) -> dict[str, float]:
    """How far the user's loop and the engine are apart, from the same weights, with the same rows.

    Both train in float64, from the weights and with the minibatches, augmentation and noise of the
    draw: only the order of sums differs.

    Args:
        tuned: the folder with the hyperparameters, or None for the initial ones.
        draw: takes the place of the number of a meta-iteration.
    Returns:
        By name of a validation figure, the absolute difference.
    """
    program, tuner = own_program(code), tuner_of(code, spec, seed)
    values = tuner.initial_values()
    if tuned is not None:
        raw = load_file(tuned / "hyperparameters.safetensors")
        values = {name: raw[name].double().view(each.shape) for name, each in values.items()}
    engine = tuner.train(values, draw)
    job = stated(spec, seed)
    problem = spec_adapter.problem(job, None, code)
    train, valid, _ = program.my_data(seed)
    weights = program.weights_of(seed, tuned).double()
    model = with_weights(problem, seed_of(WEIGHTS, seed, draw, 0))
    batches = drawn(program, train, job, (seed, draw, 0))
    program.train(model, batches, weights, job.training.steps)
    own = program.measured(model, valid)
    return {name: abs(value - engine[f"validation_{name}"]) for name, value in own.items()}


def stated(spec: Spec, seed: int) -> JobSpec:
    """The job under the seed, in float64."""
    code = {"code": UPLOADED, **spec["problem"]}
    training = {**spec["training"], "precision": "float64"}
    return JobSpec.model_validate({**spec, "seed": seed, "problem": code, "training": training})


def tuner_of(code: Path, spec: Spec, seed: int) -> Tuner:
    """The engine as a replica of the job in float64 sets it up."""
    job = stated(spec, seed)
    return Tuner(
        spec_adapter.problem(job, None, code),
        [spec_adapter.kind(each) for each in job.hyperparameters],
        spec_adapter.training(job),
        spec_adapter.method(job.hypergradient),
        seed=seed,
    )


def with_weights(problem: Problem, seed: int) -> nn.Module:
    """The model in float64 with the weights that the engine draws under the seed."""
    model = problem.model.double()
    seed_all(seed)
    with torch.no_grad():
        draw_weights(model, problem.initialize)
    return model.double()


def drawn(
    program: ModuleType, train: Any, job: JobSpec, stream: tuple[int, int, int]
) -> Iterator[tuple[Any, Tensor]]:
    """The minibatches of the user's program in the engine's draws.

    Before each, the global generators are as in the engine's step, for dropout.
    """
    rows = len(train)
    examples = Examples(torch.empty(rows), "train", torch.device("cpu"), torch.float64)
    minibatches = Minibatches(examples, job.training.batch_size, stream)
    for step in range(job.training.steps):
        index = minibatches.index(step)
        items = []
        for row, seed in zip(index.tolist(), minibatches.seeds(step), strict=True):
            seed_all(seed)
            items.append(train[row])
        batch = getattr(program, "collated", default_collate)(items)
        seed_all(minibatches.step_seed(step))
        yield in_float64(batch), index


def in_float64(batch: Any) -> Any:
    """A minibatch with its numbers of floating point in float64."""
    if isinstance(batch, Tensor):
        return batch.double() if batch.is_floating_point() else batch
    if isinstance(batch, dict):
        return {name: in_float64(part) for name, part in batch.items()}
    return tuple(map(in_float64, batch))
