"""Commands that control jobs: cancel, pause, resume, extend, fork, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from drmad_client.cli import inspection, options
from drmad_client.cli.options import JobId
from drmad_client.cli.output.terminal import echo

if TYPE_CHECKING:
    from drmad_client.http.job_handle import Job


def register(app: typer.Typer) -> None:
    for command in (cancel, pause, resume, extend, fork, delete):
        app.command()(command)


WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")]


def cancel(context: typer.Context, job_id: JobId) -> None:
    """Stop a job now; its committed meta-iterations stay."""
    with options.open_client(context) as client:
        _print_status(client.jobs.cancel(job_id))


def pause(context: typer.Context, job_id: JobId) -> None:
    """Stop a job after its running meta-iteration and release its resources."""
    with options.open_client(context) as client:
        _print_status(client.jobs.pause(job_id))


def resume(context: typer.Context, job_id: JobId) -> None:
    """Continue a paused job from its last committed meta-iteration."""
    with options.open_client(context) as client:
        _print_status(client.jobs.resume(job_id))


def extend(
    context: typer.Context,
    job_id: JobId,
    iterations: Annotated[
        int, typer.Option("--iterations", "-n", min=1, help="Number of meta-iterations to add.")
    ],
    watch: WatchOption = False,
) -> None:
    """Continue a job that has ended for more meta-iterations.

    \b
    Examples:
      drmad extend job_01J... --iterations 10 --watch
    """
    with options.open_client(context) as client:
        _print_status(client.jobs.extend(job_id, iterations))
        if watch:
            inspection.follow(client, job_id)


def fork(
    context: typer.Context,
    job_id: JobId,
    iteration: Annotated[
        int | None,
        typer.Option(
            min=0, help="Continue after so many meta-iterations; by default before the best."
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a field of the spec. Repeatable."),
    ] = None,
    watch: WatchOption = False,
) -> None:
    """Create a job that continues another after some meta-iterations, and print its id.

    \b
    Examples:
      drmad fork job_01J... --iteration 7 --set meta.learning_rate=0.1
    """
    from drmad_client.spec.text import job_file

    changed: dict[str, Any] = {}
    for change in changes or []:
        job_file.assign(changed, change)
    with options.open_client(context) as client:
        job = client.jobs.retrieve(job_id).fork(iteration, changed)
        echo(job.id)
        for sentence in job.record.adapted:
            echo(sentence, err=True)
        if watch:
            inspection.follow(client, job.id)


def delete(
    context: typer.Context,
    job_id: JobId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a job that has ended, with its history and its results."""
    if not yes:
        typer.confirm(f"Delete {job_id} with its history and its results?", abort=True)
    with options.open_client(context) as client:
        client.jobs.delete(job_id)
    echo(f"{job_id} was deleted")


def _print_status(job: Job) -> None:
    echo(f"{job.id} is {job.status}")
