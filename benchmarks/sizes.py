"""What a hypergradient costs by the size of the model: seconds times plain, copies of the weights.

    python benchmarks/sizes.py [--quick] [--models mlp,transformer,resnet] [--sizes 1,10,50]
        [--methods stored,replay,...] [--steps 20] [--rows FILE]

MLPs of two hidden layers, causal transformers and ResNet-18 by their widths, of 1, 10 and 50
million weights, by SGD with momentum in float32 on one thread; one log penalty a layer. Every row
is measured in two processes of its own. Seconds are those of the CPU, the least of three
meta-iterations after a first one, over those of a plain loop of the same steps in turn with them.
Copies are the peak of resident memory over two meta-iterations, above what there is before the
model is built, in copies of the weights in float32. FILE keeps each row, and a run goes on from it.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drmad_workers import L2, Problem, Replay, Shortcut, Stored, TrainingConfig, Tuner
from drmad_workers.hypergradients import Method
from hypergradient_costs.large_models import FREED
from hypergradient_costs.measurement import reset_peak, resident, timed
from hypergradient_costs.resnet import resnet18
from hypergradient_costs.transformer import Transformer, next_token_loss, sentences

WIDTHS: Mapping[str, Mapping[str, int]] = {
    "mlp": {"tiny": 8, "1": 680, "10": 2760, "50": 6690},
    "resnet": {"tiny": 2, "1": 19, "10": 61, "50": 136},
}
TRANSFORMERS = {
    "tiny": (32, 16, 1),
    "1": (2048, 128, 3),
    "10": (4096, 320, 6),
    "50": (16384, 640, 6),
}
"""Words, width and layers."""
ROWS = {"mlp": 8, "transformer": 2, "resnet": 4}
LENGTH = 32
"""Tokens of a sentence."""


def methods(steps: int) -> dict[str, Method | None]:
    quarter = max(1, steps // 4)
    return {
        "plain": None,
        "training alone": None,
        "stored": Stored(),
        "stored, T/4": Stored(horizon=quarter),
        "replay": Replay(),
        "shortcut": Shortcut(),
        "shortcut, T/4": Shortcut(horizon=quarter),
        "shortcut, budget 4": Shortcut(budget=4),
    }


def problem_of(model: str, size: str) -> Problem:
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(0)
    rows = ROWS[model]
    cross_entropy = nn.CrossEntropyLoss(reduction="none")
    if model == "transformer":
        words, width, layers = TRANSFORMERS[size]
        net = Transformer(words, width, layers, 4, LENGTH)
        train, valid = (sentences(4 * rows, words, LENGTH, seed) for seed in (1, 2))
        return Problem(net, train, valid, loss=next_token_loss)

    def part(count: int, *shape: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(count, *shape, generator=draw)
        return inputs, torch.randint(10, (count,), generator=draw)

    width = WIDTHS[model][size]
    if model == "resnet":
        data = part(4 * rows, 3, 32, 32), part(rows, 3, 32, 32)
        return Problem(resnet18(width), *data, loss=cross_entropy)
    hidden = nn.Linear(784, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
    data = part(4 * rows, 784), part(rows, 784)
    return Problem(nn.Sequential(*hidden, nn.Linear(width, 10)), *data, loss=cross_entropy)


def plain_loop(problem: Problem, model: str, steps: int) -> Callable[[], None]:
    inputs, targets = problem.train
    rows = ROWS[model]
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.01, momentum=0.9)

    def work() -> None:
        for step in range(steps):
            place = slice(step * rows % len(inputs), step * rows % len(inputs) + rows)
            optimizer.zero_grad()
            losses = problem.loss(problem.model(inputs[place]), targets[place])
            torch.autograd.backward(losses.mean())
            optimizer.step()

    return work


def work_of(model: str, size: str, name: str, steps: int) -> tuple[Callable[[], object], int]:
    """What is measured, and the number of weights."""
    problem = problem_of(model, size)
    weights = sum(parameter.numel() for parameter in problem.model.parameters())
    if name == "plain":
        return plain_loop(problem, model, steps), weights
    method = methods(steps)[name]
    training = TrainingConfig("sgd", steps, ROWS[model], 0.01, 0.9)
    tuner = Tuner(problem, [L2(per="layer")], training, method or Replay())
    values = tuner.initial_values()
    if method is None:
        return lambda: tuner.train(values), weights
    draws = iter(range(10))
    return lambda: tuner.evaluate(values, next(draws)), weights


def seconds(model: str, size: str, name: str, steps: int) -> dict[str, Any]:
    """The least CPU seconds of three, after a first time, and those of the plain loop in turn."""
    plain, weights = work_of(model, size, "plain", steps)
    work, _ = work_of(model, size, name, steps)
    found: dict[str, list[float]] = {"plain_seconds": [], "seconds": []}
    for turn in range(4):
        for part, each in zip(found, (plain, work), strict=True):
            taken = timed(each, torch.device("cpu"))
            if turn > 0:  # the first time also records operations
                found[part].append(taken)
    return {"weights": weights} | {part: min(taken) for part, taken in found.items()}


def copies(model: str, size: str, name: str, steps: int) -> dict[str, Any]:
    """The peak of two times, in copies of the weights."""
    work_of("mlp", "tiny", name, max(4, steps))[0]()  # loads what is loaded at first use
    before = reset_peak()
    work, weights = work_of(model, size, name, steps)
    work()
    work()
    return {"copies": (resident("VmHWM") - before) / (4 * weights)}


PARTS = {"seconds": seconds, "copies": copies}


def row_of(model: str, size: str, name: str, steps: int) -> dict[str, Any]:
    """Each figure by a process of its own: the memory's frees every tensor at once, and is slow."""
    row: dict[str, Any] = {"model": model, "size": size, "method": name, "steps": steps}
    for part in PARTS:
        command = [sys.executable, __file__, "--one", part, model, size, name, str(steps)]
        environment = os.environ | (FREED if part == "copies" else {})
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        row |= json.loads(done.stdout)
    return row | {"load": os.getloadavg()[0]}


def lines(rows: list[dict[str, Any]]) -> list[str]:
    found = [
        "| model | weights | T | method | seconds times plain | copies | load |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        ratio = row["seconds"] / row["plain_seconds"]
        found.append(
            f"| {row['model']} | {row['weights'] / 1e6:.1f} M | {row['steps']} | {row['method']} "
            f"| {ratio:.1f} | {row['copies']:.1f} | {row['load']:.0f} |"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny MLP by two methods")
    parser.add_argument("--models", default="mlp,transformer,resnet")
    parser.add_argument("--sizes", default="1,10,50", help="million weights")
    parser.add_argument("--methods", help="some of the methods, by name, split by semicolons")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=Path, help="where each row is kept, to go on from it")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        part, model, size, name, stated = options.one
        print(json.dumps(PARTS[part](model, size, name, int(stated))))
        return
    models, sizes, steps = options.models.split(","), options.sizes.split(","), options.steps
    names = options.methods.split(";") if options.methods else list(methods(steps))
    if options.quick:
        models, sizes, names, steps = ["mlp"], ["tiny"], ["plain", "replay"], 8
    rows: list[dict[str, Any]] = []
    if options.rows is not None and options.rows.exists():
        rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    for model in models:
        for size in sizes:
            for name in names:
                key = (model, size, name, steps)
                if any((r["model"], r["size"], r["method"], r["steps"]) == key for r in rows):
                    continue
                rows.append(row_of(*key))
                if options.rows is not None:
                    with options.rows.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    main()
