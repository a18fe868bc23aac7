"""Commands that look at jobs: jobs, show, watch, events, logs, cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from drmad_client.cli import options
from drmad_client.cli.options import JobId, Output, OutputOption

if TYPE_CHECKING:
    from drmad_client.export.mirror import Mirror
    from drmad_client.http.client import Client

LogToOption = Annotated[
    list[str] | None,
    typer.Option(
        "--log-to",
        metavar="mlflow:URI|tensorboard:DIR",
        help="Mirror the history while following; may be repeated.",
    ),
]


def register(app: typer.Typer) -> None:
    for command in (jobs, show, watch, events, logs, cluster):
        app.command()(command)


def jobs(
    context: typer.Context,
    status: Annotated[
        str | None, typer.Option(help="Only these: queued, running, succeeded, failed, ...")
    ] = None,
    tag: Annotated[str | None, typer.Option(metavar="KEY:VALUE", help="Only these.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on after this one.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All there are.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Their ids alone.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List jobs, the newest first.

    \b
    Examples:
      drmad jobs --status running
      drmad jobs --tag team:vision --output json
      drmad diff $(drmad jobs --quiet --limit 2)
    """
    with options.open_client(context) as client:
        page = client.jobs.list(status, tag, after, 100 if everything else limit)
        records = [job.record for job in (page if everything else page.data)]
    if quiet:
        typer.echo("\n".join(record.id for record in records))
        return
    if output is not Output.TABLE:
        options.print_data(records, output)
        return
    from drmad_client.cli.tables import jobs_table

    options.print_table(jobs_table(records))
    if page.has_more and not everything:
        typer.echo(f"there are more: --after {page.next}", err=True)


def show(context: typer.Context, job_id: JobId, output: OutputOption = Output.TABLE) -> None:
    """Show one job.

    \b
    Examples:
      drmad show job_01J...
      drmad show job_01J... --output yaml
    """
    with options.open_client(context) as client:
        job = client.jobs.retrieve(job_id).record
    if output is not Output.TABLE:
        options.print_data(job, output)
        return
    from drmad_client.cli.tables import job_facts

    options.print_table(job_facts(job))


def watch(context: typer.Context, job_id: JobId, log_to: LogToOption = None) -> None:
    """Follow a job to its end; Ctrl-C stops following, not the job.

    Ends with 0 when the job succeeded, 1 when it failed, 2 when it was cancelled, 130 on Ctrl-C.

    \b
    Examples:
      drmad watch job_01J...
      drmad watch job_01J... --log-to mlflow:http://127.0.0.1:5000
    """
    mirrors = open_mirrors(log_to)
    with options.open_client(context) as client:
        follow(client, job_id, mirrors)


def events(
    context: typer.Context,
    job_id: JobId,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on after this one.")] = None,
) -> None:
    """Print what happened to a job and what happens, a line of JSON each, to its end.

    \b
    Examples:
      drmad events job_01J... | jq -r 'select(.type == "iteration") | .data.validation_loss'
    """
    with options.open_client(context) as client:
        for event in client.jobs.events(job_id, after):
            typer.echo(event.model_dump_json())


def logs(
    context: typer.Context,
    job_id: JobId,
    follow_on: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
    replica: Annotated[int | None, typer.Option(min=0, help="Only of this one.")] = None,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on after this line.")] = None,
) -> None:
    """Print what the replicas of a job printed.

    \b
    Examples:
      drmad logs job_01J... --follow
      drmad logs job_01J... --replica 0
    """
    with options.open_client(context) as client:
        for line in client.jobs.logs(job_id, replica, after=after, follow=follow_on):
            typer.echo(f"{line.at:%H:%M:%S} [{line.replica}] {line.text}")


def cluster(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Show the nodes, what runs on them, what waits and why.

    \b
    Examples:
      drmad cluster
      drmad cluster --output json
    """
    with options.open_client(context) as client:
        found = client.cluster()
    if output is not Output.TABLE:
        options.print_data(found, output)
        return
    from drmad_client.cli.tables import cluster_table

    options.print_table(cluster_table(found))


def follow(client: Client, job_id: str, mirrors: Sequence[Mirror] = ()) -> None:
    """Follow a job to its end, and end the program with its exit code."""
    from drmad_client.cli.live_view import follow as follow_in_terminal
    from drmad_client.cli.mirroring import mirrored

    with mirrored(client, job_id, mirrors) as on_event:
        job = follow_in_terminal(client, job_id, options.console(), on_event)
    raise typer.Exit(options.EXIT_CODES[job.status])


def open_mirrors(targets: Sequence[str] | None) -> list[Mirror]:
    if not targets:
        return []
    from drmad_client.cli.mirroring import open_mirror

    return [open_mirror(target) for target in targets]
