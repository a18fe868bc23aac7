"""The part of `drmad validate` that needs the engine: a job file, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from drmad_workers.preflight.command import read_job, users_errors

if TYPE_CHECKING:
    from drmad_client.records.side_runs.validation import ValidationReport
    from drmad_client.spec.job import JobSpec
    from drmad_client.spec.side_runs.validation import ValidationSpec
    from drmad_workers.catalog import Places
    from drmad_workers.validation.yardstick import ValidationSettings


def validate_file(
    file: Path, code: Path | None, data_roots: list[Path], asked: ValidationSpec
) -> ValidationReport:
    """Validates the hypergradient of a job at its initial hyperparameters, in this process.

    Args:
        file: the job in YAML or JSON; - is the standard input.
        code: the folder of the job's own code.
        data_roots: the folders that data may be read from.
    Raises:
        DrmadError: the job is invalid, its code raised, or the engine refused it.
    """
    import torch

    from drmad_workers.catalog import Places

    spec, folder = read_job(file, code)
    torch.set_num_threads(max(1, int(spec.resources.cpus)))
    with users_errors(folder):
        return _validated(spec, Places(data_roots), folder, settings_of_spec(asked))


def settings_of_spec(asked: ValidationSpec) -> ValidationSettings:
    from drmad_workers.validation.yardstick import ValidationSettings

    return ValidationSettings(**asked.model_dump(exclude={"iteration"}))


def _validated(
    spec: JobSpec, places: Places, code: Path | None, settings: ValidationSettings
) -> ValidationReport:
    from rich.console import Console

    from drmad_client.http.running.progress_bar import terminal_bar
    from drmad_client.records.side_runs.validation import ValidationReport
    from drmad_workers import spec_adapter
    from drmad_workers.validation.yardstick import validate

    tuner = spec_adapter.tuner(spec, 0, places, code=code)
    with terminal_bar(Console(stderr=True)) as progress:
        task = progress.add_task("differentiates", detail="", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, description="retrains", completed=done, total=total)

        found = validate(tuner, settings, spec_adapter.meta(spec), on_progress=show)
    return ValidationReport.model_validate(found.as_dict())
