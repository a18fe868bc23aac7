"""`drmad validate`: does the hypergradient predict what retraining does?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drmad_client.cli import options
from drmad_client.cli.engine import engine_function
from drmad_client.cli.options import CodeOption, DataRootsOption, Output, OutputOption

if TYPE_CHECKING:
    from drmad_client.records.side_runs.validation import ValidationReport
    from drmad_client.spec.side_runs.validation import ValidationSpec


def register(app: typer.Typer) -> None:
    app.command()(validate)


def validate(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE|JOB",
            help="Job file in YAML or JSON, - for standard input; or the id of a job.",
            autocompletion=options.complete_job_id,
        ),
    ],
    iteration: Annotated[
        str | None,
        typer.Option(help="Meta-iteration of a job: best, last or from 1; by default best."),
    ] = None,
    code: CodeOption = None,
    data_roots: DataRootsOption = [],  # noqa: B006 (typer reads the default and copies it)
    changes: Annotated[
        int | None,
        typer.Option(help="Training runs for every share and for every radius; by default 30."),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(help="Draws of weights and minibatches that are compared; by default 4."),
    ] = None,
    fractions: Annotated[
        list[float] | None,
        typer.Option(
            "--fraction",
            help="Share of the examples to leave out; repeatable; by default 0.01, 0.05 and 0.1.",
        ),
    ] = None,
    radii: Annotated[
        list[float] | None,
        typer.Option(
            "--radius",
            help="Length of random directions in outer steps; repeatable; by default 0.1 and 1.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the subsets and of the directions.")] = 0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Validate a hypergradient by retraining: of a job file here, of a job on the cluster.

    Trains again without random subsets of the examples, and along random directions of all other
    hyperparameters, with the same seeds, and ranks what the hypergradient predicted against what
    happened to the validation loss. It also compares the exact hypergradients of several draws of
    weights and minibatches, and tries one outer step on draws that did not choose it. A sentence
    says what the figures mean and what to change.

    \b
    Examples:
      drmad validate job.yaml
      drmad validate job.yaml --code . --changes 100 --output json
      drmad validate job_01J... --iteration last
    """
    given: dict[str, Any] = {
        "changes": changes,
        "draws": draws,
        "fractions": fractions,
        "radii": radii,
        "seed": seed,
    }
    fields = {name: value for name, value in given.items() if value not in (None, [])}
    if target.startswith("job_") and not Path(target).exists():
        report = _on_the_cluster(context, target, iteration, fields)
    else:
        report = _here(Path(target), code, data_roots, iteration, fields)
    if output is not Output.TABLE:
        options.print_data(report, output)
        return
    from drmad_client.cli.output.validation_tables import validation_table

    options.print_table(validation_table(report))


def _on_the_cluster(
    context: typer.Context, job_id: str, iteration: str | None, fields: dict[str, Any]
) -> ValidationReport:
    asked = _asked({**fields, "iteration": options.index_of(iteration or "best")})
    with options.open_client(context) as client:
        job = client.jobs.retrieve(job_id)
        return job.validate_hypergradient(**asked.model_dump())


def _here(
    file: Path,
    code: Path | None,
    data_roots: list[Path],
    iteration: str | None,
    fields: dict[str, Any],
) -> ValidationReport:
    from drmad_client.errors import UsageError

    if iteration is not None:
        raise UsageError(
            "--iteration is for the id of a job; a job file is validated at its initial "
            f"hyperparameters, got --iteration {iteration}"
        )
    found: ValidationReport = engine_function("validate")(file, code, data_roots, _asked(fields))
    return found


def _asked(fields: dict[str, Any]) -> ValidationSpec:
    from drmad_client.spec.side_runs.validation import ValidationSpec

    return options.validated(ValidationSpec, fields)
