"""Five proofs that the engine computes for a job what it claims to compute.

Each proof compares the engine with means that share nothing with its shortcuts: torch.optim and
`loss.backward()` on the user's own module, and central differences.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from drmad_workers import spec_adapter
from drmad_workers.errors import EngineError, ran_out_of_memory
from drmad_workers.evaluation import Clock
from drmad_workers.objective.plain_objective import PlainObjective, restored
from drmad_workers.preflight.proofs.finding import Finding, line_of_error
from drmad_workers.preflight.proofs.hypergradient import hypergradient
from drmad_workers.preflight.proofs.plan import plan
from drmad_workers.preflight.proofs.random_states import own_random_states
from drmad_workers.preflight.proofs.repeatable import repeatable
from drmad_workers.preflight.proofs.second_derivatives import second_derivatives
from drmad_workers.preflight.proofs.short_problem import short_problem
from drmad_workers.preflight.proofs.training import training
from drmad_workers.preflight.proofs.unchanged import Belongings, unchanged
from drmad_workers.training.progress import Monitor

if TYPE_CHECKING:
    from drmad_client.spec.job import JobSpec
    from drmad_workers.hypergradients.method import Method
    from drmad_workers.problem import Problem
    from drmad_workers.tuning import Tuner

SECONDS = 10.0
"""What all proofs may take together if a meta-iteration of the job takes less."""
MEASURED = 3
"""The number of calls whose seconds are measured."""
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
        hvp, horizon = method.hvp, getattr(method, "horizon", None)
        to_the_bit = tuner.replica.device.type == "cpu" or method.name == "reversible"
        parameters = len(tuner.objective.parameters.slots)
        gradients, count = affordable(tuner, method), len(tuner.hyperparameters)
        sizes = plan(gradients, spec.training.steps, parameters, count)
        short = cache(lambda: short_problem(spec, problem, sizes.steps, device))
        proofs: dict[str, Callable[[], Finding]] = {
            "repeatable": lambda: repeatable(short(), problem, sizes.repeats, to_the_bit),
            "training": lambda: training(short()),
            "second_derivatives": lambda: second_derivatives(
                short(), hvp, sizes.groups, sizes.for_products
            ),
            "hypergradient": lambda: hypergradient(
                short(), method.name, hvp, horizon, sizes.for_trainings
            ),
            "unchanged": lambda: unchanged(tuner, problem, before),
        }
        try:
            return [proved(name, proof, sizes.notes.get(name)) for name, proof in proofs.items()]
        finally:
            tuner.objective.parameters.attach()
            tuner.objective.parameters.restore_given()


def proved(name: str, proof: Callable[[], Finding], note: str | None) -> dict[str, Any]:
    """The fields of a proof's record; the note says what was shortened."""
    began = time.perf_counter()
    try:
        finding = proof()
    except (Exception, SystemExit) as error:
        if ran_out_of_memory(error) or isinstance(error, EngineError):
            finding = Finding("skipped", f"it ended early: {error}")
        else:
            message = f"the code raised {type(error).__name__}: {error}"
            finding = Finding("failed", message, line_of_error(error), REMEDY)
    if note is not None:
        finding = replace(finding, detail=f"{finding.detail} ({note})")
    return {"name": name, **asdict(finding), "seconds": time.perf_counter() - began}


def affordable(tuner: Tuner, method: Method) -> int:
    """The gradients that take as long as a meta-iteration of the job, or as SECONDS if more.

    A meta-iteration takes its steps times the seconds of a step by the engine times the factor of
    the method. The gradients are plain ones, of which one in float64 counts as two.
    """
    replica, parameters = tuner.replica, tuner.objective.parameters
    factor = method.cost(replica.training) * replica.training.steps
    run = replica.training_run(tuner.initial_values(), 0, Monitor()).run
    plain, values = PlainObjective(tuner.objective), tuner.objective.values.by_name
    try:
        with restored(plain.model):
            step = quickest(lambda: run.take(0), replica.device)
            gradient = quickest(lambda: plain.gradient(values, run.batch(0)), replica.device)
    except Exception:  # the proofs report what the user's code raises
        return int(factor) // 2
    finally:
        parameters.restore_given()
    return int(max(SECONDS, factor * step) / (2.0 * gradient))


def quickest(work: Callable[[], object], device: torch.device) -> float:
    """The least of the seconds that several calls take."""
    clock, seconds = Clock(device), []
    for _ in range(MEASURED):
        work()
        clock.lap("call")
        seconds.append(clock.seconds["call"])
    return min(seconds)
