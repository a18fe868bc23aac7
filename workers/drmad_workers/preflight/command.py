"""`drmad check`: what would go wrong with a job, found on this machine and without a service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from drmad_client.spec.job import JobSpec


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
    that nothing depends on, kernels without second derivatives. Measures how far the method agrees
    with the exact one over a few steps, and predicts the time and the memory of the job.

    \b
    Examples:
      drmad check job.yaml
      drmad check job.yaml --code .
    """
    import torch

    from drmad_client.cli.tables import preflight_lines
    from drmad_client.errors import DrmadError
    from drmad_client.records.job import PreflightReport
    from drmad_workers.catalog import Places
    from drmad_workers.errors import EngineError
    from drmad_workers.preflight.short_run import preflight
    from drmad_workers.user_code import UserCodeError

    spec, folder = _read(file, code)
    torch.set_num_threads(max(1, int(spec.resources.cpus)))  # as a worker, whose time is predicted
    try:
        report = PreflightReport.model_validate(preflight(spec, Places(data_roots), folder))
    except UserCodeError as error:
        raise DrmadError(f"your code raised {error}\n{error.traceback}".rstrip()) from error
    except EngineError as error:
        raise DrmadError(str(error)) from error
    for line in preflight_lines(report):
        typer.echo(line)


def _read(file: Path, code: Path | None) -> tuple[JobSpec, Path | None]:
    """The spec, and the code as a worker would find it: packed and unpacked again."""
    from pydantic import ValidationError

    from drmad_client.errors import DrmadError, field_errors
    from drmad_client.files.code_archive import pack
    from drmad_client.spec import job_file
    from drmad_client.spec.job import JobSpec
    from drmad_workers.user_code import unpacked

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
