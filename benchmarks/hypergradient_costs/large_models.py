"""Transformers of 10 and 50 million weights for a few steps: peak memory in copies of the weights.

Every figure is the peak of a process of its own, above what it has before the model is built. A
copy is the weights in float32.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from drmad_workers import L2, Problem, Replay, Shortcut, Stored, TrainingConfig, Tuner
from drmad_workers.hypergradients import Method
from hypergradient_costs.measurement import reset_peak, resident
from hypergradient_costs.transformer import Transformer, next_token_loss, sentences

SIZES = {"10 million": (4096, 320, 6), "50 million": (16384, 640, 6), "tiny": (32, 16, 1)}
"""Words, width and layers."""
STEPS = {"10 million": (20, 40), "50 million": (4, 8), "tiny": (2, 4)}
LENGTH, ROWS = 16, 2
METHODS: Mapping[str, Method] = {"stored": Stored(), "replay": Replay(), "shortcut": Shortcut()}
SCRIPT = Path(__file__).parents[1] / "engine.py"
FREED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Makes freed tensors leave the process at once."""


def problem_of(size: str) -> Problem:
    words, width, layers = SIZES[size]
    torch.manual_seed(0)
    model = Transformer(words, width, layers, 4, LENGTH)
    train, valid = (sentences(32, words, LENGTH, seed) for seed in (1, 2))
    return Problem(model, train, tuple(part[:ROWS] for part in valid), loss=next_token_loss)


def training_of(optimizer: str, steps: int) -> TrainingConfig:
    if optimizer == "sgd":
        return TrainingConfig("sgd", steps, ROWS, 0.01, 0.9)
    return TrainingConfig("adamw", steps, ROWS, 1e-3)


def plain(problem: Problem, optimizer: str, steps: int) -> None:
    model, (tokens, _) = problem.model, problem.train
    moving: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if optimizer == "sgd":
        moving = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for step in range(steps):
        batch = tokens[ROWS * step % 32 : ROWS * step % 32 + ROWS]
        moving.zero_grad()
        torch.autograd.backward(next_token_loss(model(batch), batch).mean())
        moving.step()


def work(size: str, optimizer: str, name: str, steps: int) -> nn.Module:
    """The plain training, the engine's training alone, or a meta-iteration by a method."""
    problem = problem_of(size)
    if name == "plain":
        plain(problem, optimizer, steps)
        return problem.model
    training = training_of(optimizer, steps)
    tuner = Tuner(problem, [L2(per="layer")], training, METHODS.get(name, Replay()))
    values = tuner.initial_values()
    if name == "train":
        tuner.train(values)
    else:
        tuner.evaluate(values, 0)
    return problem.model


def one_large(size: str, optimizer: str, name: str, steps: int) -> dict[str, Any]:
    """The peak of this process, in copies of the weights."""
    work("tiny", optimizer, name, 3)  # loads what is loaded at first use
    before = reset_peak()
    weights = sum(p.numel() for p in work(size, optimizer, name, steps).parameters())
    copies = (resident("VmHWM") - before) / (4 * weights)
    return {
        "size": size, "optimizer": optimizer, "name": name, "steps": steps, "weights": weights,
        "copies": copies,
    }  # fmt: skip


def large(options: argparse.Namespace) -> dict[str, Any]:
    """All sizes, optimizers and methods; goes on with what the file `options.rows` holds."""
    store = None if options.rows is None else Path(options.rows)
    rows: list[dict[str, Any]] = []
    if store is not None and store.exists():
        rows = [json.loads(line) for line in store.read_text().splitlines()]
    for size in ("tiny",) if options.quick else ("10 million", "50 million"):
        for optimizer in ("sgd",) if options.quick else ("sgd", "adamw"):
            for name in ("plain", "replay") if options.quick else ("plain", "train", *METHODS):
                for steps in options.steps or STEPS[size]:
                    key = [size, optimizer, name, steps]
                    if any(
                        [r[k] for k in ("size", "optimizer", "name", "steps")] == key for r in rows
                    ):
                        continue
                    command = [sys.executable, str(SCRIPT), "--large", *map(str, key)]
                    done = subprocess.run(
                        command, env=os.environ | FREED, capture_output=True, text=True, check=True
                    )
                    rows.append(json.loads(done.stdout))
                    if store is not None:
                        with store.open("a") as file:
                            file.write(done.stdout)
    return {"rows": rows}


def large_lines(part: Mapping[str, Any]) -> list[str]:
    """The table of the section of docs/reference/benchmarks.md."""
    lines = [
        "",
        "### Large models: peak memory in copies of the weights",
        "",
        "| weights | optimizer | | T | copies | 2 T | copies |",
        "|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in part["rows"]:
        found.setdefault((row["size"], row["optimizer"], row["name"]), []).append(row)
    for (size, optimizer, name), rows in found.items():
        figures = " | ".join(f"{row['steps']} | {row['copies']:.1f}" for row in rows)
        lines.append(f"| {size} | {optimizer} | {name} | {figures} |")
    return lines
