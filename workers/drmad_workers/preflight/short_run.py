"""Preflight by a short run: a meta-iteration of a few steps, and a prediction of the job's cost."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drmad_workers import spec_adapter
from drmad_workers.catalog import Places
from drmad_workers.errors import (
    EngineError,
    HypergradientDiverged,
    HypergradientError,
    TrainingDiverged,
    ran_out_of_memory,
)
from drmad_workers.hypergradients import Replay
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.objective.held_out import model_bytes
from drmad_workers.preflight.fidelity import agreement_with_another_draw, fidelity_report
from drmad_workers.preflight.initial_weights import described_weights
from drmad_workers.preflight.proofs import prove
from drmad_workers.preflight.short_horizon import short_horizon
from drmad_workers.training.schedules import ConstantSchedule
from drmad_workers.user_code import UserCodeError, user_error

if TYPE_CHECKING:
    from drmad_client.spec.job import JobSpec
    from drmad_workers.evaluation import Evaluation
    from drmad_workers.problem import Problem
    from drmad_workers.tuning import Tuner

STEPS = 20
"""The number of inner steps of the short run; fewer if the job itself has fewer."""


def preflight(
    spec: JobSpec, places: Places | None = None, code: Path | None = None
) -> dict[str, Any]:
    """Builds a job's problem, checks its derivatives, and runs a meta-iteration of a few steps.

    Returns:
        The fields of drmad_client.records.job.PreflightReport.
    Raises:
        EngineError: the job has a problem: an import, a shape, a type, a loss that is not finite,
            a hyperparameter that no loss depends on, a kernel without second derivatives, ...
        UserCodeError: the user's code raised an exception.
    """
    try:
        problem = spec_adapter.problem(spec, places, code)
        return report(spec, problem, spec_adapter.tuner(spec, built=problem))
    except (EngineError, UserCodeError):
        raise
    except (Exception, SystemExit) as error:
        if code is None or ran_out_of_memory(error):
            raise
        raise user_error(error, code) from error


def report(spec: JobSpec, problem: Problem, tuner: Tuner, device: str = "cpu") -> dict[str, Any]:
    """As `preflight`, for a problem that is built already; `tuner` is the job's own.

    The report of a short run that diverged, or that has no hypergradient, has the failure in place
    of figures, and the proofs.
    """
    short = _shortened(spec)
    is_online = spec.meta.mode == "online"
    trial = spec_adapter.tuner(short, device=device, built=problem)
    try:
        measured = _measured(spec, short, trial, tuner)
    except (TrainingDiverged, HypergradientError) as error:
        measured = _unmeasured(short, error)
    return measured | {
        "hyperparameters": {
            name: list(bound.initial.shape) for name, bound in tuner.hyperparameters.items()
        },
        "steps": short.training.steps,
        "checkpoint_bytes": tuner.objective.parameters.state.nbytes if is_online else None,
        "model_bytes": model_bytes(tuner.objective),
        "weights": described_weights(spec, problem, tuner),
        "limits": _limits(spec, trial, tuner),
        "proofs": prove(spec, problem, tuner, device),
    }


def _limits(spec: JobSpec, trial: Tuner, tuner: Tuner) -> list[str]:
    """What the hypergradient leaves out, by the inner optimizer and by the method."""
    method = spec_adapter.method(spec.hypergradient)
    of_method = [*method.limits(trial.objective), *trial.replica.exceeded(method)]
    of_optimizer = trial.replica.training.traits.limit
    of_window: list[str] = []
    if spec.meta.mode == "online":
        of_window = short_horizon(tuner.replica, spec_adapter.meta(spec))
    return [*([] if of_optimizer is None else [of_optimizer]), *of_window, *of_method]


def _measured(spec: JobSpec, short: JobSpec, trial: Tuner, tuner: Tuner) -> dict[str, Any]:
    """The figures of the short run."""
    values = trial.initial_values()
    first = trial.evaluate(values, 0)  # warms up and, where auto chooses, includes its probe
    began = time.perf_counter()
    evaluation = trial.evaluate(values, 0, choice=first.choice)
    return {
        "seconds": time.perf_counter() - began,
        "validation_loss": evaluation.validation_loss,
        "training_loss": evaluation.training_loss,
        "method": evaluation.method,
        **_fidelity(short, trial, first),
        "job_seconds": _job_seconds(spec, short, evaluation),
        "memory_bytes": _memory_bytes(spec, short, trial, tuner, first.peak_memory_bytes),
    }


def _unmeasured(short: JobSpec, error: TrainingDiverged | HypergradientError) -> dict[str, Any]:
    """The fields of a report whose short run ended with this error."""
    codes = {
        TrainingDiverged: "training_diverged",
        HypergradientDiverged: "hypergradient_diverged",
    }
    figures = ("seconds", "validation_loss", "training_loss", "job_seconds", "memory_bytes")
    return dict.fromkeys(figures) | {
        "method": short.hypergradient.method,
        "fidelity": {},
        "agreement": None,
        "failure": {
            "code": codes.get(type(error), "hypergradient_failed"),
            "message": f"meta-iteration 1: {error}",
            "iteration": 0,
            "step": getattr(error, "step", None),
        },
    }


def _shortened(spec: JobSpec) -> JobSpec:
    """The same job with STEPS inner steps, or its own number if that is smaller."""
    steps = min(STEPS, spec.training.steps)
    changes: dict[str, Any] = {"training": spec.training.over(steps)}
    horizon = getattr(spec.hypergradient, "horizon", None)
    if horizon is not None:
        update = {"horizon": min(horizon, steps)}
        changes["hypergradient"] = spec.hypergradient.model_copy(update=update)
    return spec.model_copy(update=changes)


def _fidelity(short: JobSpec, trial: Tuner, first: Evaluation) -> dict[str, Any]:
    """Cosines to the exact hypergradient over the short run, and the agreement of two draws.

    The cosines are by method; None if it diverged.
    """
    values = trial.initial_values()
    if first.choice is not None:  # a probe, whose hypergradient is exact
        probes = first.choice.probes
        agreement = agreement_with_another_draw(trial, values, first.hypergradient)
    else:
        method, training = spec_adapter.method(short.hypergradient), trial.replica.training
        measured = fidelity_report(trial, training, [method], values, short.meta.iterations)
        probes = tuple(prediction.figure for prediction in measured.predictions)
        agreement = measured.agreement
    return {
        "fidelity": {probe.method["method"]: probe.cosine for probe in probes},
        "agreement": None if agreement is None else agreement.cosine,
    }


def _job_seconds(spec: JobSpec, short: JobSpec, evaluation: Evaluation) -> float:
    """The predicted duration of all meta-iterations and trials on a machine like this one.

    It scales the measured time per forward step and per backward step to the job's numbers.
    """
    steps, short_steps = spec.training.steps, short.training.steps
    if spec.meta.mode == "online":
        steps = min(steps, spec.meta.window)
    backward = getattr(spec.hypergradient, "horizon", None) or steps
    short_backward = getattr(short.hypergradient, "horizon", None) or short_steps
    seconds = evaluation.seconds
    each = (
        seconds["forward"] / short_steps * steps
        + seconds["backward"] / short_backward * backward
        + seconds["evaluate"]
    )
    trials = 0 if spec.search is None else spec.search.trials
    search = trials * seconds["forward"] / short_steps * spec.training.steps
    return spec.meta.iterations * each + search


def _memory_bytes(
    spec: JobSpec, short: JobSpec, trial: Tuner, tuner: Tuner, peak_bytes: int
) -> int:
    """The predicted peak of a worker of the job.

    Args:
        peak_bytes: that of the first evaluation of the short run. Beside a second one there is the
            model of the first, which a worker has given away by then.
    """
    twice = trial.objective.parameters.state.nbytes  # a worker has one tuner
    return peak_bytes - twice + _additional_bytes(spec, short, trial, tuner)


def _additional_bytes(spec: JobSpec, short: JobSpec, trial: Tuner, tuner: Tuner) -> int:
    """The size of the whole trajectory beyond that of the short run."""
    method = spec_adapter.method(spec.hypergradient)
    short_method = spec_adapter.method(short.hypergradient)
    if isinstance(method, Auto):  # its probes need the exact method
        method = short_method = Replay()
    replica, training = trial.replica, tuner.replica.training
    if spec.meta.mode == "online":
        window = spec.differentiated.steps
        training = replace(training, steps=window, schedule=ConstantSchedule())
    whole = replica.trajectory_bytes([method], training)[method]
    measured = replica.trajectory_bytes([short_method], replica.training)[short_method]
    return max(0, whole - measured)
