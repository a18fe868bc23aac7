"""How much of each proof a job is given: together they cost at most a meta-iteration.

Prices are counted in gradients of a minibatch. In the order of cost, each proof takes its part of
what is left, and a proof that would take more than is left is skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

STEPS = 20
"""The number of inner steps of a proof; fewer if the job itself has fewer."""
MIN_STEPS = 3
"""The number of inner steps that a proof takes on a model of any size."""
REPEATS = 12
"""The number of gradients that are compared; a counter that acts on every tenth call shows."""
MIN_REPEATS = 2
GROUPS = 8
"""The number of groups of parameters in the proof of second derivatives."""
MIN_GROUPS = 2
PRODUCT = 3
"""The price of a product with second derivatives."""
WARM_UP = 6
"""Products of other minibatches before the one that is compared, so that traces are in use."""
COMPARISON = 6
"""The price of comparing a product along one direction: differences over three distances."""
PREPARATION = 20
"""The price of the engine's own checks of the short problem."""
REPEAT = 3
"""The price of one gradient by `loss.backward()` and of two by the engine."""
TRAINED_STEP = 3
"""The price of a step of two plain training runs and of one by the engine."""
GRADIENTS_PER_STEP = 36
"""The proofs take one inner step for as many gradients that they may cost together: three training
runs and the differences along two directions then take less than half."""


@dataclass(frozen=True)
class Plan:
    """The sizes of the proofs of one job.

    Attributes:
        gradients: what all proofs may cost together.
        repeats: the gradients that the proof `repeatable` compares.
        steps: the inner steps of the proofs `training` and `hypergradient`.
        groups: the groups of parameters in the proof `second_derivatives`; 0 skips it.
        for_products: what the proof `second_derivatives` may cost.
        for_trainings: what the proof `hypergradient` may cost.
        notes: what was shortened, by the name of the proof.
    """

    gradients: int
    repeats: int
    steps: int
    groups: int
    for_products: int
    for_trainings: int
    notes: dict[str, str] = field(default_factory=dict)


def plan(gradients: int, steps: int, parameters: int, hyperparameters: int) -> Plan:
    """Divides what the proofs may cost.

    Args:
        gradients: what all proofs may cost together.
        steps: the inner steps of the job.
        parameters: the number of the model's parameters, each a tensor.
        hyperparameters: the number of tuned hyperparameters.
    """
    left = gradients - PREPARATION
    repeats = between(MIN_REPEATS, left // (8 * REPEAT), REPEATS)
    most = min(STEPS, steps)
    taken = min(most, between(MIN_STEPS, left // GRADIENTS_PER_STEP, STEPS))
    left = max(0, left - REPEAT * repeats - TRAINED_STEP * taken)
    groups = full_groups = min(GROUPS, parameters)
    while groups > MIN_GROUPS and of_products(groups + hyperparameters) > left // 2:
        groups -= 1
    for_products = of_products(groups + hyperparameters)
    if for_products > left:
        groups = for_products = 0
    because = f"all proofs together may cost {gradients} gradients, about a meta-iteration"
    shortened = {
        "repeatable": (repeats, REPEATS, "gradients"),
        "training": (taken, most, "steps"),
        "second_derivatives": (groups, full_groups, "groups of parameters"),
    }
    notes = {
        name: f"{now} {what} instead of {full}, because {because}"
        for name, (now, full, what) in shortened.items()
        if 0 < now < full
    }
    return Plan(gradients, repeats, taken, groups, for_products, left - for_products, notes)


def between(least: int, value: int, most: int) -> int:
    return max(least, min(value, most))


def of_products(directions: int) -> int:
    """The price of a product and of its comparison along as many directions, in gradients."""
    return PRODUCT * (WARM_UP + 1) + COMPARISON * directions + 2
