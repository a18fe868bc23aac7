"""Groups of jobs: their submission, and the command `group`, which shows, awaits or cancels one."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drmad_client.cli import options
from drmad_client.cli.options import Output, OutputOption
from drmad_client.cli.output.terminal import echo

if TYPE_CHECKING:
    from drmad_client.http.client import Client
    from drmad_client.http.job_handle import Job


def register(app: typer.Typer) -> None:
    app.command()(group)


def group(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="GROUP", help="Name of the group.")],
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait until all of its jobs have ended.")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel all of its jobs that have not ended.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the jobs of a group in one table: the mean over the seeds of each setting.

    The exit code is 1 if a job of the group has failed, 2 if one was cancelled, else 0.

    \b
    Examples:
      drmad submit job.yaml --seeds 5 --sweep training.learning_rate=0.01,0.1
      drmad group 5f0c2d8a91be --wait
      drmad group 5f0c2d8a91be --cancel
    """
    from drmad_client.errors import DrmadError
    from drmad_client.spec.groups import GROUP

    with options.open_client(context) as client:
        jobs = list(client.jobs.list(tag=f"{GROUP}:{name}", limit=100, archived="include"))
        if not jobs:
            raise DrmadError(f"there is no job of a group {name!r}; drmad jobs lists the jobs")
        if cancel:
            jobs = client.jobs.cancel_all([job.id for job in jobs])
        _show(client, jobs, wait, output)


def submit_group(
    client: Client, spec: dict[str, Any], seeds: int, sweep: Sequence[str], *, wait: bool
) -> None:
    """Submit the jobs of a group, and print its name and the ids of the jobs."""
    from drmad_client.spec.groups import variants

    name = uuid.uuid4().hex[:12]
    jobs = client.jobs.create_many(variants(spec, name, seeds, sweep), group=name)
    echo(f"group {name}")
    for job in jobs:
        echo(job.id)
    if wait:
        _show(client, jobs, True, Output.TABLE)


def _show(client: Client, jobs: Sequence[Job], wait: bool, output: Output) -> None:
    from drmad_client.records.group import group_rows

    if wait:
        jobs = client.jobs.wait_all([job.id for job in jobs])
    rows = group_rows(job.record for job in jobs)
    if output is not Output.TABLE:
        options.print_data(rows, output)
    else:
        from drmad_client.cli.output.tables import group_table

        options.print_table(group_table(rows))
    codes = _codes(job.record.status for job in jobs)
    if any(codes):
        raise typer.Exit(min(code for code in codes if code))


def _codes(states: Iterable[str]) -> list[int]:
    return [options.EXIT_CODES.get(status, 0) for status in states]
