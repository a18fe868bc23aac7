"""Every method in one cell of a recipe, and what `auto` chooses there."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from drmad_workers import HypergradientError, Replay, Shortcut, Stored, Tuner
from drmad_workers.hypergradients import Method
from drmad_workers.hypergradients.agreement import agreement
from drmad_workers.hypergradients.backward_pass import BackwardPass
from fidelity_study.auto_choice import auto_in
from fidelity_study.recipe_cells import RecipeCell

WITHIN = 200
"""The steps over which plain training is timed."""


METHODS: dict[str, Method] = {"stored": Stored(), "replay": Replay(), "shortcut": Shortcut()}
"""The methods whose cosine and seconds are measured, the exact ones first."""


@dataclass(frozen=True)
class Timed:
    """What a method made of one run, and the CPU seconds of both passes."""

    found: BackwardPass | HypergradientError
    seconds: float


def measure_recipe(cell: RecipeCell) -> dict[str, Any]:
    """The figures of the cell, one line of the file of results.

    The methods are timed in the first draw.
    """
    started = time.process_time()
    tuner = Tuner(cell.problem(), cell.kinds(), cell.training(), Stored())
    values, methods = tuner.initial_values(), METHODS
    chunks = plain_seconds(cell, tuner)
    first = {name: timed(tuner, values, method) for name, method in methods.items()}
    plain = median(chunks + plain_seconds(cell, tuner))
    exact = first["stored"].found
    figures: dict[str, Any] = {
        "cell": cell.name,
        "chooses": cell.chooses,
        "harsh": cell.harsh,
        "steps": cell.steps,
        "plain_seconds": plain,
        "methods": {},
    }
    if isinstance(exact, HypergradientError):
        return figures | {"failed": str(exact), "cpu_seconds": time.process_time() - started}
    figures["growth"] = exact.growth
    for name, method in methods.items():
        seconds = first[name].seconds / plain
        figures["methods"][name] = against(exact, first[name].found) | {
            "measured": seconds,
            "counted": method.cost(cell.training()),
            "copies": method.copies(cell.training()) * cell.training().path_rows,
        }
    figures["auto"] = auto_in(
        lambda method: Tuner(cell.problem(), cell.kinds(), cell.training(), method), values
    )
    return figures | {"cpu_seconds": time.process_time() - started}


def timed(tuner: Tuner, values: Mapping[str, Tensor], method: Method) -> Timed:
    started = time.process_time()
    (found,), _ = tuner.compare(values, [method])
    return Timed(found, time.process_time() - started)


def against(exact: BackwardPass, found: BackwardPass | HypergradientError) -> dict[str, Any]:
    """The agreement with the exact hypergradient; None where the method diverged."""
    if isinstance(found, HypergradientError):
        return {"cosine": None, "products": None}
    cosine = agreement(found.hypergradient, exact.hypergradient).cosine
    return {"cosine": cosine if math.isfinite(cosine) else None, "products": found.products}


def plain_seconds(cell: RecipeCell, tuner: Tuner) -> list[float]:
    """CPU seconds of T steps by a loop over torch's own optimizer, scheduler and clipping.

    The minibatches are drawn by the engine, and lie in memory but for augmented ones, which are
    read in the loop.
    """
    problem, training = cell.problem(), cell.training()
    steps = min(training.steps, WITHIN)
    minibatches = tuner.replica.minibatches(0)
    model = problem.model.train()
    optimizer = torch_optimizer(cell, model)
    factors = training.factors or [1.0] * training.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: factors[step % len(factors)]
    )
    weights = torch.full((1,), 0.5)
    found = []
    for _ in range(2):
        started = time.process_time()
        for step in range(steps):
            batch = minibatches.join(step)
            losses = problem.loss(model(batch.inputs), batch.targets)
            loss = (losses * weights).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            if training.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
            optimizer.step()
            schedule.step()
        found.append((time.process_time() - started) * training.steps / steps)
    return found


def torch_optimizer(cell: RecipeCell, model: nn.Module) -> torch.optim.Optimizer:
    training = cell.training()
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), training.learning_rate, training.momentum,
            weight_decay=training.weight_decay,
        )  # fmt: skip
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(
        model.parameters(), training.learning_rate, training.betas,
        weight_decay=training.weight_decay,
    )  # fmt: skip
