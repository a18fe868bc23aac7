"""What `auto` chooses in the first meta-iterations of a cell, and how that does in the next."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from drmad_workers import HypergradientError, Shortcut, Stored, Tuner
from drmad_workers.hypergradients import Method
from drmad_workers.hypergradients.agreement import agreement
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.hypergradients.automatic.choice import Choice, method_of
from drmad_workers.hypergradients.backward_pass import BackwardPass

ITERATIONS = 20
LATER_PROBES = (5, 15)
"""Where `auto` probes again in the first ITERATIONS, if every probe confirms the choice."""


def auto_in(tuner_of: Callable[[Method], Tuner], values: Mapping[str, Tensor]) -> dict[str, Any]:
    """The choice, its cosine to the exact hypergradient in the next meta-iteration, and its cost.

    The hyperparameters stay as they are. `counted` is the mean cost of a meta-iteration in plain
    training runs, of which `probe` is that of the first.
    """
    tuner = tuner_of(Auto())
    training = tuner.replica.training
    choices: list[Choice] = []
    while not choices or choices[-1].trial is not None:
        before = choices[-1] if choices else None
        choice = tuner.evaluate(values, len(choices), choice=before).choice
        assert choice is not None
        choices.append(choice)
    chosen, cosine = method_of(choices[-1].method), 1.0
    if isinstance(chosen, Shortcut):
        (exact, found), _ = tuner.compare(values, [Stored(), chosen], len(choices))
        cosine = 0.0
        if not isinstance(exact, HypergradientError) and isinstance(found, BackwardPass):
            cosine = agreement(found.hypergradient, exact.hypergradient).cosine
    costs = [1.0 + sum(probe.cost - 1.0 for probe in choice.probes) for choice in choices]
    probed = sum(costs) + len(LATER_PROBES) * costs[-1]
    rest = ITERATIONS - len(costs) - len(LATER_PROBES)
    return {
        "choice": label(chosen, training.steps),
        "cosine_next": cosine,
        "counted": (probed + rest * chosen.cost(training)) / ITERATIONS,
        "probe": costs[0],
        "probes": [
            {label(method_of(p.method), training.steps): p.cosine for p in choice.probes}
            for choice in choices
        ],
    }


def label(method: Method, steps: int) -> str:
    """The name of a method, with its horizon as a part of T."""
    if isinstance(method, Shortcut) and method.horizon is not None:
        return f"shortcut T/{steps // method.horizon}"
    return method.name
