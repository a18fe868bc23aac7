"""Proof 4: the hypergradient of a short training against differences of whole trainings."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from drmad_workers.errors import EngineError
from drmad_workers.objective.checks.central_differences import (
    AGREEING,
    Comparison,
    compare,
    has_kinks,
)
from drmad_workers.objective.parameters.initial_weights import initialize
from drmad_workers.objective.plain_objective import restored
from drmad_workers.preflight.proofs.finding import SMALLER, Finding
from drmad_workers.preflight.proofs.plain_training import train
from drmad_workers.preflight.proofs.short_problem import TOLERANCE, ShortProblem

ROUNDING = 10.0
"""The rounding of an outer loss, in differences between two plain runs apart by rounding."""
EXACT = ("stored", "replay", "reversible", "forward")
"""The methods whose hypergradient is exact over all steps."""

Direction = dict[str, Tensor]
"""A direction of λ by name; a name that is missing does not move."""

Compared = Callable[[Direction], Comparison]


@dataclass
class Trainings:
    """Whole trainings at λ and beside it.

    Attributes:
        gradients: the number of gradients that may still be taken.
    """

    short: ShortProblem
    values: dict[str, Tensor]
    gradients: int

    def loss(self, moved: Mapping[str, Tensor] | None = None, shaken: bool = False) -> float:
        """The outer loss after training at λ + moved."""
        self.gradients -= self.short.training.steps
        moved = moved or {}
        values = {n: v + moved[n] if n in moved else v for n, v in self.values.items()}
        return train(self.short, values, shaken=shaken)[0]

    def difference(self, direction: Direction, distance: float) -> float:
        """The central difference along the direction; nan once no gradients are left."""
        if self.gradients <= 0:
            return math.nan
        up, down = (
            self.loss({n: sign * distance * part for n, part in direction.items()})
            for sign in (1.0, -1.0)
        )
        return (up - down) / (2.0 * distance)


def cost(directions: int, steps: int) -> int:
    """The gradients that the proof takes on a smooth loss, a product counted as two.

    They suffice to find that one of the directions is wrong.
    """
    return (2 * (directions + AGREEING - 1) + 5) * steps


def hypergradient(
    short: ShortProblem, method: str, hvp: str, horizon: int | None, gradients: int
) -> Finding:
    """Compares d(outer loss) along directions, for each hyperparameter and for all together.

    Args:
        method, hvp, horizon: those of the job.
        gradients: bounds the number of gradients.
    """
    steps = short.training.steps
    if cost(2, steps) > gradients:
        return Finding(
            "skipped",
            f"it would take {cost(2, steps)} gradients, more than the proofs before it leave of a "
            "meta-iteration of this job",
            remedy=SMALLER,
        )
    values = short.tuner.initial_values()
    with restored(short.plain.model):
        try:
            evaluation = short.tuner.evaluate(values, 0)
        except EngineError as error:
            return Finding("skipped", f"the short run has no hypergradient: {error}")
    derivative = evaluation.hypergradient
    trainings = Trainings(short, values, gradients - 3 * steps)
    loss = trainings.loss()
    apart = abs(loss - trainings.loss(shaken=True))
    rounding = ROUNDING * max(apart, torch.finfo(short.dtype).eps * abs(loss))
    kinks = loss_has_kinks(short, values)

    def compared(direction: Direction) -> Comparison:
        parts = [(derivative[name], part) for name, part in direction.items()]
        return compare(
            sum(float((one * other).sum()) for one, other in parts),
            lambda distance: trainings.difference(direction, distance),
            short.dtype,
            rounding,
            sum(length(one) / one.numel() ** 0.5 for one, _ in parts),
            TOLERANCE[hvp],
            kinks,
        )

    name = f"{evaluation.method} with hvp {hvp}"
    approximate = method not in EXACT or horizon is not None
    of_what = f"{name}, exact where {method} may be approximate," if approximate else name
    errors = []
    each = cost(len(values) + 1, steps) <= gradients
    for direction in directions(derivative, each):
        comparison = compared(direction)
        if comparison.outcome == "differs":
            return failure(short, name, hvp, *worst(direction, comparison, compared))
        if comparison.outcome == "agrees":
            errors.append(comparison.error)
    if not errors:
        return Finding(
            "skipped",
            "kinks of the losses, or rounding, let no difference of trainings decide in "
            f"{short.precision}",
        )
    return Finding(
        "passed",
        f"the hypergradient of {steps} steps by {of_what} agrees with differences of whole "
        f"trainings by torch.optim in {short.precision}, to {max(errors):.1e}"
        f"{'' if each or len(values) == 1 else ', along all hyperparameters at once'}",
    )


def directions(derivative: Mapping[str, Tensor], each: bool) -> Iterator[Direction]:
    """Directions along the derivative by every hyperparameter, and a random one of all.

    The part of a hyperparameter has length 1. `each` takes the hyperparameters one after the
    other, and otherwise one direction joins them.
    """
    draw = torch.Generator().manual_seed(0)
    along = {name: unit(part) for name, part in derivative.items()}
    across = {
        name: unit(torch.randn(part.shape, generator=draw, dtype=part.dtype))
        for name, part in derivative.items()
    }
    if each:
        yield from ({name: part} for name, part in along.items())
    else:
        yield along
    yield across


def unit(part: Tensor) -> Tensor:
    size = length(part)
    return part / size if size > 0.0 else torch.zeros_like(part)


def length(part: Tensor) -> float:
    return float(torch.linalg.vector_norm(part))


def worst(
    direction: Direction, comparison: Comparison, compared: Compared
) -> tuple[str, Comparison]:
    """The hyperparameter of the direction whose derivative is farthest from its difference."""
    if len(direction) > 1:
        parts = {name: compared({name: part}) for name, part in direction.items()}
        differing = {n: c for n, c in parts.items() if c.outcome == "differs"}
        if differing:
            return max(differing.items(), key=lambda item: item[1].error)
    return next(iter(direction)), comparison


def loss_has_kinks(short: ShortProblem, values: dict[str, Tensor]) -> bool:
    run, seed = short.run(values)
    with restored(short.plain.model):
        initialize(run.objective, seed)
        run.objective.parameters.train()
        batch = run.batch(0)
        return has_kinks(short.plain.training_loss(short.transformed(values), batch))


def failure(
    short: ShortProblem, name: str, hvp: str, where: str, comparison: Comparison
) -> Finding:
    remedy = (
        "see the proofs before this one; if they passed, the outer loss depends on more than the "
        "weights, the hyperparameters and the batch: on buffers that training changes, or on "
        "values that the model or the losses keep or detach"
    )
    if hvp == "finite_difference":
        remedy = "set hypergradient: {hvp: exact} if the code allows it; " + remedy
    return Finding(
        "failed",
        f"the derivative of the outer loss along a direction is {comparison.expected:.5g} by "
        f"{name} and {comparison.difference:.5g} by differences of whole trainings by torch.optim "
        f"({short.training.steps} steps, {short.precision})",
        where,
        remedy,
    )
