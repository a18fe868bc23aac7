"""Options that several of the operator's commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from drmad_service.errors import ServiceStartError
from drmad_service.operations.redis_access import url_in_file
from drmad_workers.artifacts.artifact import ArtifactError
from drmad_workers.artifacts.store import ArtifactLocation, ArtifactStore


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


def _given(url: str) -> str:
    url = url or url_in_file()
    if not url:
        raise typer.BadParameter(
            "give the URL of Redis by --redis-url, DRMAD_REDIS_URL or a file named by "
            "DRMAD_REDIS_URL_FILE"
        )
    return url


RedisUrl = Annotated[
    str,
    typer.Option(
        envvar="DRMAD_REDIS_URL",
        callback=_given,
        show_default=False,
        help="URL of Redis: redis://:password@host:6379/0 or unix:///path; by default the line in "
        "the file that DRMAD_REDIS_URL_FILE names, which keeps the password out of the "
        "environment. Required.",
    ),
]
HomeRedisUrl = Annotated[
    str,
    typer.Option(
        envvar="DRMAD_REDIS_URL",
        help="URL of Redis; by default the line in the file that DRMAD_REDIS_URL_FILE names, or "
        "the Redis that `drmad up` runs in the home.",
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
ArtifactsUrl = Annotated[
    str,
    typer.Option(
        envvar="DRMAD_ARTIFACTS_URL",
        help="Where large models, checkpoints and vectors are kept: a folder that the API and the "
        "workers share, s3://bucket/prefix, gs:// or az://; by default the folder of uploads.",
    ),
]
ArtifactsOptionsFile = Annotated[
    Path | None,
    typer.Option(
        envvar="DRMAD_ARTIFACTS_OPTIONS_FILE",
        help="JSON file with what fsspec's file system of the URL takes, such as endpoint and "
        "credentials; without it each process finds its own, as the vendor's tools do.",
    ),
]
ExitWithParent = Annotated[bool, typer.Option("--exit-with-parent", hidden=True)]


def artifact_location(url: str, options_file: Path | None) -> ArtifactLocation | None:
    """The artifact store of the options; None without a URL.

    Raises:
        ServiceStartError: the file cannot be read, or holds no JSON object.
    """
    if not url:
        return None
    if "://" not in url:
        url = str(Path(url).expanduser().resolve())
    if options_file is None:
        return ArtifactLocation(url)
    try:
        options = json.loads(options_file.read_text())
    except (OSError, ValueError) as error:
        raise ServiceStartError(
            f"expected a JSON object with the options of the artifact store in {options_file}: "
            f"{error}"
        ) from error
    if not isinstance(options, dict):
        raise ServiceStartError(
            f"expected a JSON object with the options of the artifact store in {options_file}, "
            f"got {type(options).__name__}"
        )
    return ArtifactLocation(url, options)


def opened_artifacts(url: str, options_file: Path | None, folder: Path) -> ArtifactStore:
    """The artifact store of the options, or the folder of uploads.

    Raises:
        ServiceStartError: it cannot be used as stated.
    """
    location = artifact_location(url, options_file) or ArtifactLocation(str(folder))
    try:
        return location.open()
    except ArtifactError as error:
        raise ServiceStartError(str(error)) from error
