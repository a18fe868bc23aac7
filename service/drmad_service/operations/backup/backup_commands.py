"""`drmad backup` and `drmad restore`."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from redis.asyncio import Redis

from drmad_client.errors import DrmadError
from drmad_service.errors import DiskRefuses
from drmad_service.operations.backup import backup_writer, backups
from drmad_service.operations.options import (
    DEFAULT_HOME,
    ArtifactsOptionsFile,
    ArtifactsUrl,
    DataDir,
    Home,
    HomeRedisUrl,
    opened_artifacts,
)
from drmad_service.operations.redis_access import with_redis
from drmad_service.store import Store
from drmad_service.store.files.data_folder import DataFolder, data_folder
from drmad_service.store.layout.schema import agree

STANDARD = Path("-")

JobIds = Annotated[
    list[str], typer.Argument(metavar="JOB", help="Ids of the jobs; all jobs by default.")
]


def backup(
    file: Annotated[
        Path, typer.Argument(help="Zip file to write; - writes to the standard output.")
    ],
    job_ids: JobIds = [],  # noqa: B006 (typer reads the default and copies it)
    redis_url: HomeRedisUrl = "",
    home: Home = DEFAULT_HOME,
    data_dir: DataDir = None,
    artifacts_url: ArtifactsUrl = "",
    artifacts_options_file: ArtifactsOptionsFile = None,
) -> None:
    """Write jobs with their histories, vectors, models, code and data to one file.

    The backup holds a consistent state of each job, also of one that runs.
    """
    if file == STANDARD and sys.stdout.isatty():
        raise DrmadError("the standard output is a terminal; redirect it: drmad backup - > all.zip")

    async def run(redis: Redis) -> None:
        await agree(redis)
        folder = data_folder(data_dir, home)
        data = DataFolder(folder)
        artifacts = opened_artifacts(artifacts_url, artifacts_options_file, folder)
        if file == STANDARD:
            written = await backup_writer.write_to(
                redis, data, sys.stdout.buffer, job_ids, artifacts
            )
            typer.echo(f"{len(written)} jobs written", err=True)
        else:
            written = await backup_writer.write(redis, data, file, job_ids, artifacts)
            typer.echo(f"{len(written)} jobs in {file} ({file.stat().st_size / 2**20:.1f} MiB)")

    with_redis(redis_url, home, run)


def restore(
    file: Annotated[
        Path,
        typer.Argument(help="Zip file that `drmad backup` wrote; - reads the standard input."),
    ],
    job_ids: JobIds = [],  # noqa: B006
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace existing jobs too, provided that they have ended."),
    ] = False,
    redis_url: HomeRedisUrl = "",
    home: Home = DEFAULT_HOME,
    data_dir: DataDir = None,
    artifacts_url: ArtifactsUrl = "",
    artifacts_options_file: ArtifactsOptionsFile = None,
) -> None:
    """Restore jobs under their ids; jobs that were running continue from their last meta-iteration.

    The exit status is 1 if a job was skipped.
    """

    async def run(redis: Redis) -> None:
        await agree(redis)
        folder = data_folder(data_dir, home)
        data = DataFolder(folder)
        artifacts = opened_artifacts(artifacts_url, artifacts_options_file, folder)
        outcomes = []
        with _opened(file, folder) as opened:
            restored = backups.restore(
                Store(redis, artifacts=artifacts), redis, data, opened, job_ids, replace, artifacts
            )
            async for outcome in restored:
                outcomes.append(outcome)
                what = "restored" if outcome.restored else "skipped"
                typer.echo(f"{outcome.job_id} {what}: {outcome.detail}")
            if not job_ids:
                for tenant in await backups.restore_limits(redis, opened, replace):
                    typer.echo(f"limits of tenant {tenant} restored")
        if skipped := sum(not outcome.restored for outcome in outcomes):
            raise DrmadError(f"{skipped} of {len(outcomes)} jobs were skipped; see --replace")

    with_redis(redis_url, home, run)


@contextlib.contextmanager
def _opened(file: Path, folder: Path) -> Iterator[backups.Backup]:
    """The backup in a file, or in the standard input, which is kept in `folder` meanwhile."""
    if file != STANDARD:
        with backups.Backup(file) as backup:
            yield backup
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            with backups.Backup(copy) as backup:
                yield backup
    except OSError as error:
        raise DiskRefuses(error) from error
