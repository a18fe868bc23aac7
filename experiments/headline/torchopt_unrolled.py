"""The same hypergradient by torchopt, which unrolls the training: what a user could take instead.

    python -m experiments.headline.torchopt_unrolled [T ...]

torchopt is no dependency of this project: install it beside (`pip install torchopt`). Each T runs
in a process of its own, which may take 8 GiB, and becomes a line of results.jsonl.
"""

from __future__ import annotations

import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from experiments.headline.experiment import FOLDER
from experiments.opponents import data_roots
from experiments.results import Result, Results
from experiments.tasks import read_spec
from torch import nn

from drmad_workers.catalog import Places, build_problem
from drmad_workers.evaluation import peak_memory_bytes

ARM = "torchopt"
CPU = torch.device("cpu")
LIMIT_GIB = 8


def measure(steps: int) -> Result:
    limit = LIMIT_GIB * 2**30
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        return unrolled(steps)
    except (MemoryError, RuntimeError) as error:
        reason = f"out of {LIMIT_GIB} GiB"
        if "allocate" not in str(error) and not isinstance(error, MemoryError):
            raise
        return Result(f"T = {steps}", ARM, 0, "by hand", error=reason)


def unrolled(steps: int) -> Result:
    import torchopt  # type: ignore[import-not-found,unused-ignore]

    torch.set_num_threads(1)
    spec: dict[str, Any] = read_spec(FOLDER / "job.yaml")
    problem = build_problem(
        spec["problem"]["model"], spec["problem"]["data"], places=Places(data_roots())
    )
    model, training = problem.model, spec["training"]
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    penalties = [torch.full((1, each.in_features), -9.0, requires_grad=True) for each in layers]
    inputs, targets = problem.train
    before = peak_memory_bytes(CPU)
    began = time.process_time()
    rate = training["learning_rate"] * (1.0 - training["momentum"])  # torch's convention
    optimizer = torchopt.MetaSGD(model, lr=rate, momentum=training["momentum"])
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (training["batch_size"],), generator=draw)
        loss = nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
        for layer, penalty in zip(layers, penalties, strict=True):
            loss = loss + (penalty.exp() * layer.weight**2).sum()
        optimizer.step(loss)
    valid_inputs, valid_targets = problem.valid
    outer = nn.functional.cross_entropy(model(valid_inputs), valid_targets)
    gradients = torch.autograd.grad(outer, penalties)
    result = Result(f"T = {steps}", ARM, 0, "by hand", [outer.item()])
    result.seconds["total"] = time.process_time() - began
    result.peak_memory_bytes = peak_memory_bytes(CPU)
    result.figures = {
        "norm": float(torch.cat([g.flatten() for g in gradients]).norm()),
        "peak_growth_bytes": result.peak_memory_bytes - before,
    }
    return result


def main() -> None:
    for steps in map(int, sys.argv[1:] or ["100", "300", "1000"]):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            Results(FOLDER).add(fresh.submit(measure, steps).result())


if __name__ == "__main__":
    main()
