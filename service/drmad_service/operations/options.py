"""Options that several of the operator's commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _default_home() -> Path:
    try:
        return Path.home() / ".drmad"
    except RuntimeError:  # the user has no home: a folder of the present one is at least visible
        return Path(".drmad").resolve()


DEFAULT_HOME = _default_home()

Home = Annotated[
    Path,
    typer.Option(
        envvar="DRMAD_HOME", help="Folder of `drmad up` that holds the service's state and logs."
    ),
]
Host = Annotated[
    str, typer.Option(envvar="DRMAD_HOST", help="Address on which the service listens.")
]
Port = Annotated[
    int,
    typer.Option(envvar="DRMAD_PORT", min=1, max=65535, help="Port on which the service listens."),
]
RedisUrl = Annotated[
    str,
    typer.Option(
        envvar="DRMAD_REDIS_URL",
        help="URL of Redis: redis://:password@host:6379/0 or unix:///path.",
    ),
]
HomeRedisUrl = Annotated[
    str,
    typer.Option(
        envvar="DRMAD_REDIS_URL",
        help="URL of Redis; by default the Redis that `drmad up` runs in the home.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="DRMAD_DATA_DIR",
        help="Folder of uploaded data sets, which the API and the workers share; by default the "
        "folder data in the home.",
    ),
]
ExitWithParent = Annotated[bool, typer.Option("--exit-with-parent", hidden=True)]
