"""`drmad schedule`: one scheduler process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from redis.exceptions import RedisError

from drmad_service import logs, traces
from drmad_service.errors import ServiceStartError
from drmad_service.flags import filled, with_settings
from drmad_service.operations.home_secrets import read_secret
from drmad_service.operations.options import (
    DEFAULT_HOME,
    DataDir,
    ExitWithParent,
    Home,
    RedisUrl,
)
from drmad_service.operations.supervisor import exit_with_parent as follow_parent
from drmad_service.scheduling.webhooks import Webhooks
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store, StoreSettings
from drmad_service.store.access.connection import connect
from drmad_service.store.files.data_folder import data_folder
from drmad_service.store.layout.schema import agree

logger = logging.getLogger(__name__)


@with_settings(SchedulerSettings, StoreSettings, webhook=Webhooks)
def schedule(
    redis_url: RedisUrl,
    data_dir: DataDir = None,
    home: Home = DEFAULT_HOME,
    webhook_secret_file: Annotated[
        Path | None,
        typer.Option(
            envvar="DRMAD_WEBHOOK_SECRET_FILE",
            help="File with the secret that signs webhook notices; required with --webhook-host.",
        ),
    ] = None,
    exit_with_parent: ExitWithParent = False,
    **flags: Any,
) -> None:
    """Run one scheduler process, which connects to Ray. Any number of them may run."""
    logs.configure(logs.from_environment())
    traces.configure("drmad-scheduler", os.environ)
    secret = _webhook_secret(flags["webhook_hosts"], webhook_secret_file)
    settings = filled(
        SchedulerSettings,
        flags,
        redis_url=redis_url,
        store=filled(StoreSettings, flags),
        webhooks=filled(Webhooks, flags, "webhook", secret=secret),
        data_dir=data_folder(data_dir, home),
    )
    from drmad_service.operations.ray_start import start_ray
    from drmad_service.scheduling.ray_cluster import RayLost

    start_ray(settings.ray_address, settings.cpus)
    try:
        asyncio.run(_schedule(settings, exit_with_parent))
    except RayLost as error:
        # Ray's own threads may hang on to the lost cluster; the supervisor restarts this process.
        logger.error("%s", error)
        os._exit(1)
    import ray

    ray.shutdown()


async def _schedule(settings: SchedulerSettings, exit_with_parent: bool) -> None:
    """Schedules jobs until SIGINT or SIGTERM."""
    from drmad_service.scheduling.scheduler import Scheduler

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    if exit_with_parent:
        follow_parent()
    async with connect(settings.redis_url, timeout_s=settings.store.redis_timeout_s) as redis:
        try:
            await agree(redis)
        except RedisError as error:  # once Redis is back, its scripts refuse another schema
            logger.warning("Redis does not answer yet: %s", error)
        await Scheduler(Store(redis, settings.store), settings).run(stopping)


def _webhook_secret(hosts: Sequence[str], file: Path | None) -> str:
    if file is not None:
        return read_secret(file)
    if hosts:
        raise ServiceStartError(
            "--webhook-host requires --webhook-secret-file: a file with one line of at least 32 "
            "characters, with which receivers verify the signatures"
        )
    return ""
