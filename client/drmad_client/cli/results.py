"""Commands that show and write a job's results: fetch, recipe, history, trials, figure and more."""

from __future__ import annotations

import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drmad_client.cli import options
from drmad_client.cli.options import IterationOption, JobId, Output, OutputOption
from drmad_client.cli.output.terminal import echo

if TYPE_CHECKING:
    from drmad_client.http.protocol.array_answer import NamedArrays


class HistoryOutput(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    for command in (
        fetch,
        recipe,
        history,
        trials,
        diff,
        hyperparameters,
        hypergradients,
        model,
        fidelity,
        attribution,
        figure,
    ):
        app.command()(command)


def fetch(
    context: typer.Context,
    job_id: JobId,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write to; by default ./ID.")
    ] = None,
    iteration: IterationOption = "best",
) -> None:
    """Write a job's hyperparameters, model, history and spec to files.

    \b
    Examples:
      drmad fetch job_01J... --to tuned
      drmad fetch job_01J... --iteration 7
    """
    with options.open_client(context) as client, warnings.catch_warnings(record=True) as missing:
        warnings.simplefilter("always")  # printed here, whatever PYTHONWARNINGS says
        for path in client.jobs.save(job_id, to or Path(job_id), options.index_of(iteration)):
            echo(f"{path}  ({path.stat().st_size:,} bytes)")
    for warning in missing:
        echo(str(warning.message), err=True)


def recipe(
    context: typer.Context,
    job_id: JobId,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write to; by default ./ID.")
    ] = None,
    iteration: IterationOption = "best",
) -> None:
    """Write the tuned training as plain PyTorch, with its data and the tuned values.

    In the folder, python recipe.py data.safetensors trains without drmad. Own code that reads its
    data by itself has no data.safetensors.

    \b
    Examples:
      drmad recipe job_01J... --to recipe
    """
    from drmad_client.export.recipe import shortcomings

    with options.open_client(context) as client:
        job = client.jobs.retrieve(job_id)
        if lacks := shortcomings(job.record.begun):
            echo(lacks, err=True)
        for path in job.save_recipe(to or Path(job_id), options.index_of(iteration)):
            echo(f"{path}  ({path.stat().st_size:,} bytes)")


def history(
    context: typer.Context,
    job_id: JobId,
    output: Annotated[
        HistoryOutput, typer.Option("--output", "-o", help="Output format.")
    ] = HistoryOutput.TABLE,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write .csv or .parquet by its name.")
    ] = None,
) -> None:
    """Print the committed meta-iterations of a job, or write them to a file.

    \b
    Examples:
      drmad history job_01J...
      drmad history job_01J... --output csv > history.csv
      drmad history job_01J... --out history.parquet
    """
    if out is not None:
        from drmad_client.export.history_table import require_suffix

        require_suffix(out)
    with options.open_client(context) as client:
        records = client.jobs.history(job_id)
    if out is not None:
        records.write(out)
        echo(f"{out}  ({out.stat().st_size:,} bytes)")
    elif output is HistoryOutput.CSV:
        from drmad_client.export.job_folder import history_csv

        echo(history_csv(records), end="")
    elif output is HistoryOutput.TABLE:
        from drmad_client.cli.output.tables import history_table

        options.print_table(history_table(records))
    else:
        options.print_data(list(records), Output(output))


def trials(context: typer.Context, job_id: JobId, output: OutputOption = Output.TABLE) -> None:
    """Print the trials of the search that precedes a job's meta-iterations.

    \b
    Examples:
      drmad trials job_01J...
    """
    with options.open_client(context) as client:
        job, found = client.jobs.retrieve(job_id).record, client.jobs.trials(job_id)
    if output is not Output.TABLE:
        options.print_data([trial.model_dump(mode="json") for trial in found], output)
        return
    from drmad_client.cli.output.tables import trials_table

    options.print_table(trials_table(found, job.start.trial if job.start else None))


def attribution(
    context: typer.Context,
    job_id: JobId,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write all scores: .safetensors, .csv or .parquet by its name."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=20, help="Rows to show on each side.")] = 10,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print the training rows that help and that harm, of a job of kind attribution.

    \b
    Examples:
      drmad attribution job_01J... --out scores.parquet
    """
    from drmad_client.cli.output.attribution_tables import attribution_table
    from drmad_client.files.influence_scores import require_suffix

    if out is not None:
        require_suffix(out)
    with options.open_client(context) as client:
        report = client.jobs.attribution(job_id)
        if out is not None:
            client.jobs.scores(job_id).write(out)
    if output is not Output.TABLE:
        options.print_data(report, output)
        return
    options.print_table(attribution_table(report, top, most_queries=10))
    if out is not None:
        echo(f"{out}  ({out.stat().st_size:,} bytes)")


def diff(
    context: typer.Context,
    first: JobId,
    second: JobId,
    output: OutputOption = Output.TABLE,
) -> None:
    """Compare the specs and the results of two jobs.

    \b
    Examples:
      drmad diff job_01J... job_01K...
    """
    from drmad_client.export.comparison import differences

    with options.open_client(context) as client:
        one, other = (client.jobs.retrieve(job_id).record for job_id in (first, second))
    found = differences(one, other)
    if output is not Output.TABLE:
        options.print_data(found, output)
        return
    from drmad_client.cli.output.tables import differences_table

    options.print_table(differences_table(one, other, found))


def hyperparameters(
    context: typer.Context,
    job_id: JobId,
    iteration: IterationOption = "best",
    raw: Annotated[bool, typer.Option("--raw", help="Print raw values, not user units.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print the tuned hyperparameters: a summary table, or all values as JSON or YAML.

    \b
    Examples:
      drmad hyperparameters job_01J...
      drmad hyperparameters job_01J... --iteration 1 --output json
    """
    with options.open_client(context) as client:
        _print_arrays(client.jobs.hyperparameters(job_id, options.index_of(iteration), raw), output)


def hypergradients(
    context: typer.Context,
    job_id: JobId,
    iteration: IterationOption = "last",
    output: OutputOption = Output.TABLE,
) -> None:
    """Print a hypergradient: a summary table, or all values as JSON or YAML."""
    with options.open_client(context) as client:
        _print_arrays(client.jobs.hypergradients(job_id, options.index_of(iteration)), output)


def model(
    context: typer.Context,
    job_id: JobId,
    iteration: Annotated[str, typer.Option(help="Meta-iteration: best or last.")] = "best",
    output: OutputOption = Output.TABLE,
) -> None:
    """Print the weights and buffers of the trained model; `fetch` writes them to a file.

    Of a model with frozen parameters they are what training changed, such as an adapter.
    drmad_client.export.pytorch.load_model loads them into the model that your code builds.
    """
    with options.open_client(context) as client:
        _print_arrays(client.jobs.model(job_id, iteration), output)


def fidelity(context: typer.Context, job_id: JobId, output: OutputOption = Output.TABLE) -> None:
    """Print the fidelity probes of the job's methods, and the chosen method.

    \b
    Examples:
      drmad fidelity job_01J...
      drmad fidelity job_01J... --output yaml     all probes and all values
    """
    with options.open_client(context) as client:
        found = client.jobs.fidelity(job_id)
    if output is not Output.TABLE:
        options.print_data(found, output)
        return
    from drmad_client.cli.output.tables import fidelity_table

    options.print_table(fidelity_table(found))


def figure(
    context: typer.Context,
    job_id: JobId,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Figure: losses, hyperparameters, fidelity, ...")
    ] = "losses",
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write to this file: .json, or .html, which needs plotly."
        ),
    ] = None,
) -> None:
    """Print a figure as plotly's JSON, or write it to a file.

    \b
    Examples:
      drmad figure job_01J... losses --to losses.html
      drmad figure job_01J... hyperparameters | jq .layout
    """
    from drmad_client.plots.figures import save

    with options.open_client(context) as client:
        drawn = client.jobs.figure(job_id, name)
    if to is None:
        options.print_data(drawn, Output.JSON)
    else:
        save(drawn, to)
        echo(to)


def _print_arrays(arrays: NamedArrays, output: Output) -> None:
    if output is not Output.TABLE:
        options.print_data({name: values.tolist() for name, values in arrays.items()}, output)
        return
    from drmad_client.cli.output.tables import arrays_table

    options.print_table(arrays_table(arrays))
