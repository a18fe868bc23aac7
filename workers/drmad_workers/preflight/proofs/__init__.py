"""Five proofs that the engine computes for a job what it claims to compute.

Each proof compares the engine with means that share nothing with its shortcuts: torch.optim and
`loss.backward()` on the user's own module, and central differences.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from drmad_workers import spec_adapter
from drmad_workers.errors import EngineError, ran_out_of_memory
from drmad_workers.evaluation import Clock
from drmad_workers.objective.plain_objective import PlainObjective, restored
from drmad_workers.preflight.proofs.finding import Finding, line_of_error
from drmad_workers.preflight.proofs.hypergradient import hypergradient
from drmad_workers.preflight.proofs.random_states import own_random_states
from drmad_workers.preflight.proofs.repeatable import REPEATS, repeatable
from drmad_workers.preflight.proofs.second_derivatives import second_derivatives
from drmad_workers.preflight.proofs.short_problem import short_problem
from drmad_workers.preflight.proofs.training import training
from drmad_workers.preflight.proofs.unchanged import Belongings, unchanged

if TYPE_CHECKING:
    from drmad_client.spec.job import JobSpec
    from drmad_workers.hypergradients.method import Method
    from drmad_workers.problem import Problem
    from drmad_workers.tuning import Tuner

STEPS = 20
"""The number of inner steps of a proof; fewer if the job itself has fewer."""
MIN_STEPS = 3
"""The number of inner steps that a proof takes on a model of any size."""
SECONDS = 10.0
"""What a proof may take if a meta-iteration of the job takes less."""
TRAININGS = 16
"""The share of a proof's gradients that one of its training runs may take is 1 / TRAININGS."""
GROUPS = 8
MIN_GROUPS = 2
GRADIENTS_PER_GROUP = 60
"""The number of groups of parameters in the proof of second derivatives is at most GROUPS, and one
for GRADIENTS_PER_GROUP gradients that a proof may take, but at least MIN_GROUPS."""
REMEDY = "correct the error: the same code must also run under loss.backward() and torch.optim"


def prove(
    spec: JobSpec, problem: Problem, tuner: Tuner, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Proves the engine on a job's problem, and leaves the problem as it was.

    Args:
        spec: the job.
        problem: what its code built.
        tuner: the engine's tuner of the job, on the same problem.
        device: the device of the job.
    Returns:
        The fields of drmad_client.records.job.Proof, one dict per proof, in the order of cost.
    """
    with own_random_states(tuner.replica.device), tuner.replica.at_work():
        before = Belongings(problem, tuner)
        method = spec_adapter.method(spec.hypergradient)
        gradients = affordable(tuner, method)
        steps = min(STEPS, spec.training.steps, max(MIN_STEPS, gradients // TRAININGS))
        hvp = method.hvp
        horizon = getattr(method, "horizon", None)
        to_the_bit = tuner.replica.device.type == "cpu" or method.name == "reversible"
        groups = min(GROUPS, max(MIN_GROUPS, gradients // GRADIENTS_PER_GROUP))
        repeats = min(REPEATS, max(2, steps))
        short = cache(lambda: short_problem(spec, problem, steps, device))
        proofs: dict[str, Callable[[], Finding]] = {
            "repeatable": lambda: repeatable(short(), problem, repeats, to_the_bit),
            "training": lambda: training(short()),
            "second_derivatives": lambda: second_derivatives(short(), hvp, groups),
            "hypergradient": lambda: hypergradient(short(), method.name, hvp, horizon, gradients),
            "unchanged": lambda: unchanged(tuner, problem, before),
        }
        try:
            return [proved(name, proof) for name, proof in proofs.items()]
        finally:
            tuner.objective.parameters.attach()
            tuner.objective.parameters.restore_given()


def proved(name: str, proof: Callable[[], Finding]) -> dict[str, Any]:
    """The fields of a proof's record."""
    began = time.perf_counter()
    try:
        finding = proof()
    except (Exception, SystemExit) as error:
        if ran_out_of_memory(error) or isinstance(error, EngineError):
            finding = Finding("skipped", f"it ended early: {error}")
        else:
            message = f"the code raised {type(error).__name__}: {error}"
            finding = Finding("failed", message, line_of_error(error), REMEDY)
    return {"name": name, **asdict(finding), "seconds": time.perf_counter() - began}


def affordable(tuner: Tuner, method: Method) -> int:
    """The gradients that a proof may take: those of a meta-iteration, or of SECONDS if more.

    A gradient in float64 counts as two.
    """
    objective, training = tuner.objective, tuner.replica.training
    least = int(method.cost(training) * training.steps) // 2
    objective.set_hyperparameters(tuner.initial_values())
    plain, batch = PlainObjective(objective), tuner.replica.minibatches(0).join(0)
    seconds = []
    with restored(plain.model):
        for _ in range(3):
            clock = Clock(tuner.replica.device)
            try:
                plain.gradient(objective.values.by_name, batch)
            except Exception:  # the proofs report what the user's code raises
                return least
            clock.lap("gradient")
            seconds.append(clock.seconds["gradient"])
    return max(least, int(SECONDS / (2.0 * min(seconds))))
