"""`drmad attribute`: the training rows that help and that harm, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drmad_client.cli import options
from drmad_client.cli.options import CodeOption, DataRootsOption, Output, OutputOption
from drmad_client.spec import defaults
from drmad_workers.preflight.command import read_job, users_errors

if TYPE_CHECKING:
    from drmad_client.spec.job import JobSpec
    from drmad_client.spec.side_runs.attribution import AttributionSpec
    from drmad_workers.attribution.attribution import Attribution
    from drmad_workers.catalog import Places


def attribute(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Job file in YAML or JSON; - is standard input.")
    ],
    code: CodeOption = None,
    data_roots: DataRootsOption = [],  # noqa: B006 (typer reads the default and copies it)
    queries: Annotated[
        list[str],
        typer.Option(
            "--queries",
            metavar="QUERY",
            help="valid, each, classes, class:K, rows:0,5,10-19 or measure:NAME; repeatable.",
        ),
    ] = list(defaults.Attribution.queries),  # noqa: B006
    draws: Annotated[
        int, typer.Option(help="Draws of weights and minibatches whose scores are averaged.")
    ] = 1,
    lds: Annotated[
        bool, typer.Option("--lds", help="Judge the scores by 30 training runs without subsets.")
    ] = False,
    lds_runs: Annotated[
        int | None, typer.Option("--lds-runs", help="As --lds, with so many training runs.")
    ] = None,
    left_out: Annotated[
        float, typer.Option(help="Share of the rows that such a run leaves out.")
    ] = defaults.Attribution.left_out,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write all scores: .safetensors, .csv or .parquet by its name."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=20, help="Rows to show on each side.")] = 10,
    output: OutputOption = Output.TABLE,
) -> None:
    """Find the training rows that help and that harm a model.

    Trains at the settings of the job's training with a weight of one for every training row, and
    differentiates each query by all weights in one backward pass. The influence of a row is the
    change of the query to first order when the row is left out: positive where the row helps. The
    hyperparameters of a tuning job have no part in it.

    \b
    Examples:
      drmad attribute job.yaml --out scores.csv
      drmad attribute job.yaml --queries classes --queries rows:0-9 --lds
    """
    from drmad_client.cli.output.attribution_tables import attribution_table
    from drmad_client.errors import UsageError
    from drmad_client.files.influence_scores import require_suffix
    from drmad_client.records.side_runs.attribution import AttributionReport
    from drmad_client.spec import bounds
    from drmad_client.spec.side_runs.attribution import AttributionSpec
    from drmad_workers.catalog import Places

    runs = lds_runs if lds_runs is not None else (LDS_RUNS if lds else 0)
    fields = {"queries": queries, "lds": runs, "left_out": left_out}
    asked = options.validated(AttributionSpec, fields)
    if not bounds.Attribution.draws.hold(draws):
        raise UsageError(f"draws must be {bounds.Attribution.draws}, got {draws}")
    if out is not None:
        require_suffix(out)
    spec, folder = read_job(file, code)
    with users_errors(folder):
        found = attributed(spec, asked, draws, Places(data_roots), folder)
    if out is not None:
        found.scores.write(out)
    report = AttributionReport.model_validate(found.as_dict())
    if output is not Output.TABLE:
        options.print_data(report, output)
        return
    options.print_table(attribution_table(report, top, most_queries=10))
    if out is not None:
        typer.echo(f"{out}  ({out.stat().st_size:,} bytes)")


LDS_RUNS = 30


def attributed(
    spec: JobSpec, asked: AttributionSpec, draws: int, places: Places, code: Path | None
) -> Attribution:
    """The attribution of a job in this process, with a bar of its progress."""
    import torch
    from rich.console import Console

    from drmad_client.http.running.progress_bar import terminal_bar
    from drmad_workers import spec_adapter
    from drmad_workers.attribution.attribution import LdsSettings, attribute
    from drmad_workers.attribution.attributor import Attributor

    torch.set_num_threads(max(1, int(spec.resources.cpus)))
    attributor = Attributor(
        spec_adapter.problem(spec, places, code),
        spec_adapter.training(spec),
        spec_adapter.method(spec.hypergradient),
        asked.queries,
        spec.seed,
    )
    with terminal_bar(Console(stderr=True)) as progress:
        task = progress.add_task("attributes", detail="", total=None)

        def show(phase: str, done: int, total: int) -> None:
            progress.update(task, description=phase, completed=done, total=total)

        lds = LdsSettings(asked.lds, asked.left_out, spec.seed)
        return attribute(attributor, draws, lds, on_progress=show)
