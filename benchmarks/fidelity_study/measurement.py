"""Every method in one cell, and what auto makes of it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from drmad_workers import MetaConfig, Replay, Shortcut, TrainingConfig, Tuner, tune
from drmad_workers.hypergradients import Method
from drmad_workers.hypergradients.agreement import agreement
from drmad_workers.hypergradients.automatic.choice import settings_of
from drmad_workers.hypergradients.backward_pass import BackwardPass
from fidelity_study.auto_choice import auto_in
from fidelity_study.cells import Cell, methods_of

THRESHOLD = 0.8


def measure(cell: Cell, roots: Sequence[Path]) -> dict[str, Any]:
    """The figures of the cell, as the --json file has them."""
    training = cell.training()
    tuner = Tuner(cell.problem(roots), cell.kinds(), training, Replay())
    values = tuned_values(cell, roots) if cell.tuned else tuner.initial_values()
    methods = methods_of(cell)
    plain_chunks = plain_seconds(cell, roots)
    started = time.process_time()
    exact, exact_seconds = differentiated(cell, tuner, values, Replay())
    assert isinstance(exact, BackwardPass)
    runs = {name: differentiated(cell, tuner, values, method) for name, method in methods.items()}
    spent = time.process_time() - started
    plain = median(plain_chunks + plain_seconds(cell, roots))
    found = {"replay": row(Replay(), exact, exact_seconds / plain, exact, training)}
    for name, method in methods.items():
        backward, seconds = runs[name]
        found[name] = row(method, backward, seconds / plain, exact, training)
    return {
        "cell": cell.name,
        "harsh": cell.harsh,
        **asdict(cell),
        "plain_seconds": plain,
        "cpu_seconds": spent,
        "methods": found,
        "auto": auto_in(
            lambda method: Tuner(cell.problem(roots), cell.kinds(), training, method), values
        ),
    }


def differentiated(
    cell: Cell, tuner: Tuner, values: Mapping[str, Tensor], method: Method
) -> tuple[BackwardPass | None, float]:
    """What the method makes of the cell's run, and the CPU seconds of both passes.

    The median of several where they are short: every repeat computes the same.
    """
    repeats = 5 if cell.steps <= 200 else 3 if cell.steps <= 1000 else 1
    backward, seconds = None, []
    for _ in range(repeats):
        (found,), forward = tuner.compare(values, [method])
        if not isinstance(found, BackwardPass):
            return None, 0.0
        backward = found
        seconds.append(forward + found.seconds)
    return backward, median(seconds)


def row(
    method: Method,
    backward: BackwardPass | None,
    measured: float,
    exact: BackwardPass,
    training: TrainingConfig,
) -> dict[str, Any]:
    """`measured` is what both passes took, in plain training runs."""
    figures: dict[str, Any] = {
        "settings": settings_of(method),
        "counted": method.cost(training),
        "copies": method.copies(training),
        "cosine": None,
        "signs": None,
        "length": None,
        "products": None,
        "seconds": None,
        "measured": None,
    }
    if backward is not None:
        figures |= asdict(agreement(backward.hypergradient, exact.hypergradient))
        figures |= {
            "products": backward.products,
            "seconds": backward.seconds,
            "measured": measured,
        }
    return figures


def tuned_values(cell: Cell, roots: Sequence[Path]) -> dict[str, Tensor]:
    result = tune(
        cell.problem(roots),
        cell.kinds(),
        cell.training(),
        Shortcut(horizon=cell.steps // 4),
        MetaConfig(iterations=10),
    )
    assert result.state is not None
    return result.state.hyperparameters


def plain_seconds(cell: Cell, roots: Sequence[Path]) -> list[float]:
    """CPU seconds of a loop over torch.optim.SGD on the same loss, per T steps, three times."""
    problem, training = cell.problem(roots), cell.training()
    inputs, targets = problem.train
    steps, rows = min(training.steps, 200), training.batch_size
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    rate = training.learning_rate * (1.0 - training.momentum)
    penalty = torch.full((), -9.0).exp() if cell.kind == "l2" else None
    weights = torch.full((len(targets),), 0.5) if cell.kind == "sample_weight" else None
    found = []
    for _ in range(3):
        model = problem.model
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=training.momentum)
        started = time.process_time()
        for step in range(steps):
            index = order[torch.arange(step * rows, (step + 1) * rows) % len(order)]
            losses = problem.loss(model(inputs[index]), targets[index])
            loss = losses.mean() if weights is None else (losses * weights[index]).mean()
            if penalty is not None:
                matrices = [p for p in model.parameters() if p.ndim > 1]
                loss = loss + sum((penalty * p.square()).sum() for p in matrices)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        found.append((time.process_time() - started) * training.steps / steps)
    return found
