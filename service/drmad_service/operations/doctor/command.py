"""The command `drmad doctor`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console
from rich.markup import escape

from drmad_client.errors import DrmadError
from drmad_service.flags import filled, with_settings
from drmad_service.operations.doctor import machine
from drmad_service.operations.doctor.artifact_store import examine_artifacts
from drmad_service.operations.doctor.finding import Finding
from drmad_service.operations.doctor.ray_cluster import examine_driver, examine_ray
from drmad_service.operations.doctor.redis_server import examine_redis
from drmad_service.operations.options import (
    DEFAULT_HOME,
    ArtifactsOptionsFile,
    ArtifactsUrl,
    DataDir,
    Home,
    HomeRedisUrl,
    artifact_location,
)
from drmad_service.operations.redis_access import home_redis_url
from drmad_service.settings import DATA_ROOTS, RAY_ADDRESS, RAY_DRIVER, Folders
from drmad_service.store.files.data_folder import data_folder
from drmad_workers.artifacts.store import ArtifactLocation

_MARKS = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]", "error": "[red]error  [/]"}


@dataclass(frozen=True)
class Installation:
    """What the doctor examines."""

    home: Path
    redis_url: str
    port: int | None = None
    ray_address: str = RAY_ADDRESS
    ray_driver: str = RAY_DRIVER
    data_roots: Folders = DATA_ROOTS
    artifacts: ArtifactLocation | None = Field(default=None, repr=False)
    """None if the artifacts would be in a folder that this machine does not have."""


@with_settings(Installation)
def doctor(
    redis_url: HomeRedisUrl = "",
    home: Home = DEFAULT_HOME,
    port: Annotated[
        int | None,
        typer.Option(envvar="DRMAD_PORT", help="Port on which the API listens, or will listen."),
    ] = None,
    data_dir: DataDir = None,
    artifacts_url: ArtifactsUrl = "",
    artifacts_options_file: ArtifactsOptionsFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    **flags: Any,
) -> None:
    """Examine versions, disks, the port, Redis and Ray, and advise on what to fix.

    The exit status is 1 if a finding is an error.
    """
    home = home.expanduser().resolve()
    location = artifact_location(artifacts_url, artifacts_options_file)
    if location is None and (folder := data_folder(data_dir, home)).is_dir():
        location = ArtifactLocation(str(folder))
    installation = filled(
        Installation,
        flags,
        home=home,
        redis_url=redis_url or home_redis_url(home),
        port=port,
        artifacts=location,
    )
    console, findings = Console(), list[Finding]()
    for finding in examine(installation):
        findings.append(finding)
        if not as_json:
            console.print(f"{_MARKS[finding.level]} {finding.subject}: {escape(finding.message)}")
            if finding.advice:
                console.print(f"        [bold]{escape(finding.advice)}[/]")
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    errors = sum(finding.level == "error" for finding in findings)
    if errors:
        raise DrmadError(f"{errors} of {len(findings)} findings need to be fixed")


def examine(installation: Installation) -> Iterator[Finding]:
    """All findings, in the order of the time that they take."""
    yield from machine.versions()
    is_driven = bool(installation.ray_driver)
    own_ray = installation.ray_address == "local" and not is_driven and machine.has_ray()
    # A container of the API or the scheduler keeps nothing: Redis, Ray and the data lie elsewhere.
    if installation.redis_url == home_redis_url(installation.home):
        yield from machine.home_disk(installation.home)
    if own_ray:
        yield from machine.ray_disks()
        yield machine.confinement()
    yield from machine.local_key_mode(installation.home)
    yield from machine.data_roots(installation.data_roots, on_this_machine=own_ray)
    if installation.port is not None:
        yield machine.port(installation.port)
    if installation.artifacts is not None:
        yield examine_artifacts(installation.artifacts)
    yield from asyncio.run(examine_redis(installation.redis_url))
    if is_driven:
        yield examine_driver(installation.ray_driver)
    else:
        yield from examine_ray(installation.ray_address)
