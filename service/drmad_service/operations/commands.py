"""Adds the service's commands to the command line `drmad`."""

from __future__ import annotations

from collections.abc import Mapping

_OPERATIONS = "drmad_service.operations"


def register() -> Mapping[str, str]:
    """Every command by its name: its module, which is imported when the command is used."""
    return {
        "up": f"{_OPERATIONS}.up_commands:up",
        "serve": f"{_OPERATIONS}.serve_command:serve",
        "schedule": f"{_OPERATIONS}.schedule_command:schedule",
        "ray-driver": f"{_OPERATIONS}.ray_driver_command:ray_driver",
        "demo": f"{_OPERATIONS}.demo:demo",
        "doctor": f"{_OPERATIONS}.doctor.command:doctor",
        "backup": f"{_OPERATIONS}.backup.backup_commands:backup",
        "restore": f"{_OPERATIONS}.backup.backup_commands:restore",
        "open": f"{_OPERATIONS}.up_commands:open_dashboard",
        "limits": f"{_OPERATIONS}.limit_commands:limits_app",
        "keys": f"{_OPERATIONS}.key_commands:keys_app",
    }
