"""`drmad check`: what would go wrong with a job, found on this machine and without a service."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from drmad_client.specs import JobSpec
    from drmad_workers.tuning import Evaluation, Tuner

TRIAL_STEPS = 20


def register(app: typer.Typer) -> None:
    """Add the workers' commands to the command line."""
    app.command()(check)


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON; - reads YAML.")],
    code: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of your own code.")
    ] = None,
    data_roots: Annotated[
        list[Path],
        typer.Option("--data-root", envvar="DRMAD_DATA_ROOTS", help="Where data may be read."),
    ] = [],  # noqa: B006 (typer reads the default and copies it)
) -> None:
    """Build a job's problem here and run one tiny meta-iteration of it.

    Finds what a worker would find: imports, shapes, a loss that is not finite, hyperparameters
    that nothing depends on, kernels without second derivatives. Predicts the time of the job.

    \b
    Examples:
      drmad check job.yaml
      drmad check job.yaml --code .
    """
    from drmad_client.errors import DrmadError
    from drmad_workers import wire
    from drmad_workers.catalog import Places
    from drmad_workers.code import UserCodeError
    from drmad_workers.errors import EngineError

    spec, folder = _read(file, code)
    try:
        tuner = wire.tuner(spec, places=Places(data_roots), code=folder)
        _describe(tuner)
        trial = _trial(spec)
        rehearsal = wire.tuner(trial, places=Places(data_roots), code=folder)
        rehearsal.evaluate(tuner.initial_values(), iteration=0)  # the first pays for warming up
        began = time.perf_counter()
        evaluation = rehearsal.evaluate(tuner.initial_values(), iteration=0)
        _predict(spec, trial, evaluation, time.perf_counter() - began)
    except UserCodeError as error:
        raise DrmadError(f"your code raised {error}\n{error.traceback}".rstrip()) from error
    except EngineError as error:
        raise DrmadError(str(error)) from error


def _read(file: Path, code: Path | None) -> tuple[JobSpec, Path | None]:
    """The spec, and the code as a worker would find it: packed and unpacked again."""
    from pydantic import ValidationError

    from drmad_client import job_file
    from drmad_client.code import pack
    from drmad_client.errors import DrmadError, field_errors
    from drmad_client.specs import JobSpec
    from drmad_workers.code import unpacked

    fields = job_file.read(file)
    folder = None
    if code is not None:
        archive = pack(code)
        job_file.assign(fields, f"problem.code={archive.name}")
        folder = unpacked(archive.content)
        typer.echo(f"code: {len(archive.files)} files, {len(archive.content) / 1e3:.1f} kB packed")
    try:
        return JobSpec.model_validate(fields), folder
    except ValidationError as error:
        told = field_errors(error.errors(), fields)
        lines = "".join(f"\n  {line.path}: {line.message}" for line in told)
        raise DrmadError(f"{file} is not a valid job{lines}") from error


def _describe(tuner: Tuner) -> None:
    for name, hyperparameter in tuner.hyperparameters.items():
        shape = " × ".join(map(str, hyperparameter.initial.shape)) or "one number"
        typer.echo(f"hyperparameter {name}: {shape}, {hyperparameter.transform}")


def _trial(spec: JobSpec) -> JobSpec:
    """The same job with few steps."""
    steps = min(TRIAL_STEPS, spec.training.steps)
    changes: dict[str, Any] = {"training": spec.training.model_copy(update={"steps": steps})}
    horizon = getattr(spec.hypergradient, "horizon", None)
    if horizon is not None:
        update = {"horizon": min(horizon, steps)}
        changes["hypergradient"] = spec.hypergradient.model_copy(update=update)
    return spec.model_copy(update=changes)


def _predict(spec: JobSpec, trial: JobSpec, evaluation: Evaluation, elapsed_s: float) -> None:
    forward_s = evaluation.seconds["forward"] / trial.training.steps * spec.training.steps
    trial_back = getattr(trial.hypergradient, "horizon", None) or trial.training.steps
    back = getattr(spec.hypergradient, "horizon", None) or spec.training.steps
    backward_s = evaluation.seconds["backward"] / trial_back * back
    total_s = (forward_s + backward_s + evaluation.seconds["evaluate"]) * spec.meta.iterations
    typer.echo(
        f"one meta-iteration of {trial.training.steps} steps: {elapsed_s:.1f} s, validation loss "
        f"{evaluation.validation_loss:.5g}, training loss {evaluation.training_loss:.5g}"
    )
    typer.echo(
        f"the whole job: about {total_s:.0f} s on a machine like this "
        f"({spec.meta.iterations} meta-iterations of {forward_s + backward_s:.2f} s), "
        f"{evaluation.peak_memory_bytes / 1e6:.0f} MB"
    )
    typer.echo("no fault was found")
