"""The command that changes the labels of jobs: edit."""

from __future__ import annotations

from typing import Annotated

import typer

from drmad_client.cli import options
from drmad_client.cli.output.terminal import echo


def register(app: typer.Typer) -> None:
    app.command()(edit)


def edit(
    context: typer.Context,
    job_ids: Annotated[
        list[str],
        typer.Argument(
            metavar="ID...", help="Ids of jobs.", autocompletion=options.complete_job_id
        ),
    ],
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    note: Annotated[str | None, typer.Option(help='New note; "" removes it.')] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY:VALUE", help="Set this tag. Repeatable."),
    ] = None,
    untag: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Remove this tag. Repeatable.")
    ] = None,
    archived: Annotated[
        bool | None,
        typer.Option("--archive/--unarchive", help="Leave the jobs out of lists, or list them."),
    ] = None,
) -> None:
    """Rename jobs, change their notes or tags, or archive them; their results stay.

    \b
    Examples:
      drmad edit job_01J... --name "digits, 40 % wrong" --note "the run of the report"
      drmad edit job_01J... --tag team:vision --untag draft
      drmad edit $(drmad jobs --status failed --all --quiet) --archive
    """
    tags = _tags(tag or [], untag or [])
    if name is None and note is None and not tags and archived is None:
        raise typer.BadParameter(
            "nothing to change: give --name, --note, --tag, --untag, --archive or --unarchive"
        )
    with options.open_client(context) as client:
        for job_id in job_ids:
            job = client.jobs.update(
                job_id, name=name, note=note, tags=tags or None, archived=archived
            )
            echo(f"{job.id} {_summary(job.record.name, job.record.tags)}{_place(archived)}")


def _tags(given: list[str], removed: list[str]) -> dict[str, str | None]:
    tags: dict[str, str | None] = dict.fromkeys(removed)
    for each in given:
        key, colon, value = each.partition(":")
        if not colon or not key:
            raise typer.BadParameter(f"expected KEY:VALUE, as in team:vision, got {each!r}")
        if key in tags:
            raise typer.BadParameter(f"the tag {key!r} is given twice; give each key once")
        tags[key] = value
    return tags


def _summary(name: str, tags: dict[str, str]) -> str:
    listed = " ".join(f"{key}:{value}" for key, value in tags.items())
    return f"{name} [{listed}]" if listed else name


def _place(archived: bool | None) -> str:
    if archived is None:
        return ""
    return ", archived" if archived else ", listed again"
