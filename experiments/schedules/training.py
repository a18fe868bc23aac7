"""Plain training under a schedule, written out in torch: the curves that the schedules give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from experiments.results import Result, Results
from torch import Tensor, nn

from drmad_workers.catalog import build_problem

SMOOTH = 8
"""So many steps are averaged in a curve."""


def training_losses(spec: Mapping[str, Any], run: Result, results: Results) -> list[float]:
    """Of the catalogued problem, with fresh weights; smoothed, shape (steps,)."""
    problem = build_problem(spec["problem"]["model"], spec["problem"]["data"])
    model = problem.model
    parameters = list(model.parameters())
    training = spec["training"]
    rates, momenta = schedules(training, run, results, len(parameters))
    draw = torch.Generator().manual_seed(1000 + run.seed)
    torch.manual_seed(1000 + run.seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    velocities = [torch.zeros_like(p) for p in parameters]
    inputs, targets = problem.train
    losses: list[float] = []
    order = torch.empty(0, dtype=torch.int64)
    for step in range(training["steps"]):
        if len(order) < training["batch_size"]:
            order = torch.randperm(len(inputs), generator=draw)
        rows, order = order[: training["batch_size"]], order[training["batch_size"] :]
        loss = nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
        gradients = torch.autograd.grad(loss, parameters)
        losses.append(loss.item())
        with torch.no_grad():
            for i, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                momentum = momenta[i, step]
                velocities[i] = momentum * velocities[i] - (1.0 - momentum) * gradient
                parameter.add_(rates[i, step] * velocities[i])
    window = np.ones(SMOOTH) / SMOOTH
    padded = np.concatenate([np.full(SMOOTH - 1, losses[0]), losses])
    smoothed: list[float] = np.convolve(padded, window, mode="valid").tolist()
    return smoothed


def schedules(
    training: Mapping[str, Any], run: Result, results: Results, layers: int
) -> tuple[Tensor, Tensor]:
    """Rates and momenta of every parameter and step, shape (layers, steps)."""
    steps = training["steps"]
    kept = results.arrays(run.case, run.arm, run.seed)
    raw = kept if kept is not None else {n: np.array(v) for n, v in run.raw.items()}
    spread = {}
    for name in ("learning_rate", "momentum"):
        entries = torch.from_numpy(np.asarray(raw[name], np.float32))
        columns = entries.reshape(-1, 1) if entries.numel() in (1, layers) else entries
        spread[name] = columns.reshape(-1, columns.shape[-1]).expand(layers, steps)
    return spread["learning_rate"].exp(), spread["momentum"].sigmoid()
