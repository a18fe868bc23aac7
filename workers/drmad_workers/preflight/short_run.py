"""What would go wrong with a job, found before anything of it counts, and what it will take."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drmad_workers import spec_adapter
from drmad_workers.catalog import Places
from drmad_workers.errors import EngineError, ran_out_of_memory
from drmad_workers.hypergradients import Replay
from drmad_workers.hypergradients.auto import Auto
from drmad_workers.preflight import fidelity
from drmad_workers.user_code import UserCodeError, user_error

if TYPE_CHECKING:
    from drmad_client.spec.job import JobSpec
    from drmad_workers.problem import Problem
    from drmad_workers.tuning import Evaluation, Tuner

STEPS = 20
"""Of the tiny meta-iteration."""


def preflight(
    spec: JobSpec, places: Places | None = None, code: Path | None = None
) -> dict[str, Any]:
    """Builds a job's problem, tries its derivatives, runs a meta-iteration of few steps.

    Returns:
        The fields of drmad_client.records.job.PreflightReport.
    Raises:
        EngineError: imports, shapes, types, a loss that is not finite, a hyperparameter that
            nothing depends on, kernels without second derivatives, ...
        UserCodeError: the user's code raised.
    """
    try:
        problem = spec_adapter.problem(spec, places, code)
        return tried(spec, problem, spec_adapter.tuner(spec, built=problem))
    except (EngineError, UserCodeError):
        raise
    except (Exception, SystemExit) as error:
        if code is None or ran_out_of_memory(error):
            raise
        raise user_error(error, code) from error


def tried(spec: JobSpec, problem: Problem, tuner: Tuner, device: str = "cpu") -> dict[str, Any]:
    """As `preflight`, of a problem that is built already; `tuner` is the job's own."""
    short = _short(spec)
    trial = spec_adapter.tuner(short, device=device, built=problem)
    values = trial.initial_values()
    first = trial.evaluate(values, 0)  # pays for warming up, and where auto chooses, for its look
    began = time.perf_counter()
    evaluation = trial.evaluate(values, 0, choice=first.choice)
    seconds = time.perf_counter() - began
    return {
        "hyperparameters": {
            name: list(bound.initial.shape) for name, bound in tuner.hyperparameters.items()
        },
        "validation_loss": evaluation.validation_loss,
        "training_loss": evaluation.training_loss,
        "steps": short.training.steps,
        "seconds": seconds,
        "method": evaluation.method,
        "fidelity": _fidelity(short, trial, first),
        "job_seconds": _job_seconds(spec, short, evaluation),
        "memory_bytes": evaluation.peak_memory_bytes + _more_path_bytes(spec, short, tuner),
    }


def _short(spec: JobSpec) -> JobSpec:
    """The same job with few steps."""
    steps = min(STEPS, spec.training.steps)
    changes: dict[str, Any] = {"training": spec.training.model_copy(update={"steps": steps})}
    horizon = getattr(spec.hypergradient, "horizon", None)
    if horizon is not None:
        update = {"horizon": min(horizon, steps)}
        changes["hypergradient"] = spec.hypergradient.model_copy(update=update)
    return spec.model_copy(update=changes)


def _fidelity(short: JobSpec, trial: Tuner, first: Evaluation) -> dict[str, float | None]:
    """Cosines to the exact hypergradient over the few steps, by method; None where it diverged."""
    if first.choice is not None:
        figures = first.choice.probes
    else:
        method, training = spec_adapter.method(short.hypergradient), spec_adapter.training(short)
        values = trial.initial_values()
        report = fidelity.measure(trial, training, [method], values, short.meta.iterations)
        figures = tuple(prediction.figure for prediction in report.predictions)
    return {figure.method["method"]: figure.cosine for figure in figures}


def _job_seconds(spec: JobSpec, short: JobSpec, evaluation: Evaluation) -> float:
    """Of all meta-iterations on a machine like this one; a step backward costs what it costs."""
    steps, few = spec.training.steps, short.training.steps
    backward = getattr(spec.hypergradient, "horizon", None) or steps
    backward_few = getattr(short.hypergradient, "horizon", None) or few
    seconds = evaluation.seconds
    each = (
        seconds["forward"] / few * steps
        + seconds["backward"] / backward_few * backward
        + seconds["evaluate"]
    )
    trials = 0 if spec.search is None else spec.search.trials
    return spec.meta.iterations * each + trials * seconds["forward"] / few * steps


def _more_path_bytes(spec: JobSpec, short: JobSpec, tuner: Tuner) -> int:
    """What the whole path takes beyond the short one, at most."""
    method, method_few = (
        spec_adapter.method(spec.hypergradient),
        spec_adapter.method(short.hypergradient),
    )
    if isinstance(method, Auto):  # looks by the exact method
        method = method_few = Replay()
    copies = method.copies(spec_adapter.training(spec)) - method_few.copies(
        spec_adapter.training(short)
    )
    return round(max(0.0, copies) * tuner.copy_bytes)
