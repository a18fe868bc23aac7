"""The part of `drmad retrain` that needs the engine: a job file, on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drmad_workers.preflight.command import read_job, users_errors

if TYPE_CHECKING:
    from drmad_client.records.side_runs.retraining import RetrainingReport
    from drmad_client.spec.side_runs.retraining import RetrainingSpec


def retrain_file(
    file: Path, code: Path | None, data_roots: list[Path], asked: RetrainingSpec, scores: Any
) -> RetrainingReport:
    """Trains a job file without the rows of lowest score, beside all rows, in this process.

    Args:
        file: the job in YAML or JSON; - is the standard input.
        code: the folder of the job's own code.
        data_roots: the folders that data may be read from.
        asked: what is trained.
        scores: the score of every training row, shape (rows,).
    Raises:
        DrmadError: the job is invalid, its code raised, or the engine refused it.
    """
    import torch
    from rich.console import Console

    from drmad_client.http.running.progress_bar import terminal_bar
    from drmad_client.records.side_runs.retraining import RetrainingReport
    from drmad_workers.catalog import Places
    from drmad_workers.retraining.from_spec import retrainer

    spec, folder = read_job(file, code)
    torch.set_num_threads(max(1, int(spec.resources.cpus)))
    figures: list[Mapping[str, float] | None] = []
    with users_errors(folder), terminal_bar(Console(stderr=True)) as progress:
        made = retrainer(spec, asked, {}, scores, Places(data_roots), folder)
        task = progress.add_task("trains", detail="", total=len(made.runs))
        for run in made.runs:
            trained = made.train(run)
            figures.append(None if trained is None else trained[0])
            progress.advance(task)
        made.close()
        report = made.report(figures)
    return RetrainingReport.model_validate(report.as_dict())
