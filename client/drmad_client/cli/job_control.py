"""Commands that change what becomes of a job: cancel, pause, resume, extend, fork, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from drmad_client.cli import inspection, options
from drmad_client.cli.options import JobId

if TYPE_CHECKING:
    from drmad_client.http.job_handle import Job


def register(app: typer.Typer) -> None:
    for command in (cancel, pause, resume, extend, fork, delete):
        app.command()(command)


WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")]


def cancel(context: typer.Context, job_id: JobId) -> None:
    """End a job now; what it has committed stays."""
    with options.open_client(context) as client:
        _tell(client.jobs.cancel(job_id))


def pause(context: typer.Context, job_id: JobId) -> None:
    """Finish the running meta-iteration, then give the job's place back."""
    with options.open_client(context) as client:
        _tell(client.jobs.pause(job_id))


def resume(context: typer.Context, job_id: JobId) -> None:
    """Let a paused job go on where it was."""
    with options.open_client(context) as client:
        _tell(client.jobs.resume(job_id))


def extend(
    context: typer.Context,
    job_id: JobId,
    iterations: Annotated[int, typer.Option("--iterations", "-n", min=1, help="How many more.")],
    watch: WatchOption = False,
) -> None:
    """Let a job that has ended go on for more meta-iterations.

    \b
    Examples:
      drmad extend job_01J... --iterations 10 --watch
    """
    with options.open_client(context) as client:
        _tell(client.jobs.extend(job_id, iterations))
        if watch:
            inspection.follow(client, job_id)


def fork(
    context: typer.Context,
    job_id: JobId,
    iteration: Annotated[
        int | None, typer.Option(min=0, help="Begin with this one; else with the best.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a field; may be repeated."),
    ] = None,
    watch: WatchOption = False,
) -> None:
    """Begin a new job with the state before a meta-iteration of another; prints its id.

    \b
    Examples:
      drmad fork job_01J... --iteration 7 --set meta.learning_rate=0.1
    """
    from drmad_client.spec import job_file

    changed: dict[str, Any] = {}
    for change in changes or []:
        job_file.assign(changed, change)
    with options.open_client(context) as client:
        job = client.jobs.retrieve(job_id).fork(iteration, changed)
        typer.echo(job.id)
        if watch:
            inspection.follow(client, job.id)


def delete(
    context: typer.Context,
    job_id: JobId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a job that has ended, with everything that belongs to it."""
    if not yes:
        typer.confirm(f"remove {job_id} with its history and results?", abort=True)
    with options.open_client(context) as client:
        client.jobs.delete(job_id)
    typer.echo(f"{job_id} is deleted")


def _tell(job: Job) -> None:
    typer.echo(f"{job.id} is {job.status}")
