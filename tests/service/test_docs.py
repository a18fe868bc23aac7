"""What docs/reliability.md says is what the service does."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.main import get_command

from drmad_client.records import JobStatus
from drmad_service.commands import schedule, up
from drmad_service.transitions import TRANSITIONS

PAGE = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")


def transitions_table() -> str:
    lines = ["| action | from | to |", "|---|---|---|"]
    for action, states in TRANSITIONS.items():
        targets: dict[JobStatus, list[str]] = {}
        for before, after in states.items():
            targets.setdefault(after, []).append(f"`{before}`")
        for after, befores in targets.items():
            lines.append(f"| {action} | {', '.join(befores)} | `{after}` |")
    return "\n".join(lines)


def test_transitions_are_those_of_the_table() -> None:
    assert transitions_table() in PAGE


def test_every_setting_of_the_scheduler_is_listed_with_its_variable() -> None:
    settings = [
        f"| `{parameter.opts[0]}` | `{parameter.envvar}` |"
        for command in (schedule, up)
        for parameter in get_command(_only(command)).params
        if parameter.opts[0].endswith(("-s", "-jobs", "-gpus", "-bytes", "-memory"))
    ]
    assert len(settings) == 16
    assert [line for line in settings if line not in PAGE] == []


def _only(command: object) -> typer.Typer:
    app = typer.Typer()
    app.command()(command)  # type: ignore[type-var]
    return app
