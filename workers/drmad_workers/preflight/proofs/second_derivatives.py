"""Proof 3: a Hessian-vector product of the engine against central differences of gradients."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from drmad_workers.errors import HypergradientError
from drmad_workers.hyperparameters.base import Slot
from drmad_workers.objective.checks.central_differences import Comparison
from drmad_workers.objective.parameters.carried import ModelWatch
from drmad_workers.objective.parameters.initial_weights import initialize
from drmad_workers.objective.plain_objective import restored
from drmad_workers.objective.products.right_product import (
    Direction,
    GradientField,
    right_product,
)
from drmad_workers.preflight.proofs.finding import SMALLER, Finding, line_of
from drmad_workers.preflight.proofs.plan import MIN_GROUPS, PRODUCT, WARM_UP, of_products
from drmad_workers.preflight.proofs.short_problem import TOLERANCE, ShortProblem
from drmad_workers.problem import Batch
from drmad_workers.training.run import TrainingRun

PARAMETERS = 64
"""Bounds the parameters that are searched for the one that disagrees most."""


def second_derivatives(
    short: ShortProblem, hvp: str, groups: int, gradients: float = math.inf
) -> Finding:
    """Compares <Hu, v> with the change of <∇L, u> along v, for groups of parameters and for λ.

    Args:
        hvp: the product that the job uses.
        groups: the number of groups of parameters, which are moved one after the other; 0 skips
            the proof.
        gradients: bounds the number of gradients, a product counted as PRODUCT, unless it fails.
    """
    if groups == 0:
        price = of_products(MIN_GROUPS + len(short.tuner.hyperparameters))
        return Finding(
            "skipped",
            f"it would take {price} gradients, "
            "more than the proofs before it leave of a meta-iteration of this job",
            remedy=SMALLER,
        )
    values = short.tuner.initial_values()
    run, seed = short.run(values)
    objective, model = run.objective, short.plain.model
    with restored(model):
        initialize(objective, seed)
        objective.parameters.train()
        field = GradientField(objective, run.batch(0), short.dtype)
        (cotangent, _), still = field.direction(0), field.still()
        warm_up(short, run, cotangent)
        run.batch(0)
        field.restore()
        try:
            by_weights, by_values = product(short, field.batch, cotangent)
        except HypergradientError as error:
            return Finding("failed", str(error))
        field.restore()
        field.gradients = gradients - PRODUCT * (WARM_UP + 1)
        across = field.direction(1)

        def compare(expected: Tensor, moved: Direction, part: Tensor) -> Comparison:
            scale = float(expected.norm() * part.norm()) / max(1, expected.numel()) ** 0.5
            value = float((expected * part).sum())
            return field.compare(value, cotangent, moved, scale, TOLERANCE[hvp])

        found: dict[str, Comparison] = {}
        slots = objective.parameters.slots
        for group in grouped(slots, groups):
            moved = masked(across[0], group)
            part = slice(group[0].start, group[-1].stop)
            comparison = compare(by_weights[part], (moved, still), moved[part])
            found[group[0].name] = comparison
            if comparison.outcome == "differs":
                named = worst(field, cotangent, across[0], by_weights, group, comparison)
                return failure(short, field, hvp, named)
        for name, bound in short.tuner.hyperparameters.items():
            moved_value = bound.chain(field.values[name], across[1][name])
            only = {**still, name: moved_value}
            comparison = compare(
                by_values[name], (torch.zeros_like(cotangent), only), across[1][name]
            )
            found[name] = comparison
            if comparison.outcome == "differs":
                return failure(short, field, hvp, (name, comparison))
    decided = [each for each in found.values() if each.outcome == "agrees"]
    if not decided:
        return Finding(
            "skipped",
            "kinks of the loss, or rounding, let no difference of gradients decide in "
            f"{short.precision}",
        )
    detail = (
        f"a product with second derivatives (hvp {hvp}) agrees with differences of gradients on "
        f"your module in {short.precision}, to {max(each.error for each in decided):.1e}"
    )
    if len(decided) < len(found):
        detail += f", along {len(decided)} of {len(found)} directions"
    if objective.inner.has_attention:
        detail += (
            "; while it is differentiated, attention takes torch's math kernel, which holds rows x "
            "heads x length² numbers a layer"
        )
    constant = sorted(objective.inner.without_derivative)
    if constant:
        detail += (
            f"; training changes {', '.join(constant)} by operations that have no derivative, so "
            "that the hypergradient takes the changes for constants"
        )
    return Finding(
        "passed",
        detail,
        constant[0] if constant else None,
        "update it by torch operations on tensors, in a buffer" if constant else None,
    )


def warm_up(short: ShortProblem, run: TrainingRun, cotangent: Tensor) -> None:
    """Takes products at other weights and on other minibatches, until traces are in use."""
    parameters = short.tuner.objective.parameters
    weights, state = parameters.weights, ModelWatch(parameters.held)
    first = weights.clone()
    for number in range(WARM_UP):
        weights.mul_(1.0 + 0.01 * number / WARM_UP)
        product(short, run.batch(number % run.steps), cotangent)
        weights.copy_(first)
        state.restore()


def product(
    short: ShortProblem, batch: Batch, cotangent: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """∂/∂w and ∂/∂λ of <∇L, u> by the engine; λ before its transform."""
    objective = short.tuner.objective
    out = torch.zeros_like(cotangent)
    objective.begin_products()
    with objective.parameters.same_noise():
        objective.subtract_product(batch, cotangent, out)
    by_values = objective.hypergradient()
    return out.neg_(), {name: -part.to(out.device) for name, part in by_values.items()}


def grouped(slots: Sequence[Slot], groups: int) -> list[Sequence[Slot]]:
    each = -(-len(slots) // groups)
    return [slots[start : start + each] for start in range(0, len(slots), each)]


def masked(direction: Tensor, group: Sequence[Slot]) -> Tensor:
    moved = torch.zeros_like(direction)
    part = slice(group[0].start, group[-1].stop)
    moved[part] = direction[part]
    return moved


def worst(
    field: GradientField,
    cotangent: Tensor,
    direction: Tensor,
    by_weights: Tensor,
    group: Sequence[Slot],
    comparison: Comparison,
) -> tuple[str, Comparison]:
    """The parameter of the group whose derivative is farthest from its difference."""
    field.gradients = math.inf
    largest, named = -1.0, (group[0].name, comparison)
    for slot in group[:PARAMETERS] if len(group) > 1 else ():
        moved = masked(direction, [slot])
        each = field.compare(float(by_weights @ moved), cotangent, (moved, field.still()))
        apart = abs(each.expected - each.difference)
        if each.outcome == "differs" and apart > largest:
            largest, named = apart, (slot.name, each)
    return named


def failure(
    short: ShortProblem, field: GradientField, hvp: str, named: tuple[str, Comparison]
) -> Finding:
    name, comparison = named
    detail = (
        f"the derivative of the gradient along a random direction (hvp {hvp}) is "
        f"{comparison.expected:.4g} by the engine and {comparison.difference:.4g} by differences "
        f"of gradients on your module, in {short.precision}"
    )
    right = right_product(short.tuner.objective, field.batch)
    if hvp == "exact" and right == "finite_difference":
        remedy = (
            "set hypergradient: {hvp: finite_difference}: differences of gradients are right "
            "here, and autograd's second derivatives are not (a detached tensor, or a custom "
            "function whose backward pass cannot be differentiated)"
        )
    elif hvp == "finite_difference" and right == "exact":
        remedy = "set hypergradient: {hvp: exact}: autograd's second derivatives are right here"
    elif right == "exact":
        remedy = (
            "compute the loss from weights, hyperparameters and batch by torch alone: no numbers "
            "taken out by .item() or NumPy, no state that the model keeps between calls"
        )
    else:
        remedy = (
            "remove what makes the gradient another function than that of the loss: hooks, "
            "detach, no_grad, and custom functions whose backward pass is not their derivative"
        )
    try:
        owner = short.plain.model.get_submodule(name.rpartition(".")[0])
    except AttributeError:
        return Finding("failed", detail, name, remedy)
    line = line_of(owner)
    return Finding("failed", detail + (f"; its module: {line}" if line else ""), name, remedy)
