"""The command line: `drmad ...`.

The heavy imports happen inside the commands, so that help and completion stay quick.
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
import typer.main

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from drmad_client.api import Client
    from drmad_client.records import Job

# Commands that live in an extra, and what to install where it is missing.
_EXTRAS = dict.fromkeys(("up", "open", "demo", "serve", "schedule"), 'pip install "drmad[all]"')
_EXIT_CODES = {"succeeded": 0, "failed": 1, "cancelled": 2}
_INTERRUPTED = 130


@dataclass
class Settings:
    """The options before the command; every command finds them as its context's `obj`."""

    url: str | None = None
    debug: bool = False


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class _Commands(typer.core.TyperGroup):
    """The client's own commands and those of installed packages, looked up when they are needed."""

    _has_extras = False

    def list_commands(self, ctx: Any) -> list[str]:
        self._add_extras()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self._add_extras()
        return super().get_command(ctx, cmd_name)

    def _add_extras(self) -> None:
        if self._has_extras:
            return
        self._has_extras = True
        extras, cause = typer.Typer(), None
        for entry_point in entry_points(group="drmad.commands"):
            try:
                entry_point.load()(extras)
            except ImportError as error:
                cause = error
        group = typer.main.get_group(extras)
        for name, advice in _EXTRAS.items():
            if name not in group.commands:
                _add_stand_in(extras, name, advice, cause)
        for name, command in typer.main.get_group(extras).commands.items():
            self.commands.setdefault(name, command)


def _add_stand_in(app: typer.Typer, name: str, advice: str, cause: ImportError | None) -> None:
    def command() -> None:
        from drmad_client.errors import DrmadError

        missing = f" ({cause})" if cause else ""
        raise DrmadError(
            f"drmad {name} is not installed{missing}; get it with: {advice}"
        ) from cause

    app.command(
        name,
        help=f"Not installed; get it with: {advice}".replace("[", r"\["),  # rich markup
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(command)


app = typer.Typer(
    name="drmad",
    cls=_Commands,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job, as in job_01J...")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print it.")]


@app.callback(invoke_without_command=True)
def _global_options(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(help="Where the service is; else DRMAD_URL, else this machine.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    """Tune thousands of hyperparameters of a PyTorch model by gradient.

    \b
    Examples:
      drmad up                              start everything on this machine
      drmad submit job.yaml --watch         submit a job and follow it
      drmad fetch job_01J... --to tuned     get what it found
    """
    context.obj.url, context.obj.debug = url, debug
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def submit(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON; - reads YAML.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a field; may be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check it without creating a job.")
    ] = False,
) -> None:
    """Submit a job written in a file.

    \b
    Examples:
      drmad submit job.yaml --watch
      drmad submit job.yaml --set training.steps=200 --set tags.team=vision
      drmad submit job.yaml --dry-run
    """
    from drmad_client import job_file

    spec = job_file.read(file)
    for change in changes or []:
        job_file.assign(spec, change)
    with _client(context) as client:
        if dry_run:
            client.jobs.validate(spec)
            typer.echo(f"{file} is a valid job; nothing was created")
            return
        job = client.jobs.create(spec)
        typer.echo(job.id)
        if watch:
            _follow(client, job.id)


@app.command()
def jobs(
    context: typer.Context,
    status: Annotated[
        str | None, typer.Option(help="Only these: queued, running, succeeded, failed, ...")
    ] = None,
    tag: Annotated[str | None, typer.Option(metavar="KEY:VALUE", help="Only these.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on after this one.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List jobs, the newest first.

    \b
    Examples:
      drmad jobs --status running
      drmad jobs --tag team:vision --output json
    """
    with _client(context) as client:
        page = client.jobs.list(status=status, tag=tag, after=after, limit=limit)
    if output is not Output.TABLE:
        _print_data(page.data, output)
        return
    from drmad_client.terminal import jobs_table

    _console().print(jobs_table(page.data))
    if page.has_more:
        typer.echo(f"there are more: --after {page.next}", err=True)


@app.command()
def show(context: typer.Context, job_id: JobId, output: OutputOption = Output.TABLE) -> None:
    """Show one job.

    \b
    Examples:
      drmad show job_01J...
      drmad show job_01J... --output yaml
    """
    with _client(context) as client:
        job = client.jobs.retrieve(job_id)
    if output is not Output.TABLE:
        _print_data(job, output)
        return
    from drmad_client import terminal

    _console().print(terminal.show(job))


@app.command()
def watch(context: typer.Context, job_id: JobId) -> None:
    """Follow a job to its end; Ctrl-C stops following, not the job.

    Ends with 0 when the job succeeded, 1 when it failed, 2 when it was cancelled, 130 on Ctrl-C.
    """
    with _client(context) as client:
        _follow(client, job_id)


@app.command()
def cancel(context: typer.Context, job_id: JobId) -> None:
    """End a job now; what it has committed stays."""
    with _client(context) as client:
        job = client.jobs.cancel(job_id)
    typer.echo(f"{job.id} is {job.status}")


@app.command()
def fetch(
    context: typer.Context,
    job_id: JobId,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; else ./ID.")
    ] = None,
    iteration: Annotated[
        str, typer.Option(help="Of which meta-iteration: best, last or a number.")
    ] = "best",
) -> None:
    """Write a job's hyperparameters, model, history and spec to files.

    \b
    Examples:
      drmad fetch job_01J... --to tuned
      drmad fetch job_01J... --iteration 7
    """
    with _client(context) as client:
        for path in client.jobs.save(job_id, to or Path(job_id), iteration):
            typer.echo(f"{path}  ({path.stat().st_size:,} bytes)")


@app.command()
def version() -> None:
    """Print the version of this client."""
    from drmad_client import __version__

    typer.echo(f"drmad {__version__}")


def main() -> None:
    """The `drmad` script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code."""
    settings = Settings()
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="drmad", standalone_mode=False, obj=settings)
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except Exception as error:
        if settings.debug:
            traceback.print_exc()
        print(f"error: {_explain(error)}", file=sys.stderr)
        return 1
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> str:
    from drmad_client.errors import DrmadError

    # Wrong usage; its class has no public name, and moved from click into typer.
    if hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "drmad"
        return f"{error.format_message()}\nsee: {command} --help"
    if isinstance(error, DrmadError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else str(error)
    return (
        f"unexpected {type(error).__name__}: {error}\n"
        "this should not happen; see where with: drmad --debug ..."
    )


def _client(context: typer.Context) -> Client:
    from drmad_client.api import Client

    return Client(context.obj.url)


def _console() -> Console:
    from rich.console import Console

    # What reads a pipe has no width; a cut table would be of no use to it.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _follow(client: Client, job_id: str) -> None:
    from drmad_client.terminal import follow

    job = follow(client, job_id, _console())
    raise typer.Exit(_EXIT_CODES[job.status])


def _print_data(data: BaseModel | list[Job], output: Output) -> None:
    from pydantic_core import to_json, to_jsonable_python

    if output is Output.JSON:
        typer.echo(to_json(data, indent=2, inf_nan_mode="constants").decode())
        return
    import yaml

    plain = to_jsonable_python(data, inf_nan_mode="constants")
    typer.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)
