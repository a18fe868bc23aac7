"""The training, its held-out figures, and the command line of recipe.py."""

from __future__ import annotations

import argparse
import importlib
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
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
from drmad_client.export.plain.uses import USES
from drmad_client.export.pytorch import _parameters, penalties, penalty, scale_weights

SETTINGS: dict[str, Any] = {}
"""What the job states: training, hyperparameters, and what its retraining asked for."""
HELD_OUT_ROWS = 256
"""The rows of held-out data in one pass of the model."""


def beside(name: str) -> Path:
    """A file in the folder of recipe.py."""
    return Path(__file__).with_name(name)


def hyperparameters() -> dict[str, Tensor]:
    return load_file(beside("hyperparameters.safetensors"))


def seed_all(seed: int) -> None:
    if "code" in USES:
        random.seed(seed)
        np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def stated_problem(data: Mapping[str, Tensor] | None = None) -> Problem:
    """The problem of the job.

    Args:
        data: the tensors of data.safetensors, where the recipe reads that file.
    """
    if "code" in USES:
        problem = own_problem(data)
    else:
        problem = catalog_problem(SETTINGS, data)
    if "weights file" in USES:
        if not beside("weights.safetensors").exists():
            raise SystemExit("put the file of weights beside recipe.py, as weights.safetensors")
        problem.model.load_state_dict(load_file(beside("weights.safetensors")), strict=False)
        problem.initialize = None
    if "groups" in USES:
        freeze(problem.model)
    return problem


def own_problem(data: Mapping[str, Tensor] | None) -> Problem:
    """The problem that the code in the folder `code` builds."""
    stand_in(beside("integrations"))
    sys.path.insert(0, str(beside("code")))
    module, _, function = SETTINGS["entrypoint"].partition(":")
    seed_all(SETTINGS["build_seed"])
    build = getattr(importlib.import_module(module), function)
    options = dict(SETTINGS["options"])
    if "data" in USES:
        if data is None:
            raise SystemExit("name the uploaded data: python recipe.py data.safetensors")
        options["data"] = data
    seed_all(SETTINGS["build_seed"])
    problem: Problem = build(**options)
    if problem.initialize is None:
        problem.initialize = SETTINGS["initialize"]
    return problem


@torch.no_grad()
def draw_weights(problem: Problem) -> None:
    """Draws the weights from which a training begins, as the problem states it."""
    if problem.initialize == "reset":
        problem.model.apply(reset)
    if "code" in USES:
        if callable(problem.initialize):
            problem.initialize(problem.model)


def reset(module: nn.Module) -> None:
    own = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if "code" not in USES and "groups" not in USES:
        if own is not None:
            own()
        return
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


def arguments_of(problem: Problem, tuned: Tuned) -> dict[str, Tensor]:
    """What the problem's own losses take by name."""
    stated = {name: each.value for name, each in problem.hyperparameters.items()}
    own = {
        each["name"]: tuned[each["name"]]
        for each in SETTINGS["hyperparameters"]
        if each["kind"] in ("tensor", "loss_weight", "sample_weight")
    }
    if "row weights" in USES:
        validation = [problem.valid]
        if "validation rows" not in USES:
            validation = []
        examples = Examples(problem, problem.train, *validation)
        own |= RowWeights(SETTINGS, tuned, problem, examples).by_name
    return stated | own


def precision() -> AbstractContextManager[Any]:
    """The precision of the model's computations."""
    if "bfloat16" in USES:
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def train(problem: Problem, seed: int = 0) -> nn.Module:
    """Trains the model of the problem in place, from the weights that it has.

    Args:
        seed: that of the order of the rows.
    """
    model, steps = problem.model, SETTINGS["steps"]
    dtype = torch.float32
    if "float64" in USES:
        dtype = torch.float64
    model.to(dtype)
    tuned = {name: values.to(dtype) for name, values in hyperparameters().items()}
    examples = Examples(problem, problem.train)
    if "validation rows" in USES:
        examples = Examples(problem, problem.train, problem.valid)
    kept = torch.arange(examples.rows)
    if "row weights" in USES:
        weights = RowWeights(SETTINGS, tuned, problem, examples)
        kept = weights.kept
    if "code" in USES:
        arguments = {k: v.to(dtype) for k, v in arguments_of(problem, tuned).items()}
    if "penalties" in USES:
        penalised = [
            (penalties(model, tuned[each["name"]].numpy(), each["per"]), int(each["kind"][1]))
            for each in SETTINGS["hyperparameters"]
            if each["kind"] in ("l1", "l2")
        ]
    if "init_scale" in USES:
        for each in SETTINGS["hyperparameters"]:
            if each["kind"] == "init_scale":
                scale_weights(model, tuned[each["name"]].numpy())
    if "training_data" in USES:
        (learned,) = (
            tuned[each["name"]]
            for each in SETTINGS["hyperparameters"]
            if each["kind"] == "training_data"
        )
    named = [(name, parameter) for name, parameter, _ in _parameters(model)]
    names, parameters = [name for name, _ in named], [parameter for _, parameter in named]
    learning = rates(SETTINGS, tuned, "learning_rate", names)
    if "schedule" in USES:
        learning *= torch.tensor(factors(SETTINGS["schedule"], steps), dtype=torch.float64)
    momentum = rates(SETTINGS, tuned, "momentum", names)
    decay = rates(SETTINGS, tuned, "weight_decay", names)
    if "custom" in USES:
        optimizer = optimizer_of(SETTINGS, parameters, problem.optimizer)
    else:
        optimizer = optimizer_of(SETTINGS, parameters)
    drawn = minibatches(kept, seed)

    def loss_of(index: Tensor) -> Tensor:
        content = examples.take(index, dtype)
        if "training_data" in USES:
            content = (learned[index], content[1])
        if "code" in USES:
            if problem.inner_loss is not None:
                with precision():
                    return problem.inner_loss(model, arguments, Batch(content, index))
        if "bfloat16" in USES:
            with precision():
                losses = problem.losses(content).to(dtype)
        else:
            losses = problem.losses(content)
        if "row weights" in USES:
            return weights.mean(losses, content, index)
        return losses.mean()

    model.train()
    for step in range(steps):
        model.zero_grad()
        if "accumulate" in USES:
            for _ in range(SETTINGS["accumulate"]):
                torch.autograd.backward(loss_of(next(drawn)) / SETTINGS["accumulate"])
        else:
            torch.autograd.backward(loss_of(next(drawn)))
        if "penalties" in USES:
            for coefficients, power in penalised:
                torch.autograd.backward(penalty(model, coefficients, power))
        if "clip_norm" in USES:
            nn.utils.clip_grad_norm_(parameters, SETTINGS["clip_norm"])
        if "clip_value" in USES:
            nn.utils.clip_grad_value_(parameters, SETTINGS["clip_value"])
        tables = learning[:, step], momentum[:, step], decay[:, step]
        own = zip(*(each.tolist() for each in tables), strict=True)
        optimizer.step(step, [StepRates(*values) for values in own])
    return model.eval()


@torch.no_grad()
def figures(problem: Problem, part: str = "test") -> dict[str, float]:
    """The loss and every metric of the trained model on rows that were not trained on."""
    dtype = next(problem.model.parameters()).dtype
    examples = Examples(problem, getattr(problem, part))
    totals: dict[str, float] = {}
    if "code" in USES:
        arguments = arguments_of(problem, hyperparameters())
        arguments = {name: values.to(dtype) for name, values in arguments.items()}
        whole: dict[str, list[tuple[Any, ...]]] = {}
    for index in torch.split(torch.arange(examples.rows), HELD_OUT_ROWS):
        content, share = examples.take(index, dtype), len(index) / examples.rows
        found: dict[str, Any] = {}
        if "code" in USES:
            with precision():
                outputs = problem.outputs(content)
                if problem.outer_loss is None:
                    found["loss"] = problem.loss(outputs, targets_or_all(content)).mean()
                else:
                    batch = Batch(content, index)
                    with torch.enable_grad():
                        found["loss"] = problem.outer_loss(problem.model, arguments, batch)
        elif "bfloat16" in USES:
            with precision():
                outputs = problem.outputs(content)
                found["loss"] = problem.loss(outputs, targets_or_all(content)).mean()
        else:
            outputs = problem.outputs(content)
            found["loss"] = problem.loss(outputs, targets_or_all(content)).mean()
        for name, metric in problem.metrics.items():
            if "code" in USES:
                if isinstance(metric, AllRows):
                    if metric.rows is None:
                        kept: tuple[Any, ...] = (outputs, content[1])
                    else:
                        kept = (metric.rows(outputs, targets_or_all(content)),)
                    whole.setdefault(name, []).append(kept)
                    continue
            found[name] = metric(outputs, targets_or_all(content))
        for name, value in found.items():
            totals[name] = totals.get(name, 0.0) + float(value) * share
    if "code" in USES:
        for name, parts in whole.items():
            together = [torch.cat(column) for column in zip(*parts, strict=True)]
            totals[name] = float(problem.metrics[name].measure(*together))
    return {f"{part}_{name}": value for name, value in totals.items()}


def main() -> None:
    """Trains under some seeds, prints mean and deviation of every figure, and writes model.pt."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    if "data" in USES:
        parser.add_argument("data", nargs="?", help="file of tensors, data.safetensors")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    data: dict[str, Tensor] | None = None
    if "data" in USES:
        if options.data is not None:
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
