"""Commands that inspect jobs, the cluster and its use: jobs, show, watch, audit, usage, ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from drmad_client.cli import options
from drmad_client.cli.options import JobId, Output, OutputOption
from drmad_client.cli.output.terminal import echo, shown_json

if TYPE_CHECKING:
    from drmad_client.export.mirror import Mirror
    from drmad_client.http.client import Client

LogToOption = Annotated[
    list[str] | None,
    typer.Option(
        "--log-to",
        metavar="mlflow:URI|wandb:PROJECT|tensorboard:DIR",
        help="Follow the job and mirror its history in this tool. Repeatable.",
    ),
]


def register(app: typer.Typer) -> None:
    for command in (jobs, show, watch, events, logs, cluster, audit, usage):
        app.command()(command)


def jobs(
    context: typer.Context,
    status: Annotated[
        list[str] | None,
        typer.Option(
            help="List jobs in this state: queued, running, succeeded, ... Repeatable: in one of "
            "these."
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY:VALUE", help="List jobs with this tag. Repeatable."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of jobs.")] = 20,
    after: Annotated[
        str | None, typer.Option(metavar="ID", help="Continue the list after this job.")
    ] = None,
    archived: Annotated[
        bool, typer.Option("--archived", help="List the archived jobs in place of the others.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="List all jobs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List jobs, newest first.

    \b
    Examples:
      drmad jobs --status running
      drmad jobs --tag team:vision --output json
      drmad diff $(drmad jobs --quiet --limit 2)
    """
    with options.open_client(context) as client:
        shelf: Literal["only", "exclude"] = "only" if archived else "exclude"
        page = client.jobs.list(status, tag, after, 100 if everything else limit, shelf)
        records = [job.record for job in (page if everything else page.data)]
    if quiet:
        echo("\n".join(record.id for record in records))
        return
    if output is not Output.TABLE:
        options.print_data(records, output)
        return
    from drmad_client.cli.output.tables import jobs_table

    options.print_table(jobs_table(records, options.console().width))
    if page.has_more and not everything:
        echo(f"more jobs follow; list them with: --after {page.next}", err=True)


def show(context: typer.Context, job_id: JobId, output: OutputOption = Output.TABLE) -> None:
    """Show the state, progress and result of a job.

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
    from drmad_client.cli.output.tables import job_facts

    options.print_table(job_facts(job))


def watch(context: typer.Context, job_id: JobId, log_to: LogToOption = None) -> None:
    """Follow a job until it ends. Ctrl-C stops following; the job continues.

    The exit code is 0 if the job succeeded, 1 if it failed, 2 if it was cancelled, 130 on Ctrl-C.

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
    after: Annotated[
        str | None, typer.Option(metavar="ID", help="Continue after this event.")
    ] = None,
) -> None:
    """Print the events of a job as lines of JSON until it ends.

    \b
    Examples:
      drmad events job_01J... | jq -r 'select(.type == "iteration") | .data.validation_loss'
    """
    with options.open_client(context) as client:
        for event in client.jobs.events(job_id, after):
            print(shown_json(event.model_dump_json()))


def logs(
    context: typer.Context,
    job_id: JobId,
    follow_on: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue until the job has ended.")
    ] = False,
    replica: Annotated[
        int | None, typer.Option(min=0, help="Print lines of this replica only.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="ID", help="Continue after this line.")
    ] = None,
) -> None:
    """Print the output of a job's workers, and of its validations and retrainings.

    A line names what printed it: a replica, or a further worker of it as 0.1, or "validation 0".

    \b
    Examples:
      drmad logs job_01J... --follow
      drmad logs job_01J... --replica 0
    """
    with options.open_client(context) as client:
        for line in client.jobs.logs(job_id, replica, after=after, follow=follow_on):
            echo(f"{line.at:%H:%M:%S} [{line.source or line.replica}] {line.text}")


def cluster(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Show the nodes, the running jobs, and the queued jobs with their reasons.

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
    from drmad_client.cli.output.tables import cluster_table

    options.print_table(cluster_table(found))


def audit(
    context: typer.Context,
    job: Annotated[
        str | None, typer.Option(metavar="ID", help="List only what was done with this job.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="ID", help="List only what this key, scheduler or operator did."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of entries.")] = 50,
    after: Annotated[
        str | None, typer.Option(metavar="ID", help="Continue the list after this entry.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List who did what with the tenant's jobs and keys, newest first.

    \b
    Examples:
      drmad audit --limit 20
      drmad audit --job job_01JD7X8Z9T3V5W6Y7A8B9C0D1E --output json
    """
    with options.open_client(context) as client:
        page = client.audit(job, by, after, limit)
    if output is not Output.TABLE:
        options.print_data(page, output)
        return
    from drmad_client.cli.output.tables import audit_table

    options.print_table(audit_table(page.data))
    if page.has_more:
        echo(f"more: drmad audit --after {page.next}", err=True)


def usage(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Show what the tenant used, what it holds now, and its limits.

    \b
    Examples:
      drmad usage
      drmad usage --output json
    """
    with options.open_client(context) as client:
        found = client.usage()
    if output is not Output.TABLE:
        options.print_data(found, output)
        return
    from drmad_client.cli.output.tables import usage_table

    options.print_table(usage_table(found))


def follow(client: Client, job_id: str, mirrors: Sequence[Mirror] = ()) -> None:
    """Follow a job until it ends, and exit with the code of its state."""
    from drmad_client.cli.mirroring import mirrored
    from drmad_client.cli.output.live_view import follow as follow_in_terminal

    with mirrored(client, job_id, mirrors) as on_event:
        job = follow_in_terminal(client, job_id, options.console(), on_event)
    raise typer.Exit(options.EXIT_CODES[job.status])


def open_mirrors(targets: Sequence[str] | None) -> list[Mirror]:
    if not targets:
        return []
    from drmad_client.cli.mirroring import open_mirror

    return [open_mirror(target) for target in targets]
