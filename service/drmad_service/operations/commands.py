"""Adds the service's commands to the command line `drmad`."""

from __future__ import annotations

import typer

from drmad_service.operations.backup_commands import backup, restore
from drmad_service.operations.demo import demo
from drmad_service.operations.doctor.command import doctor
from drmad_service.operations.key_commands import keys_app
from drmad_service.operations.schedule_command import schedule
from drmad_service.operations.serve_command import serve
from drmad_service.operations.up_commands import open_dashboard, up


def register(app: typer.Typer) -> None:
    for command in (up, serve, schedule, demo, doctor, backup, restore):
        app.command()(command)
    app.command("open")(open_dashboard)
    app.add_typer(keys_app)
