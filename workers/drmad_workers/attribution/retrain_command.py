"""`drmad retrain`: training without the rows of lowest score, beside all rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drmad_client.cli import options
from drmad_client.cli.options import CodeOption, DataRootsOption, Output, OutputOption
from drmad_workers.attribution.command import users_errors
from drmad_workers.preflight.command import read_job

if TYPE_CHECKING:
    from torch import Tensor

    from drmad_client.http.client import Client
    from drmad_client.spec.job import JobSpec
    from drmad_workers.hyperparameters.base import Kind


def retrain_command(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="JOB|FILE", help="Id of a job, or a job file with --scores.")
    ],
    drop_lowest: Annotated[
        str, typer.Option(metavar="SHARE", help="Rows to drop: 10%, or a number of rows.")
    ],
    scores: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Scores that drmad attribute wrote, as safetensors."),
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="Query whose scores count; by default the first.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of both recipes, at least 2.")] = 5,
    code: CodeOption = None,
    data_roots: DataRootsOption = [],  # noqa: B006 (typer reads the default and copies it)
    output: OutputOption = Output.TABLE,
) -> None:
    """Train without the rows of lowest score, beside the untuned recipe with all rows.

    Trains both recipes on this machine under the same seeds. The scores are the influence of an
    attribution, or the tuned weights of the examples of a job, whose other hyperparameters keep
    their tuned values.

    \b
    Examples:
      drmad retrain job.yaml --scores scores.safetensors --drop-lowest 10%
      drmad retrain job_01J... --drop-lowest 50 --seeds 10
    """
    from drmad_client.cli.retraining_tables import retraining_table
    from drmad_client.files.influence_scores import InfluenceScores
    from drmad_client.records.retraining import RetrainingReport

    values: dict[str, Any] = {}
    by_influence = scores is not None
    if scores is not None:
        spec, folder = read_job(Path(target), code)
        ranked = InfluenceScores.unpack(scores.read_bytes()).of(query)
    else:
        spec, folder, ranked, values = _of_job(context, target, query, code)
        by_influence = spec.kind == "attribution"
    with users_errors(folder):
        found = _trained(spec, folder, data_roots, ranked, values, drop_lowest, seeds, by_influence)
    report = RetrainingReport.model_validate(found)
    if output is not Output.TABLE:
        options.print_data(report, output)
        return
    options.print_table(retraining_table(report))


def dropped_rows(text: str, rows: int) -> int:
    """The number of rows that "10%" or "50" names, at least one.

    Raises:
        DrmadError: it is neither, or names no row or all of them.
    """
    from drmad_client.errors import DrmadError

    number, percent, rest = text.strip().partition("%")
    try:
        count = float(number) * rows / 100.0 if percent else float(int(number))
    except ValueError:
        count = -1.0
    if rest or not count > 0.0 or not round(count) < rows:
        raise DrmadError(
            f"drop-lowest must be a share such as 10% or a number of rows below {rows}, got {text}"
        )
    return max(1, round(count))


def _of_job(
    context: typer.Context, job_id: str, query: str | None, code: Path | None
) -> tuple[JobSpec, Path | None, Any, dict[str, Any]]:
    """Spec, code, scores by row, and the other tuned values, of a job of the service."""
    from drmad_client.errors import DrmadError
    from drmad_client.files.code_archive import pack
    from drmad_workers.code_folder import unpacked

    if Path(job_id).suffix:
        raise DrmadError(f"{job_id} is a file, whose scores are needed: add --scores FILE")
    tuned: dict[str, Any] = {}
    with options.open_client(context) as client:
        spec = client.jobs.retrieve(job_id).record.spec
        if spec.kind == "attribution":
            ranked = client.jobs.scores(job_id).of(query)
        else:
            ranked, tuned = _tuned_weights(client, job_id, spec, query)
    folder = None
    if spec.problem.kind == "code":
        if code is None:
            raise DrmadError(
                f"{job_id} has code of its own, which the service does not hand out: add --code DIR"
            )
        archive = pack(code)
        if archive.name != spec.problem.code:
            raise DrmadError(
                f"the code in {code} must be that of {job_id}, {spec.problem.code}, got "
                f"{archive.name}: check out the version that was submitted"
            )
        folder = unpacked(archive.content)
    return spec, folder, ranked, tuned


def _tuned_weights(
    client: Client, job_id: str, spec: JobSpec, query: str | None
) -> tuple[Any, dict[str, Any]]:
    """The tuned weight of every row, and the raw values of the other hyperparameters by name."""
    from drmad_client.errors import DrmadError

    weights = [h for h in spec.hyperparameters if h.kind == "sample_weight"]
    name = next((h.name or h.kind for h in weights if h.per == "example"), None)
    if name is None:
        raise DrmadError(
            f"{job_id} must have tuned a sample_weight for each example, and it has not: attribute "
            "its job file, and give the scores by --scores"
        )
    if query is not None:
        raise DrmadError("query names a query of an attribution; leave it out for a tuning job")
    tuned = dict(client.jobs.hyperparameters(job_id, "best", raw=True))
    return tuned.pop(name), tuned


def _trained(
    spec: JobSpec,
    folder: Path | None,
    data_roots: list[Path],
    ranked: Any,
    values: dict[str, Any],
    drop_lowest: str,
    seeds: int,
    by_influence: bool,
) -> dict[str, Any]:
    import numpy as np
    import torch
    from rich.console import Console

    from drmad_client.http.progress_bar import terminal_bar
    from drmad_workers import spec_adapter
    from drmad_workers.catalog import Places
    from drmad_workers.hyperparameters.example_weight import ExampleWeight
    from drmad_workers.retraining.retrainer import RetrainingSettings, retrain

    count = dropped_rows(drop_lowest, len(ranked))
    scores: Tensor = torch.from_numpy(np.array(ranked))
    torch.set_num_threads(max(1, int(spec.resources.cpus)))
    # The hyperparameters of a tuning job belong to its own scores; influence is taken without.
    kinds: list[Kind] = [ExampleWeight()] if by_influence else spec_adapter.kinds(spec)
    with terminal_bar(Console(stderr=True)) as progress:
        task = progress.add_task("trains", detail="", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        found = retrain(
            spec_adapter.problem(spec, Places(data_roots), folder),
            kinds,
            spec_adapter.training(spec),
            {name: torch.tensor(value) for name, value in values.items()},
            RetrainingSettings(seeds, drop_lowest=count),
            scores,
            spec.seed,
            on_progress=show,
        )
    return found.as_dict()
