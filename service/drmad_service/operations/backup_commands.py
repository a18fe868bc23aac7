"""`drmad backup` and `drmad restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from redis.asyncio import Redis

from drmad_client.errors import DrmadError
from drmad_service.operations import backup_writer, backups
from drmad_service.operations.options import DEFAULT_HOME, DataDir, Home, HomeRedisUrl
from drmad_service.operations.redis_access import with_redis
from drmad_service.store import Store
from drmad_service.store.data_folder import DataFolder, data_folder
from drmad_service.store.schema import agree

JobIds = Annotated[
    list[str], typer.Argument(metavar="JOB", help="Ids of the jobs; all jobs by default.")
]


def backup(
    file: Annotated[Path, typer.Argument(help="Zip file to write.")],
    job_ids: JobIds = [],  # noqa: B006 (typer reads the default and copies it)
    redis_url: HomeRedisUrl = "",
    home: Home = DEFAULT_HOME,
    data_dir: DataDir = None,
) -> None:
    """Write jobs with their histories, vectors, models, code and data to one file.

    The backup holds a consistent state of each job, also of one that runs.
    """

    async def run(redis: Redis) -> None:
        await agree(redis)
        data = DataFolder(data_folder(data_dir, home))
        written = await backup_writer.write(redis, data, file, job_ids)
        typer.echo(f"{len(written)} jobs in {file} ({file.stat().st_size / 2**20:.1f} MiB)")

    with_redis(redis_url, home, run)


def restore(
    file: Annotated[Path, typer.Argument(help="Zip file that `drmad backup` wrote.")],
    job_ids: JobIds = [],  # noqa: B006
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace existing jobs too, provided that they have ended."),
    ] = False,
    redis_url: HomeRedisUrl = "",
    home: Home = DEFAULT_HOME,
    data_dir: DataDir = None,
) -> None:
    """Restore jobs under their ids; jobs that were running continue from their last meta-iteration.

    The exit status is 1 if a job was skipped.
    """

    async def run(redis: Redis) -> None:
        await agree(redis)
        data = DataFolder(data_folder(data_dir, home))
        outcomes = []
        with backups.Backup(file) as opened:
            restored = backups.restore(Store(redis), redis, data, opened, job_ids, replace)
            async for outcome in restored:
                outcomes.append(outcome)
                what = "restored" if outcome.restored else "skipped"
                typer.echo(f"{outcome.job_id} {what}: {outcome.detail}")
        if skipped := sum(not outcome.restored for outcome in outcomes):
            raise DrmadError(f"{skipped} of {len(outcomes)} jobs were skipped; see --replace")

    with_redis(redis_url, home, run)
