"""The command line: `drmad ...`.

Commands import slow modules when they run, so help and completion stay fast.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from drmad_client.cli import (
    groups,
    inspection,
    job_control,
    labels,
    mirror_service,
    results,
    retraining,
    submission,
    validation,
)
from drmad_client.cli.late_command import LateCommand
from drmad_client.cli.options import GlobalOptions
from drmad_client.cli.output.terminal import echo

# Commands that need an extra, and how to install it.
_EXTRAS = dict.fromkeys(
    (
        "up",
        "open",
        "demo",
        "serve",
        "schedule",
        "keys",
        "limits",
        "doctor",
        "backup",
        "restore",
        "check",
        "attribute",
    ),
    'pip install ".[all]" in the clone',
)
# The wheel contains every package, so an extra is installed if the package that it needs is.
_NEEDS = {"drmad_service": "redis", "drmad_workers": "torch"}
_INTERRUPTED = 130
_CLOSED_PIPE = 141
_USAGE = 64
_OUT_OF_REACH = 69
"""Exit codes beside those of a job, see options.EXIT_CODES; the last two as in sysexits.h.

Wrong usage is also what a command finds after its options were parsed, and what the service refuses
as invalid: another command line is needed, not another try.
"""


class _Commands(typer.core.TyperGroup):
    """The client's own commands and those of installed packages, which are imported when used."""

    _has_extras = False

    def list_commands(self, ctx: Any) -> list[str]:
        self._add_extras()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self._add_extras()
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that runs, shows its own help, or completes its options."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, LateCommand):
            try:
                command = command.imported()
            except ImportError as error:
                command = _stand_in(args[0], error)
        return name, command, rest

    def _add_extras(self) -> None:
        if self._has_extras:
            return
        self._has_extras = True
        cause = None
        for entry_point in entry_points(group="drmad.commands"):
            needed = _NEEDS.get(entry_point.module.partition(".")[0])
            try:
                if needed and find_spec(needed) is None:
                    raise ModuleNotFoundError(f"No module named {needed!r}", name=needed)
                for name, target in entry_point.load()().items():
                    self.commands.setdefault(name, LateCommand(name, target))
            except ImportError as error:
                cause = error
        for name in _EXTRAS:
            self.commands.setdefault(name, _stand_in(name, cause))


def _stand_in(name: str, cause: ImportError | None) -> Any:
    """A command that is not installed, and says how to install it."""

    def command() -> None:
        from drmad_client.errors import DrmadError

        missing = f" ({cause})" if cause else ""
        raise DrmadError(
            f"drmad {name} is not installed{missing}; install it with: {_EXTRAS[name]}"
        ) from cause

    app = typer.Typer(add_completion=False)
    app.command(
        name,
        help=f"Not installed; install it with: {_EXTRAS[name]}".replace("[", r"\["),  # rich markup
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(command)
    return typer.main.get_command(app)


app = typer.Typer(
    name="drmad",
    cls=_Commands,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _module in (
    submission,
    groups,
    inspection,
    job_control,
    labels,
    mirror_service,
    results,
    retraining,
    validation,
):
    _module.register(app)


@app.callback(invoke_without_command=True)
def _global_options(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(help="Address of the service; by default DRMAD_URL, else this machine."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Tune thousands of hyperparameters of a PyTorch model by gradient.

    \b
    Examples:
      drmad up                              start all services on this machine
      drmad submit job.yaml --watch         submit a job and follow it
      drmad fetch job_01J... --to tuned     write its results to files
    """
    context.obj.url, context.obj.debug = url, debug
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def version() -> None:
    """Print the version of this client."""
    from drmad_client import __version__

    typer.echo(f"drmad {__version__}")


def main() -> None:
    """The `drmad` script."""
    _open_streams()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code."""
    global_options = GlobalOptions()
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="drmad", standalone_mode=False, obj=global_options)
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes at its end
        return _CLOSED_PIPE
    except Exception as error:
        if global_options.debug:
            traceback.print_exc()
        echo(f"error: {_explain(error)}", err=True)
        return _code_of(error)
    return code if isinstance(code, int) else 0


def _open_streams() -> None:
    """Lets every text be printed: to a stream of ASCII, and to one that is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _code_of(error: Exception) -> int:
    from drmad_client.errors import (
        BadRequest,
        ConnectionFailed,
        ServerError,
        UnprocessableEntity,
        UsageError,
    )

    # A refused spec is as wrong as one that the command itself refuses.
    refusals = (UsageError, BadRequest, UnprocessableEntity)
    named = (
        FileExistsError,
        FileNotFoundError,
        IsADirectoryError,
        NotADirectoryError,
        PermissionError,
    )
    if hasattr(error, "format_message") or isinstance(error, (*refusals, *named)):
        return _USAGE
    return _OUT_OF_REACH if isinstance(error, ConnectionFailed | ServerError) else 1


def _explain(error: Exception) -> str:
    from drmad_client.errors import DrmadError

    # A usage error. Its class has no public name, and it moved from click into typer.
    if hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "drmad"
        return f"{error.format_message()}\nsee: {command} --help"
    if isinstance(error, DrmadError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else str(error)
    if isinstance(error, ImportError):
        return str(error)
    return (
        f"unexpected {type(error).__name__}: {error}\n"
        "this is a bug in drmad; show the traceback with: drmad --debug ..."
    )
