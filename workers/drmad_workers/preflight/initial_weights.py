"""One line about the weights from which every training run of a job starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from drmad_workers.objective.parameters.weight_draw import reset_of, reset_parameters
from drmad_workers.objective.plain_objective import borrowed
from drmad_workers.preflight.proofs.finding import line_of

if TYPE_CHECKING:
    from drmad_client.spec.job import JobSpec
    from drmad_workers.problem import Problem
    from drmad_workers.tuning import Tuner

SHIFT = 0.3719
"""What is added to each parameter before it is reset; no reset adds as much to an old value."""
SHOWN = 5
"""Bounds the names of parameters in the line."""


def described_weights(spec: JobSpec, problem: Problem, tuner: Tuner) -> str:
    """What is in force; the model is left as it was."""
    weights, initialize = spec.problem.weights, problem.initialize
    given = "as build() returned them" if weights is None else f"those of {weights}"
    if initialize is None:
        return given
    if initialize != "reset":
        place = line_of(initialize)
        return f"drawn by initialize{f' ({place})' if place else ''} from those given"
    modules = sum(reset_of(module) is not None for module in problem.model.modules())
    text = f"drawn again by reset_parameters in {modules} modules"
    with tuner.replica.at_work():
        kept = kept_parameters(problem.model)
    if kept:
        more = len(kept) - SHOWN
        names = ", ".join(kept[:SHOWN]) + (f" and {more} more" if more > 0 else "")
        text += f"; {given} in {names}, which no module resets"
    return text


def kept_parameters(model: nn.Module) -> list[str]:
    """The names of the trained parameters that no `reset_parameters` draws."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with borrowed(model), torch.no_grad():
        shifted = {name: parameter.add_(SHIFT).clone() for name, parameter in trained.items()}
        reset_parameters(model)
        after = dict(model.named_parameters())
        return [name for name, before in shifted.items() if torch.equal(after[name], before)]
