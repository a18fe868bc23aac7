"""The operator's commands: `drmad doctor`, `backup` and `restore`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drmad_client.errors import DrmadError

if TYPE_CHECKING:  # `drmad --help` loads no Redis
    from redis.asyncio import Redis

RedisUrl = Annotated[
    str,
    typer.Option(envvar="DRMAD_REDIS_URL", help="Default: the Redis of `drmad up` in the home."),
]
Home = Annotated[Path, typer.Option(envvar="DRMAD_HOME", help="Of `drmad up`.")]
DataDir = Annotated[
    Path | None,
    typer.Option(envvar="DRMAD_DATA_DIR", help="Of uploaded data sets; default: data in the home."),
]
_HOME = Path.home() / ".drmad"


def register(app: typer.Typer) -> None:
    for command in (doctor, backup, restore):
        app.command()(command)


def doctor(
    redis_url: RedisUrl = "",
    home: Home = _HOME,
    ray_address: Annotated[
        str,
        typer.Option(envvar="DRMAD_RAY_ADDRESS", help="Of a Ray cluster; local: none to look at."),
    ] = "local",
    port: Annotated[
        int | None, typer.Option(envvar="DRMAD_PORT", help="Where the API listens or shall listen.")
    ] = None,
    data_roots: Annotated[
        list[Path], typer.Option("--data-root", envvar="DRMAD_DATA_ROOTS", help="As of schedule.")
    ] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look at versions, disk, ports, Redis and Ray, and say what to fix.

    Exits with 1 on an error.
    """
    from rich.console import Console
    from rich.markup import escape

    from drmad_service.operations.doctor import Finding, Suspects, examine

    home = home.expanduser().resolve()
    suspects = Suspects(home, redis_url or redis_of(home), ray_address, port, tuple(data_roots))
    console, found = Console(), list[Finding]()
    marks = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]", "error": "[red]error  [/]"}
    for finding in examine(suspects):
        found.append(finding)
        if not as_json:
            console.print(f"{marks[finding.level]} {finding.subject}: {escape(finding.message)}")
            if finding.advice:
                console.print(f"        [bold]{escape(finding.advice)}[/]")
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=1))
    errors = sum(finding.level == "error" for finding in found)
    if errors:
        raise DrmadError(f"{errors} of {len(found)} findings need to be fixed")


def backup(
    file: Annotated[Path, typer.Argument(help="To write; a zip.")],
    job_ids: Annotated[list[str], typer.Argument(metavar="[JOB]...", help="None for all.")] = [],  # noqa: B006
    redis_url: RedisUrl = "",
    home: Home = _HOME,
    data_dir: DataDir = None,
) -> None:
    """Write jobs with their histories, vectors, models, code and data into one file.

    Each job is as it was at one moment, also while it runs.
    """
    from drmad_service.operations import backups
    from drmad_service.store.data_folder import DataFolder, data_folder

    async def run(redis: Redis) -> None:
        data = DataFolder(data_folder(data_dir, home))
        written = await backups.write(redis, data, file, job_ids)
        typer.echo(f"{len(written)} jobs in {file} ({file.stat().st_size / 2**20:.1f} MiB)")

    _with_redis(redis_url, home, run)


def restore(
    file: Annotated[Path, typer.Argument(help="Written by `drmad backup`.")],
    job_ids: Annotated[list[str], typer.Argument(metavar="[JOB]...", help="None for all.")] = [],  # noqa: B006
    replace: Annotated[
        bool, typer.Option("--replace", help="Also jobs that exist, where they have ended.")
    ] = False,
    redis_url: RedisUrl = "",
    home: Home = _HOME,
    data_dir: DataDir = None,
) -> None:
    """Bring jobs back under their ids; those that were running go on from their last iteration.

    Exits with 1 where a job was left out.
    """
    from drmad_service.operations import backups
    from drmad_service.store import Store
    from drmad_service.store.data_folder import DataFolder, data_folder

    async def run(redis: Redis) -> None:
        outcomes = []
        data = DataFolder(data_folder(data_dir, home))
        with backups.Backup(file) as opened:
            restored = backups.restore(Store(redis), redis, data, opened, job_ids, replace)
            async for outcome in restored:
                outcomes.append(outcome)
                what = "restored" if outcome.restored else "left out"
                typer.echo(f"{outcome.job_id} {what}: {outcome.detail}")
        if left := sum(not outcome.restored for outcome in outcomes):
            raise DrmadError(f"{left} of {len(outcomes)} jobs were left out; see --replace")

    _with_redis(redis_url, home, run)


def _with_redis(redis_url: str, home: Path, use: Callable[[Redis], Awaitable[None]]) -> None:
    from redis.exceptions import RedisError

    from drmad_service.errors import ServiceStartError
    from drmad_service.store.connection import connect
    from drmad_service.store.schema import agree

    home = home.expanduser().resolve()
    url = redis_url or redis_of(home)
    if not url:
        raise ServiceStartError(f"no Redis runs in {home}; start drmad up, or give --redis-url")

    async def main() -> None:
        async with connect(url) as redis:
            await agree(redis)
            await use(redis)

    try:
        asyncio.run(main())
    except RedisError as error:
        raise ServiceStartError(f"Redis does not answer: {error}") from error


def redis_of(home: Path) -> str:
    """The URL of the Redis that `drmad up` runs in this home; empty when there is none."""
    from drmad_service.operations.embedded import EmbeddedRedis

    if not (home / "redis").is_dir():
        return ""
    redis = EmbeddedRedis(home)
    return redis.url if redis.is_running() else ""
