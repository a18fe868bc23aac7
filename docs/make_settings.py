"""Writes settings.md from the commands' own flags: python docs/make_settings.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from drmad_service.operations.commands import schedule, serve, up
from drmad_service.store.types import UNLIMITED

INTRODUCTION = """# Settings

Written by `docs/make_settings.py`. Each setting is a flag, a variable and a default, in that order;
`drmad up` hands the variables on to both others. A name that ends in `-s` is in seconds.
"""
COMMANDS = {
    "up": (up, "everything on one machine"),
    "serve": (serve, "one API process"),
    "schedule": (schedule, "one scheduler"),
}


def page() -> str:
    """The page as it should be."""
    return INTRODUCTION + "".join(
        f"\n## `drmad {name}`: {what}\n\n{_table(command)}"
        for name, (command, what) in COMMANDS.items()
    )


def _table(command: Any) -> str:
    options = [o for o in get_command(_alone(command)).params if getattr(o, "envvar", None)]
    lines = ["| flag | variable | default | |", "|---|---|---|---|"]
    for option in options:
        flag = option.opts[0]
        default = _shown(flag, option.default)
        lines.append(f"| `{flag}` | `{option.envvar}` | {default} | {option.help} |")
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
    return f"{default:g}" if isinstance(default, float) else f"{default}"


def _alone(command: Any) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command()(command)
    return app


if __name__ == "__main__":
    Path(__file__).with_name("reference").joinpath("settings.md").write_text(page(), encoding="utf-8")
