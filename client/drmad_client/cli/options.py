"""Options, the client and printing, which the commands share."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from drmad_client.cli.output.terminal import echo, shown_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from drmad_client.http.client import Client
    from drmad_client.spec.base import Spec

S = TypeVar("S", bound="Spec")

EXIT_CODES = {"succeeded": 0, "failed": 1, "cancelled": 2}


@dataclass
class GlobalOptions:
    """The options before the command, which every command finds in `context.obj`."""

    url: str | None = None
    debug: bool = False


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def complete_job_id(incomplete: str) -> list[tuple[str, str]]:
    """Complete the ids of recent jobs; offer none unless a service answers within a second."""
    from drmad_client.errors import DrmadError
    from drmad_client.http.client import Client

    try:
        with Client(timeout_s=1.0) as client:
            jobs = client.jobs.list(limit=100).data
    except DrmadError:
        return []
    return [(job.id, f"{job.name}, {job.status}") for job in jobs if job.id.startswith(incomplete)]


JobId = Annotated[
    str,
    typer.Argument(metavar="ID", help="Id of the job.", autocompletion=complete_job_id),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Output format.")]
CodeOption = Annotated[
    Path | None, typer.Option("--code", metavar="DIR", help="Folder with the job's own code.")
]
DataRootsOption = Annotated[
    list[Path],
    typer.Option(
        "--data-root",
        envvar="DRMAD_DATA_ROOTS",
        help="Folder that data may be read from; repeatable.",
    ),
]
IterationOption = Annotated[
    str, typer.Option(help="Meta-iteration: best, last or a number; the first has number 1.")
]


def index_of(iteration: str) -> str | int:
    """The index that the API and the SDK count from 0, of a number that commands count from 1.

    Raises:
        UsageError: the number is 0; best, last and other words are left to the API.
    """
    from drmad_client.errors import UsageError

    if not iteration.isdecimal():
        return iteration
    if int(iteration) < 1:
        raise UsageError(
            "--iteration must be best, last or at least 1, the first meta-iteration, "
            f"got {iteration}"
        )
    return int(iteration) - 1


def validated(spec: type[S], fields: dict[str, Any]) -> S:
    """The part of a spec that the options of a command state.

    Raises:
        UsageError: an option does not hold, which the message names.
    """
    from pydantic import ValidationError

    from drmad_client.errors import UsageError
    from drmad_client.records.field_errors import field_errors

    try:
        return spec.model_validate(fields)
    except ValidationError as error:
        (first, *_) = field_errors(error.errors(), fields)
        raise UsageError(f"{first.path}: {first.message}") from error


def open_client(context: typer.Context) -> Client:
    from drmad_client.http.client import Client

    return Client(context.obj.url)


def console() -> Console:
    from drmad_client.cli.output.safe_console import SafeConsole

    # A pipe has no width, and a program that reads from it needs uncut rows.
    return SafeConsole(highlight=False, width=None if sys.stdout.isatty() else 200)


def print_data(data: Any, output: Output) -> None:
    """Print records, or lists and dictionaries of records, as JSON or YAML."""
    from pydantic_core import to_json, to_jsonable_python

    if output is Output.JSON:
        print(shown_json(to_json(data, indent=2, inf_nan_mode="constants").decode()))
        return
    import yaml

    plain = to_jsonable_python(data, inf_nan_mode="constants")
    echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), end="")


def print_table(table: RenderableType) -> None:
    console().print(table)
