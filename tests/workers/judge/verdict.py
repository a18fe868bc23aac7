"""The engine against central differences of whole plain trainings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from drmad_workers import (
    HypergradientError,
    Method,
    Problem,
    ProblemError,
    TrainingDiverged,
    Tuner,
)
from tests.workers.judge.plain_training import Recipe, plain_training
from tests.workers.judge.randomness import own_randomness

STEP = 1e-5
"""The step h of a central difference. Its truncation error is about h² = 1e-10 and its rounding
error about 1e-16 / h = 1e-11, both relative to a loss and derivatives of order one."""

TOLERANCE = 1e-5
"""Of a hypergradient, relative to the largest slope of its hyperparameter, or to LEAST_SLOPE: the
error of a difference stays below 1e-6 of that."""

LEAST_SLOPE = 1e-4
"""A hyperparameter that moves the validation loss less than this proves little."""

TRAINING_TOLERANCE = 1e-9
"""Of the validation loss and of the weights: two orders of the same sums in float64, which tens of
training steps amplify."""


@dataclass(frozen=True)
class Direction:
    """A direction of one hyperparameter, in the shape of λ."""

    name: str
    along: Tensor


def directions_of(values: Mapping[str, Tensor], count: int = 3) -> list[Direction]:
    """Every entry of a small hyperparameter; `count` random directions of a larger one."""
    draw = torch.Generator().manual_seed(5)
    found: list[Direction] = []
    for name, value in values.items():
        size = value.numel()
        if size <= count:
            along = torch.eye(size, dtype=torch.float64)
        else:
            along = torch.randn(count, size, generator=draw, dtype=torch.float64)
        found += [Direction(name, each.view(value.shape)) for each in along]
    return found


def central_differences(
    recipe: Recipe,
    values: Mapping[str, Tensor],
    directions: Sequence[Direction],
    draw: int = 0,
    step: float = STEP,
    dtype: torch.dtype = torch.float64,
) -> list[float]:
    """The slope of the validation loss along each direction, by two whole trainings each."""
    slopes = []
    for name, along in ((each.name, each.along) for each in directions):
        ends = [
            plain_training(
                recipe, {**values, name: values[name] + sign * step * along}, draw, dtype
            ).validation_loss
            for sign in (1.0, -1.0)
        ]
        slopes.append((ends[0] - ends[1]) / (2.0 * step))
    return slopes


def tuner_of(recipe: Recipe, method: Method, dtype: torch.dtype = torch.float64) -> Tuner:
    """The engine's tuner of a problem of its own."""
    with own_randomness():
        return Tuner(
            recipe.problem(), recipe.kinds, recipe.training, method, seed=recipe.seed, dtype=dtype
        )


def moved(values: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Initial values with noise, so that no two entries are alike."""
    draw = torch.Generator().manual_seed(7)
    return {
        name: value + scale * torch.randn(value.shape, generator=draw, dtype=value.dtype)
        for name, value in values.items()
    }


def faults(
    recipe: Recipe,
    methods: Sequence[Method],
    draws: Sequence[int] = (0,),
    step: float = STEP,
    tolerance: float = TOLERANCE,
    training_tolerance: float = TRAINING_TOLERANCE,
    dtype: torch.dtype = torch.float64,
    idle: bool = False,
) -> list[str]:
    """What the engine computes wrongly, one line each.

    Every method evaluates all draws with one tuner, as a job does, so that a later meta-iteration
    shows what an earlier one left behind.

    Args:
        idle: allows hyperparameters that have little effect.
    Raises:
        ProblemError: the engine refuses the problem.
        ValueError: a hyperparameter has too little effect for a verdict.
    """
    found: list[str] = []
    expected: dict[int, tuple[float, Mapping[str, Tensor], list[float]]] = {}
    for method in methods:
        tuner = tuner_of(recipe, method, dtype)
        values = moved(tuner.initial_values(), 0.1)
        directions = directions_of(values)
        for draw in draws:
            where = f"{method.name} ({method.hvp}), draw {draw}"
            try:
                evaluation = tuner.evaluate(values, draw)
            except (HypergradientError, TrainingDiverged) as error:
                found.append(f"{where}: {error}")
                continue
            if draw not in expected:
                trained = plain_training(recipe, values, draw, dtype)
                slopes = central_differences(recipe, values, directions, draw, step, dtype)
                if not idle:
                    require_effect(directions, slopes)
                expected[draw] = trained.validation_loss, trained.model, slopes
            loss, model, slopes = expected[draw]
            if abs(evaluation.validation_loss - loss) > training_tolerance * abs(loss):
                found.append(f"{where}: loss {evaluation.validation_loss}, expected {loss}")
            found += [
                f"{where}: {line}"
                for line in wrong_weights(evaluation.model, model, training_tolerance)
            ]
            found += [
                f"{where}: {line}"
                for line in wrong_slopes(evaluation.hypergradient, directions, slopes, tolerance)
            ]
    return found


def wrong_weights(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float
) -> list[str]:
    """The weights and buffers that are not those of the plain training, one line each."""
    lines = []
    for name, tensor in expected.items():
        if name not in found:
            lines.append(f"{name} is missing in the model")
            continue
        wide = torch.promote_types(tensor.dtype, torch.float64)
        error = float((found[name].to(wide) - tensor.to(wide)).abs().max())
        if not error <= tolerance * max(1.0, float(tensor.abs().max())):
            lines.append(f"{name} of the model is off by {error:.3g}")
    return lines


def wrong_slopes(
    hypergradient: Mapping[str, Tensor],
    directions: Sequence[Direction],
    slopes: Sequence[float],
    tolerance: float,
) -> list[str]:
    """The directions along which the hypergradient is not the slope, one line each."""
    largest = largest_slopes(directions, slopes)
    found = []
    for direction, slope in zip(directions, slopes, strict=True):
        name, along = direction.name, direction.along
        got = float((hypergradient[name].double() * along).sum())
        if not abs(got - slope) <= tolerance * max(largest[name], LEAST_SLOPE):
            found.append(f"d/d{name} {got:+.8f}, expected {slope:+.8f}")
    return found


def largest_slopes(directions: Sequence[Direction], slopes: Sequence[float]) -> dict[str, float]:
    """The largest slope along a direction, by hyperparameter."""
    largest: dict[str, float] = {}
    for direction, slope in zip(directions, slopes, strict=True):
        largest[direction.name] = max(largest.get(direction.name, 0.0), abs(slope))
    return largest


def require_effect(directions: Sequence[Direction], slopes: Sequence[float]) -> None:
    for name, slope in largest_slopes(directions, slopes).items():
        if slope < LEAST_SLOPE:
            raise ValueError(f"{name} must move the validation loss, got a slope of {slope:.3g}")


@dataclass(frozen=True)
class Refusal:
    """What the engine says of a problem that it does not take.

    Attributes:
        fields: the fields that may be named.
        words: a pattern that the message matches: what to do.
        remedied: the problem after what the message says to do, which must be right.
    """

    fields: tuple[str, ...]
    words: str
    remedied: Callable[[], Problem] | None = None


def assert_right(
    recipe: Recipe,
    methods: Sequence[Method],
    step: float = STEP,
    tolerance: float = TOLERANCE,
    draws: Sequence[int] = (0,),
) -> None:
    """The engine takes the problem, trains it as torch.optim does, and differentiates it."""
    require_none(faults(recipe, methods, draws, step, tolerance))


def require_none(found: Sequence[str]) -> None:
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def assert_refused(recipe: Recipe, methods: Sequence[Method], refusal: Refusal) -> None:
    """The engine refuses the problem by field, and what it says to do is right."""
    for method in methods:
        try:
            tuner = tuner_of(recipe, method)
            tuner.evaluate(tuner.initial_values(), 0)
        except ProblemError as error:
            if error.field not in refusal.fields or not re.search(refusal.words, str(error)):
                pytest.fail(f"{error.field}: {error}, expected {refusal}", pytrace=False)
        else:
            pytest.fail(f"{method.name} takes the problem, expected {refusal}", pytrace=False)
    if refusal.remedied is not None:
        assert_right(replace(recipe, build=refusal.remedied), methods)


def assert_right_or_refused(
    recipe: Recipe, methods: Sequence[Method], refusal: Refusal, step: float = STEP
) -> None:
    """The engine is right, or refuses the problem; never silently wrong."""
    try:
        found = faults(recipe, methods, step=step)
    except ProblemError:
        assert_refused(recipe, methods, refusal)
    else:
        require_none(found)
