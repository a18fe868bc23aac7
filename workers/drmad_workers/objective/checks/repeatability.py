"""Finds random numbers that a loss draws from a generator of its own."""

import random
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from drmad_workers.errors import ProblemError
from drmad_workers.global_generators import GeneratorStates
from drmad_workers.objective.objective import Objective

LossName = Literal["inner_loss", "outer_loss"]

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def require_repeatable(objective: Objective, loss: Callable[[], Tensor], name: LossName) -> None:
    """Raises ProblemError unless two calls agree under equal carried values and generators.

    Args:
        loss: the loss `name`, which is called twice.
    """
    parameters, problem = objective.parameters, objective.problem
    states = GeneratorStates.now(parameters.device)

    def value() -> Tensor:
        parameters.load_carried()
        found = loss().detach()
        states.restore()
        return found

    first, again = value(), value()
    # Kernels that add in any order repeat up to rounding only.
    rounding = 1e-2 if objective.losses.autocast else 1e3 * torch.finfo(parameters.dtype).eps
    if torch.allclose(first, again, rtol=rounding, equal_nan=True):
        return
    own = getattr(problem, name)
    names = [*generators_of(parameters.model), *(() if own is None else captured(own))]
    cause = (
        f"{names[0]} draws numbers that no seed of the job determines: draw from the global "
        "generator instead (without `generator=`), which is seeded for every step"
        if names
        else "a generator of its own, or something that changes from call to call, takes part: "
        "draw from the global generators of torch, NumPy or Python, and keep state in buffers"
    )
    what, field = described_loss(objective, name)
    raise ProblemError(
        f"{what} must be the same when it is called again with the same weights, batch and seeds, "
        f"got {float(first):.6g} and {float(again):.6g}: {cause}",
        field,
    )


def described_loss(objective: Objective, name: LossName) -> tuple[str, str]:
    """A loss in words, and the field to blame: the loss if the problem states it, or the model."""
    stated = getattr(objective.problem, name) is not None
    what = "the training loss" if name == "inner_loss" else "the outer loss"
    return what, f"problem.{name}" if stated else "model"


def generators_of(model: nn.Module) -> Iterator[str]:
    """The attributes of modules that hold a random generator, by name."""
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, GENERATORS):
                yield f"the attribute {f'{prefix}.{name}'.lstrip('.')!r} of the model"
        yield from captured(getattr(type(module), "forward", None))


def captured(function: object) -> Iterator[str]:
    """The variables outside a function that it reads and that hold a random generator."""
    code = getattr(function, "__code__", None)
    if code is None:
        return
    cells = zip(code.co_freevars, getattr(function, "__closure__", None) or (), strict=True)
    outside = getattr(function, "__globals__", {})
    read = {name: cell.cell_contents for name, cell in cells}
    read |= {name: outside[name] for name in code.co_names if name in outside}
    for name, value in read.items():
        if isinstance(value, GENERATORS):
            yield f"the variable {name!r} of {getattr(function, '__name__', 'the loss')}"
