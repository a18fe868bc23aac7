"""`drmad check`: the preflight of a job on this machine, without a service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drmad_client.cli.options import CodeOption, DataRootsOption

if TYPE_CHECKING:
    from drmad_client.spec.job import JobSpec


def register() -> Mapping[str, str]:
    """Every command of the workers by its name, see drmad_service.operations.commands."""
    return {
        "check": f"{__name__}:check",
        "validate": "drmad_workers.validation.command:validate_file",
        "attribute": "drmad_workers.attribution.command:attribute",
        "retrain": "drmad_workers.retraining.command:retrain_file",
    }


def check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Job file in YAML or JSON; - reads YAML from standard input."
        ),
    ],
    code: CodeOption = None,
    data_roots: DataRootsOption = [],  # noqa: B006 (typer reads the default and copies it)
) -> None:
    """Run the preflight of a job on this machine.

    Builds the job's problem and runs one short meta-iteration. It detects what a worker would
    detect: failing imports, wrong shapes, a loss that is not finite, hyperparameters that no loss
    depends on, kernels without second derivatives. It measures the agreement of the method with
    the exact hypergradient over a few steps, and predicts the duration and the memory of the job.
    Its proofs compare the engine with independent computations; the exit code is 1 if one failed
    and the job does not override it.

    \b
    Examples:
      drmad check job.yaml
      drmad check job.yaml --code .
    """
    import torch

    from drmad_client.cli.preflight import print_report
    from drmad_client.records.job import PreflightReport
    from drmad_client.spec.outer.online import checkpoint_refusal
    from drmad_workers.catalog import Places
    from drmad_workers.preflight.short_run import preflight

    spec, folder = read_job(file, code)
    torch.set_num_threads(
        max(1, int(spec.resources.cpus))
    )  # like a worker, whose speed is predicted
    with users_errors(folder):
        report = PreflightReport.model_validate(preflight(spec, Places(data_roots), folder))
    size = report.checkpoint_bytes or 0
    refusal = checkpoint_refusal(size, spec.replicas.count)
    warnings = [
        "preflight: a service whose max_model_bytes has its default fails this job "
        f"(checkpoint_too_large): {refusal}"
    ]
    print_report(report, spec.preflight, warnings if refusal else ())


@contextmanager
def users_errors(folder: Path | None) -> Iterator[None]:
    """Errors of the engine and of the job's code, in words for the user of a command."""
    from drmad_client.errors import DrmadError, UsageError
    from drmad_workers.errors import EngineError, ProblemError, ran_out_of_memory
    from drmad_workers.user_code import UserCodeError, user_error

    try:
        yield
    except UserCodeError as error:
        raise DrmadError(f"The job's code raised {error}\n{error.traceback}".rstrip()) from error
    except ProblemError as error:
        raise UsageError(str(error)) from error
    except EngineError as error:
        raise DrmadError(str(error)) from error
    except DrmadError:
        raise
    except Exception as error:
        if folder is None or ran_out_of_memory(error):
            raise
        users = user_error(error, folder)
        raise DrmadError(f"The job's code raised {users}\n{users.traceback}".rstrip()) from error


def read_job(file: Path, code: Path | None) -> tuple[JobSpec, Path | None]:
    """The spec, and the folder of the code, packed and unpacked as for a worker."""
    from pydantic import ValidationError

    from drmad_client.cli.submission import say_what_was_left_out
    from drmad_client.errors import UsageError
    from drmad_client.files.code_archive import pack
    from drmad_client.records.field_errors import field_errors
    from drmad_client.spec.job import JobSpec
    from drmad_client.spec.text import job_file
    from drmad_workers.code_folder import unpacked

    fields = job_file.read(file)
    folder = None
    if code is not None:
        archive = pack(code)
        job_file.assign(fields, f"problem.code={archive.name}")
        folder = unpacked(archive.content)
        typer.echo(f"code: {len(archive.files)} files, {len(archive.content) / 1e3:.1f} kB packed")
        say_what_was_left_out(code)
    try:
        return JobSpec.model_validate(fields), folder
    except ValidationError as error:
        errors = field_errors(error.errors(), fields)
        lines = "".join(f"\n  {line.path}: {line.message}" for line in errors)
        raise UsageError(f"{file} is not a valid job{lines}") from error
