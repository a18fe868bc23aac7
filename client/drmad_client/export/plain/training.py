"""The training, its held-out figures, and the command line of recipe.py."""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drmad_client.export.plain.catalog import catalog_problem
from drmad_client.export.plain.optimizers import optimizer_of
from drmad_client.export.plain.rates import Tuned, factors, group_of, rates
from drmad_client.export.plain.row_weights import RowWeights
from drmad_client.export.plain.statement import (
    AllRows,
    Batch,
    Examples,
    Problem,
    StepRates,
    stand_in,
    targets_or_all,
)
from drmad_client.export.pytorch import _parameters, penalties, penalty, scale_weights

SETTINGS: dict[str, Any] = json.loads("{}")
"""What the job states: training, hyperparameters, and what its retraining asked for."""
HELD_OUT_ROWS = 256
"""The rows of held-out data in one pass of the model."""


def beside(name: str) -> Path:
    """A file in the folder of recipe.py."""
    return Path(__file__).with_name(name)


def hyperparameters() -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(beside("hyperparameters.safetensors"))


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def stated_problem(data: Mapping[str, Tensor] | None = None) -> Problem:
    """The problem of the job: that of its own code beside this file, or one of the catalog.

    Args:
        data: the tensors of the file of data; of own code those of an uploaded data set.
    """
    if SETTINGS["entrypoint"] is None:
        if data is None:
            raise SystemExit("name the file of the data: python recipe.py data.safetensors")
        problem = catalog_problem(SETTINGS, data)
    else:
        stand_in(beside("integrations"))
        sys.path.insert(0, str(beside("code")))
        module, _, function = SETTINGS["entrypoint"].partition(":")
        seed_all(SETTINGS["build_seed"])
        build = getattr(importlib.import_module(module), function)
        options = dict(SETTINGS["options"])
        if SETTINGS["takes_data"]:
            if data is None:
                raise SystemExit("name the uploaded data: python recipe.py data.safetensors")
            options["data"] = data
        seed_all(SETTINGS["build_seed"])
        problem = build(**options)
        if problem.initialize is None:
            problem.initialize = SETTINGS["initialize"]
    if SETTINGS["starts_from_weights"]:
        from safetensors.torch import load_file

        if not beside("weights.safetensors").exists():
            raise SystemExit("put the file of weights beside recipe.py, as weights.safetensors")
        problem.model.load_state_dict(load_file(beside("weights.safetensors")), strict=False)
        problem.initialize = None
    freeze(problem.model)
    return problem


@torch.no_grad()
def draw_weights(problem: Problem) -> None:
    """Draws the weights from which a training begins, as the problem states it."""
    if problem.initialize == "reset":
        problem.model.apply(reset)
    elif problem.initialize is not None:
        problem.initialize(problem.model)


def reset(module: nn.Module) -> None:
    own = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    parameters = list(module.parameters())
    if own is None or (parameters and not any(each.requires_grad for each in parameters)):
        return
    frozen = [(each, each.detach().clone()) for each in parameters if not each.requires_grad]
    own()
    for parameter, values in frozen:
        parameter.copy_(values)


def freeze(model: nn.Module) -> None:
    """Freezes the parameters of frozen groups, which no draw of weights changes then."""
    patterns = [group["match"] for group in SETTINGS["groups"]]
    for name, parameter in model.named_parameters():
        row = group_of(patterns, name)
        if row >= 0 and SETTINGS["groups"][row]["frozen"]:
            parameter.requires_grad_(False)


def minibatches(rows: Tensor, seed: int) -> Iterator[Tensor]:
    """The positions of the rows of each minibatch, in a new order in every epoch."""
    order = torch.Generator().manual_seed(seed)
    size = SETTINGS["batch_size"]
    while True:
        shuffled = rows[torch.randperm(len(rows), generator=order)]
        yield from (part for part in torch.split(shuffled, size) if len(part) == size)


def arguments_of(problem: Problem, tuned: Tuned, weights: RowWeights) -> dict[str, Tensor]:
    """What the problem's own losses take by name."""
    stated = {name: each.value for name, each in problem.hyperparameters.items()}
    own = {
        each["name"]: tuned[each["name"]]
        for each in SETTINGS["hyperparameters"]
        if each["kind"] in ("tensor", "loss_weight", "sample_weight")
    }
    return stated | own | weights.by_name


def precision() -> AbstractContextManager[Any]:
    if SETTINGS["precision"] == "bfloat16":
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def train(problem: Problem, seed: int = 0) -> nn.Module:
    """Trains the model of the problem in place, from the weights that it has.

    Args:
        seed: that of the order of the rows.
    """
    tuned, model, steps = hyperparameters(), problem.model, SETTINGS["steps"]
    dtype = torch.float64 if SETTINGS["precision"] == "float64" else torch.float32
    model.to(dtype)
    tuned = {name: values.to(dtype) for name, values in tuned.items()}
    validation = [problem.valid] if SETTINGS["with_validation"] else []
    examples = Examples(problem, problem.train, *validation)
    weights = RowWeights(SETTINGS, tuned, problem, examples)
    arguments = {k: v.to(dtype) for k, v in arguments_of(problem, tuned, weights).items()}
    penalised: list[tuple[dict[str, Tensor], int]] = []
    learned: Tensor | None = None
    for each in SETTINGS["hyperparameters"]:
        values = tuned[each["name"]]
        if each["kind"] in ("l1", "l2"):
            coefficients = penalties(model, values.numpy(), each["per"])
            penalised.append((coefficients, 1 if each["kind"] == "l1" else 2))
        elif each["kind"] == "init_scale":
            scale_weights(model, values.numpy())
        elif each["kind"] == "training_data":
            learned = values
    named = [(name, parameter) for name, parameter, _ in _parameters(model)]
    names, parameters = [name for name, _ in named], [parameter for _, parameter in named]
    learning = rates(SETTINGS, tuned, "learning_rate", names)
    learning *= torch.tensor(factors(SETTINGS["schedule"], steps), dtype=torch.float64)
    momentum = rates(SETTINGS, tuned, "momentum", names)
    decay = rates(SETTINGS, tuned, "weight_decay", names)
    optimizer = optimizer_of(SETTINGS, parameters, problem.optimizer)
    drawn, parts = minibatches(weights.kept, seed), SETTINGS["accumulate"]

    def loss_of(index: Tensor) -> Tensor:
        content = examples.take(index, dtype)
        if learned is not None:
            content = (learned[index], content[1])
        with precision():
            if problem.inner_loss is not None:
                return problem.inner_loss(model, arguments, Batch(content, index))
            losses = problem.losses(content)
        return weights.mean(losses.to(dtype), content, index)

    model.train()
    for step in range(steps):
        model.zero_grad()
        for _ in range(parts):
            torch.autograd.backward(loss_of(next(drawn)) / parts)
        for coefficients, power in penalised:
            torch.autograd.backward(penalty(model, coefficients, power))
        if SETTINGS["clip_norm"] is not None:
            nn.utils.clip_grad_norm_(parameters, SETTINGS["clip_norm"])
        if SETTINGS["clip_value"] is not None:
            nn.utils.clip_grad_value_(parameters, SETTINGS["clip_value"])
        tables = learning[:, step], momentum[:, step], decay[:, step]
        own = [
            StepRates(*values) for values in zip(*(each.tolist() for each in tables), strict=True)
        ]
        optimizer.step(step, own)
    return model.eval()


@torch.no_grad()
def figures(problem: Problem, part: str = "test") -> dict[str, float]:
    """The loss and every metric of the trained model on rows that were not trained on."""
    dtype = next(problem.model.parameters()).dtype
    examples = Examples(problem, getattr(problem, part))
    empty = RowWeights(
        {**SETTINGS, "threshold": None, "drop_lowest": None},
        hyperparameters(),
        problem,
        Examples(problem, problem.train),
    )
    arguments = arguments_of(problem, hyperparameters(), empty)
    arguments = {name: values.to(dtype) for name, values in arguments.items()}
    totals: dict[str, float] = {}
    whole: dict[str, list[tuple[Any, ...]]] = {}
    for index in torch.split(torch.arange(examples.rows), HELD_OUT_ROWS):
        content, share = examples.take(index, dtype), len(index) / examples.rows
        with precision():
            outputs = problem.outputs(content)
            if problem.outer_loss is None:
                loss = problem.loss(outputs, targets_or_all(content)).mean()
            else:
                with torch.enable_grad():
                    loss = problem.outer_loss(problem.model, arguments, Batch(content, index))
        found: dict[str, Any] = {"loss": loss}
        for name, metric in problem.metrics.items():
            if not isinstance(metric, AllRows):
                found[name] = metric(outputs, targets_or_all(content))
            elif metric.rows is None:
                whole.setdefault(name, []).append((outputs, content[1]))
            else:
                whole.setdefault(name, []).append((metric.rows(outputs, targets_or_all(content)),))
        for name, value in found.items():
            totals[name] = totals.get(name, 0.0) + float(value) * share
    for name, kept in whole.items():
        together = [torch.cat(column) for column in zip(*kept, strict=True)]
        totals[name] = float(problem.metrics[name].measure(*together))
    return {f"{part}_{name}": value for name, value in totals.items()}


def main() -> None:
    """Trains under some seeds, prints mean and deviation of every figure, and writes model.pt."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", nargs="?", help="file of tensors, safetensors; see the guide")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    data: dict[str, Tensor] | None = None
    if options.data is not None:
        from safetensors.torch import load_file

        data = load_file(options.data)
    found: list[dict[str, float]] = []
    for seed in range(options.seeds):
        problem = stated_problem(data)
        if problem.test is None:
            raise SystemExit("the problem has no test data to measure on: give it some")
        seed_all(seed)
        draw_weights(problem)
        model = train(problem, seed)
        found.append(figures(problem))
        if seed == 0:
            torch.save(model.state_dict(), "model.pt")
    for name in found[0]:
        column = torch.tensor([each[name] for each in found], dtype=torch.float64)
        deviation = float(column.std()) if len(found) > 1 else 0.0
        print(f"{name} {float(column.mean()):.6g} ± {deviation:.2g} (standard deviation)")


if __name__ == "__main__":
    main()
