"""Writes settings.md from the commands' own flags and variables: python docs/make_settings.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from drmad_service.logs import LogSettings
from drmad_service.operations.schedule_command import schedule
from drmad_service.operations.serve_command import serve
from drmad_service.operations.up_commands import up
from drmad_service.store.jobs.placement import UNLIMITED

INTRODUCTION = """# Settings

Written by `docs/make_settings.py`. A flag overrides its variable, and a variable the default.
`drmad up` passes the variables on to the API and the scheduler. A flag that may be repeated takes
a list from its variable: paths separated by `:`, names by spaces.
"""
COMMANDS = {
    "up": (up, "the whole service on one machine"),
    "serve": (serve, "one API process"),
    "schedule": (schedule, "one scheduler process"),
}


def page() -> str:
    """The text of settings.md."""
    tables = (
        f"\n## `drmad {name}`: {what}\n\n{_table(command)}"
        for name, (command, what) in COMMANDS.items()
    )
    return INTRODUCTION + "".join(tables) + f"\n## The log of each process\n\n{_log_table()}"


def _table(command: Any) -> str:
    options = [o for o in get_command(_alone(command)).params if getattr(o, "envvar", None)]
    lines = ["| flag | variable | default | |", "|---|---|---|---|"]
    for option in options:
        flag = option.opts[0]
        default = _shown(flag, option.default)
        lines.append(f"| `{flag}` | `{option.envvar}` | {default} | {option.help} |")
    return "\n".join(lines) + "\n"


def _log_table() -> str:
    lines = ["| variable | default | |", "|---|---|---|"]
    for name, field in LogSettings.model_fields.items():
        variable = f"{LogSettings.model_config['env_prefix']}{name}".upper()
        lines.append(f"| `{variable}` | {field.default} | {field.description} |")
    return "\n".join(lines) + "\n"


def _shown(name: str, default: Any) -> str:
    if default in (None, "", [], ()):
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, Path):
        return f"`{default}`".replace(str(Path.home()), "~")
    if default == UNLIMITED:
        return "no limit"
    if name.endswith("-bytes"):
        return f"{default >> 20} MiB"
    is_whole = isinstance(default, float) and default.is_integer()
    return f"{default:.0f}" if is_whole else f"{default}"


def _alone(command: Any) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command()(command)
    return app


if __name__ == "__main__":
    Path(__file__).with_name("reference").joinpath("settings.md").write_text(
        page(), encoding="utf-8"
    )
