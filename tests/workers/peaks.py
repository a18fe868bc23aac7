"""Peak memory of a process that trains and differentiates, in copies of the weights.

    python -m tests.workers.peaks measured sgd|adamw
    python -m tests.workers.peaks predicted|taken sgd|adamw METHOD STEPS
    python -m tests.workers.peaks backward sgd|adamw BUDGET STEPS

Every stage is measured in this process, from a peak that is set back before it. Memory is what
Linux reports as resident; MALLOC_MMAP_THRESHOLD_ makes freed tensors leave it at once.
"""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from drmad_client.spec.job import JobSpec
from drmad_workers import L2, Problem, Replay, Shortcut, TrainingConfig, Tuner, spec_adapter
from drmad_workers.preflight.short_run import preflight

WIDTH, ROWS, STEPS = 1200, 2, 3
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def problem(width: int) -> Problem:
    """Four matrices of a quarter of the weights each."""
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(width, width), nn.Tanh())]
    inputs, targets = torch.randn(8, width), torch.randint(width, (8,))
    return Problem(nn.Sequential(*layers[:-1]), (inputs, targets), (inputs, targets))


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(name)]
    return 1024 * int(line.split()[1])


def peak(work: Callable[[], object]) -> int:
    """The most bytes that the process has while it works."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return status("VmHWM")


def plain(stated: Problem, optimizer: str) -> None:
    model = stated.model
    moving: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    if optimizer == "sgd":
        moving = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    inputs, targets = stated.train
    for _ in range(STEPS):
        moving.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(inputs[:ROWS]), targets[:ROWS]))
        moving.step()


def measured(optimizer: str) -> dict[str, float]:
    """Peaks of plain training, of building a tuner and of its training, in copies."""
    training = TrainingConfig(optimizer, STEPS, ROWS, learning_rate=0.01)  # type: ignore[arg-type]

    def tuner(width: int) -> Tuner:
        return Tuner(problem(width), [L2(per="layer")], training, Replay())

    small = tuner(8)  # loads what is loaded at first use
    small.evaluate(small.initial_values(), 0)
    plain(problem(8), optimizer)
    copy = 16 * WIDTH * (WIDTH + 1)
    built: list[Tuner] = []
    before = peak(lambda: None)
    bytes_of = {"plain": peak(lambda: plain(problem(WIDTH), optimizer))}
    bytes_of["build"] = peak(lambda: built.append(tuner(WIDTH)))
    bytes_of["train"] = peak(lambda: built[0].train(built[0].initial_values()))
    return {name: (found - before) / copy for name, found in bytes_of.items()}


def job(optimizer: str, method: str, steps: int) -> JobSpec:
    """A job with 10 million weights."""
    return JobSpec.model_validate(
        {
            "problem": {
                "model": {"name": "mlp", "hidden": [1800] * 4},
                "data": {"name": "digits", "train": 64, "valid": 16, "test": 0},
            },
            "hyperparameters": [{"kind": "l2", "per": "layer"}],
            "training": {"steps": steps, "batch_size": 4, "optimizer": optimizer}
            | {"learning_rate": 0.001},
            "hypergradient": {"method": method},
            "meta": {"iterations": 1},
        }
    )


def predicted(optimizer: str, method: str, steps: int) -> dict[str, float]:
    """The bytes that the preflight predicts."""
    return {"bytes": preflight(job(optimizer, method, steps))["memory_bytes"]}


def taken(optimizer: str, method: str, steps: int) -> dict[str, float]:
    """The bytes of the process at the peak of a meta-iteration, and before the model is built."""
    small = Tuner(problem(8), [L2(per="layer")], TrainingConfig("sgd", 3, 2), Replay())
    small.evaluate(small.initial_values(), 0)
    before = peak(lambda: None)
    tuner = spec_adapter.tuner(job(optimizer, method, steps))
    return {
        "before": before,
        "bytes": peak(lambda: tuner.evaluate(tuner.initial_values(), 0)),
    }


def backward(optimizer: str, budget: str, steps: int) -> dict[str, float]:
    """The copies of a meta-iteration by the shortcut above training and the trained model."""
    training = TrainingConfig(optimizer, steps, ROWS, learning_rate=0.001)  # type: ignore[arg-type]

    def tuner(width: int) -> Tuner:
        return Tuner(problem(width), [L2(per="layer")], training, Shortcut(budget=int(budget)))

    small = tuner(8)
    small.evaluate(small.initial_values(), 0)
    large = tuner(WIDTH)
    values = large.initial_values()
    trained = peak(lambda: large.train(values))
    differentiated = peak(lambda: large.evaluate(values, 0))
    return {"copies": (differentiated - trained) / (16 * WIDTH * (WIDTH + 1)) - 1.0}


def elsewhere(*arguments: str) -> dict[str, float]:
    """A function of this module, by its name and arguments, in a process of its own."""
    command = [sys.executable, "-m", __name__, *arguments]
    done = subprocess.run(
        command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, optimizer, *rest = sys.argv[1:]
    if name == "measured":
        print(json.dumps(measured(optimizer)))
    else:
        stated, steps = rest
        function = {"predicted": predicted, "taken": taken, "backward": backward}[name]
        print(json.dumps(function(optimizer, stated, int(steps))))
