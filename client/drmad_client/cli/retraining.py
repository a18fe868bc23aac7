"""`drmad retrain`: train from scratch with what a job found, beside the untuned recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drmad_client.cli import options
from drmad_client.cli.engine import engine_function
from drmad_client.cli.options import CodeOption, DataRootsOption, Output, OutputOption

if TYPE_CHECKING:
    from drmad_client.records.side_runs.retraining import RetrainingReport
    from drmad_client.spec.side_runs.retraining import RetrainingSpec


def register(app: typer.Typer) -> None:
    app.command()(retrain)


def retrain(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="JOB|FILE",
            help="Id of a job; or a job file, with --scores.",
            autocompletion=options.complete_job_id,
        ),
    ],
    steps: Annotated[
        int | None, typer.Option(help="Inner steps of every training run; by default the job's.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Seeds, each with both recipes; by default 5.")
    ] = None,
    with_validation: Annotated[
        bool,
        typer.Option(
            "--with-validation",
            help="Train on the validation rows too, and measure on the test data.",
        ),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(help="Leave out the rows whose tuned weight is below it."),
    ] = None,
    drop_lowest: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Leave out the rows of lowest weight: 10%, or a number of rows."
        ),
    ] = None,
    iteration: Annotated[
        str | None,
        typer.Option(help="Meta-iteration of a job: best, last or from 1; by default best."),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(help="Query of an attribution whose scores count; by default the first."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="For a job file: scores that drmad attribute wrote, safetensors."
        ),
    ] = None,
    code: CodeOption = None,
    data_roots: DataRootsOption = [],  # noqa: B006 (typer reads the default and copies it)
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="DIR",
            help="Write report, best model, tuned values and the recipe in plain PyTorch.",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Train from scratch with what a job found, beside the untuned recipe.

    Trains both recipes under the same seeds: of a job on the cluster, of a job file here. The tuned
    one has the hyperparameters of the best meta-iteration, or leaves out the rows of lowest weight
    or influence; the untuned one has the hyperparameters with which the job began. The table has
    mean and interval of every held-out figure, and the last line the answer.

    \b
    Examples:
      drmad retrain job_01J... --seeds 5 --to retrained
      drmad retrain job_01J... --steps 2000 --threshold 0.5 --with-validation
      drmad retrain job.yaml --scores scores.safetensors --drop-lowest 10%
    """
    given: dict[str, Any] = {
        "steps": steps,
        "seeds": seeds,
        "with_validation": with_validation,
        "threshold": threshold,
        "drop_lowest": drop_lowest,
        "query": query,
    }
    fields = {name: value for name, value in given.items() if value is not None}
    if target.startswith("job_") and not Path(target).exists():
        report = _on_the_cluster(context, target, iteration, scores, fields, to)
    elif to is not None:
        raise typer.BadParameter("--to is for the id of a job; the service keeps its model")
    else:
        report = _here(Path(target), code, data_roots, iteration, scores, fields)
    if output is not Output.TABLE:
        options.print_data(report, output)
        return
    from drmad_client.cli.output.retraining_tables import retraining_table

    options.print_table(retraining_table(report))


def _on_the_cluster(
    context: typer.Context,
    job_id: str,
    iteration: str | None,
    scores: Path | None,
    fields: dict[str, Any],
    to: Path | None,
) -> RetrainingReport:
    from drmad_client.errors import UsageError
    from drmad_client.export.recipe import shortcomings

    if scores is not None:
        raise UsageError(
            f"--scores is for a job file; the service has the scores of {job_id}, if it is an "
            "attribution: leave --scores out"
        )
    asked = _asked({**fields, "iteration": options.index_of(iteration or "best")})
    with options.open_client(context) as client:
        job = client.jobs.retrieve(job_id)
        if to is not None and (lacks := shortcomings(job.record.begun)):
            typer.echo(lacks, err=True)
        found = job.retrain(**asked.model_dump())
        for path in [] if to is None else job.save_retraining(found.id, to):
            typer.echo(f"{path}  ({path.stat().st_size:,} bytes)", err=True)
    assert found.report is not None
    return found.report


def _here(
    file: Path,
    code: Path | None,
    data_roots: list[Path],
    iteration: str | None,
    scores: Path | None,
    fields: dict[str, Any],
) -> RetrainingReport:
    from drmad_client.errors import UsageError
    from drmad_client.files.influence_scores import InfluenceScores

    if iteration is not None:
        raise UsageError(
            f"--iteration is for the id of a job; a job file has none, got {iteration}"
        )
    if scores is None:
        raise UsageError(
            f"{file} is a job file, of which nothing is tuned: add --scores FILE of drmad "
            "attribute, or name the id of a job"
        )
    asked = _asked(fields)
    if asked.drop_lowest is None:
        raise UsageError("--scores needs --drop-lowest, which says how many rows are left out")
    ranked = InfluenceScores.unpack(scores.read_bytes()).of(query=asked.query)
    found: RetrainingReport = engine_function("retrain")(file, code, data_roots, asked, ranked)
    return found


def _asked(fields: dict[str, Any]) -> RetrainingSpec:
    from drmad_client.spec.side_runs.retraining import RetrainingSpec

    return options.validated(RetrainingSpec, fields)
