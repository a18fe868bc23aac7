"""Commands that precede or create a job: init, submit, data upload, catalog."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from drmad_client.cli import inspection, options
from drmad_client.cli.options import Output, OutputOption
from drmad_client.cli.output.terminal import echo

_LISTED = 20


class Template(StrEnum):
    """What `init` writes: the folders of drmad_client/spec/templates."""

    BASIC = "basic"
    TEXT = "text"
    VISION = "vision"
    TABULAR = "tabular"
    LORA = "lora"
    HUGGING_FACE = "hugging-face"


def register(app: typer.Typer) -> None:
    app.command()(init)
    app.command()(submit)
    app.command()(catalog)
    data = typer.Typer(no_args_is_help=True, help="Manage your own data sets and weights.")
    data.command("upload")(upload_data)
    app.add_typer(data, name="data")


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to.")] = Path(),
    template: Annotated[
        Template, typer.Option(help="What to start from; see below.")
    ] = Template.BASIC,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Write a job.yaml and a my_problem.py to start from, both ready to run.

    \b
    Templates:
      basic     a small net on images of digits, with a penalty for every unit
      text      a transformer in plain torch; a weight for every text; AdamW, warm-up, clipping
      vision    a residual net, shifted images; a weight for every image; SGD, cosine
      tabular   a table with categories; a weight for every source of rows
      lora      an adapter on a language model; a weight for every source of texts
      hugging-face  a BERT on texts; a weight for every text and for every source

    All but basic have a README.md with the commands. In each, one function returns the data:
    replace it with your own. lora and hugging-face need the extra huggingface.

    \b
    Examples:
      drmad init
      drmad init --template text reviews
      drmad check job.yaml --code .         test the problem in this process
      drmad submit job.yaml --code . -w     tune it on the service
    """
    from drmad_client.spec.text import job_file

    for path in job_file.write_template(folder, template, overwrite=force):
        echo(path)


def submit(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Spec in YAML or JSON; - reads YAML from standard input."
        ),
    ],
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a field of the spec. Repeatable."),
    ] = None,
    code: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of your own code, which is uploaded and set as problem.code.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate the spec without creating a job.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Run the preflight on a worker without creating a job.")
    ] = False,
    log_to: inspection.LogToOption = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Submit a group of jobs, one for each seed.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH=VALUE,VALUE",
            help="Submit a group of jobs, one for each value; repeatable, for a grid.",
        ),
    ] = None,
) -> None:
    """Submit the job that a file describes, and print its id.

    \b
    Examples:
      drmad submit job.yaml --watch
      drmad submit job.yaml --set training.steps=200 --set tags.team=vision
      drmad submit job.yaml --code .        your own model, with my_problem.py next to job.yaml
      drmad submit job.yaml --dry-run
      drmad submit job.yaml --check         prove the gradients, predict time and memory
      drmad submit job.yaml --log-to tensorboard:runs
      drmad submit job.yaml --seeds 5 --sweep training.learning_rate=0.01,0.1
    """
    from drmad_client.spec.text import job_file

    spec = job_file.read(file)
    for change in changes or []:
        job_file.assign(spec, change)
    with options.open_client(context) as client:
        if code is not None:
            job_file.assign(spec, f"problem.code={client.code.upload(code)}")
            say_what_was_left_out(code)
        if dry_run:
            client.jobs.validate(spec)
            echo(f"{file} is a valid job; no job was created")
            return
        if check:
            from drmad_client.cli.preflight import print_report
            from drmad_client.spec.job import JobSpec

            report = client.jobs.check(spec)
            print_report(report, JobSpec.model_validate(spec).preflight)
            return
        if seeds is not None or sweep:
            from drmad_client.cli.groups import submit_group

            submit_group(client, spec, seeds or 1, sweep or [], wait=watch)
            return
        mirrors = inspection.open_mirrors(log_to)  # a wrong name is reported before the job exists
        job = client.jobs.create(spec)
        echo(job.id)
        waiting = job.record.waiting
        if waiting is not None and waiting.impossible is not None:
            echo(f"the job waits for other nodes: {job.record.message}", err=True)
        if watch or mirrors:
            inspection.follow(client, job.id, mirrors)


def say_what_was_left_out(code: Path) -> None:
    """Print what the archive of a folder does not hold, on standard error."""
    from drmad_client.files.code_archive import IGNORE_FILE, left_out

    if names := left_out(code):
        more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
        listed = ", ".join(names[:_LISTED])
        echo(f"left out of the code: {listed}{more}; {IGNORE_FILE} changes it", err=True)


def upload_data(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="npz, safetensors, CSV or Parquet file.")
    ],
) -> None:
    """Upload a data set or weights, and print the name for the spec of a job.

    As data, a model of the catalog needs the arrays `inputs` (examples, ...) and `targets`
    (examples,). Your own code may use any names. Weights are a state dict in safetensors.

    \b
    Examples:
      drmad data upload mine.npz
      drmad submit job.yaml --set problem.data.data=$(drmad data upload mine.npz)
      drmad submit job.yaml --set problem.weights=$(drmad data upload weights.safetensors)
    """
    with options.open_client(context) as client:
        echo(client.data.upload(file))


def catalog(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List the built-in models, data sets, kinds of hyperparameters and methods.

    \b
    Examples:
      drmad catalog
      drmad catalog --output json           all options, and the JSON schema of a job
    """
    with options.open_client(context) as client:
        offered = client.catalog()
    if output is not Output.TABLE:
        options.print_data(offered, output)
        return
    from drmad_client.cli.output.tables import catalog_table

    options.print_table(catalog_table(offered))
