"""`drmad schedule`: one scheduler process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
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
    ArtifactsOptionsFile,
    ArtifactsUrl,
    DataDir,
    ExitWithParent,
    Home,
    RedisUrl,
    artifact_location,
)
from drmad_service.operations.ray_driver_command import host_and_port
from drmad_service.operations.supervisor import exit_with_parent as follow_parent
from drmad_service.ray_driver.connection import RayDriver
from drmad_service.ray_driver.sockets import cluster_token
from drmad_service.scheduling.notifications.mail import Mail
from drmad_service.scheduling.notifications.webhooks import Webhooks
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store, StoreSettings
from drmad_service.store.access.connection import connect
from drmad_service.store.files.data_folder import data_folder
from drmad_service.store.layout.schema import agree

logger = logging.getLogger(__name__)


@with_settings(SchedulerSettings, StoreSettings, webhook=Webhooks, mail=Mail)
def schedule(
    redis_url: RedisUrl = "",
    data_dir: DataDir = None,
    artifacts_url: ArtifactsUrl = "",
    artifacts_options_file: ArtifactsOptionsFile = None,
    artifacts_worker_options_file: Annotated[
        Path | None,
        typer.Option(
            envvar="DRMAD_ARTIFACTS_WORKER_OPTIONS_FILE",
            help="The same for the workers, whose credentials the code of jobs can read; by "
            "default they get those of the scheduler.",
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    webhook_secret_file: Annotated[
        Path | None,
        typer.Option(
            envvar="DRMAD_WEBHOOK_SECRET_FILE",
            help="File with the secret that signs webhook notices; required with --webhook-host.",
        ),
    ] = None,
    mail_password_file: Annotated[
        Path | None,
        typer.Option(
            envvar="DRMAD_MAIL_PASSWORD_FILE",
            help="File with the password of --mail-user at the mail server.",
        ),
    ] = None,
    exit_with_parent: ExitWithParent = False,
    **flags: Any,
) -> None:
    """Run one scheduler process, which connects to Ray. Any number of them may run."""
    logs.configure(logs.from_environment())
    traces.configure("drmad-scheduler", os.environ)
    password = _mail_password(mail_password_file)
    secret = _webhook_secret(flags["webhook_hosts"], webhook_secret_file)
    settings = filled(
        SchedulerSettings,
        flags,
        redis_url=redis_url,
        store=filled(StoreSettings, flags),
        webhooks=filled(Webhooks, flags, "webhook", secret=secret),
        mail=filled(Mail, flags, "mail", password=password),
        data_dir=data_folder(data_dir, home),
        artifacts=artifact_location(artifacts_url, artifacts_options_file),
        worker_artifacts=artifact_location(
            artifacts_url, artifacts_worker_options_file or artifacts_options_file
        ),
    )
    files = [webhook_secret_file, mail_password_file, *_url_files()]
    files += [artifacts_options_file, artifacts_worker_options_file]  # workers get theirs by value
    hidden = [home.expanduser().resolve(), *(file.resolve() for file in files if file)]
    closed = [path for path in hidden if path.exists()]
    asyncio.run(_schedule(settings, closed, exit_with_parent))


async def _schedule(
    settings: SchedulerSettings, closed: Sequence[Path], exit_with_parent: bool
) -> None:
    """Schedules jobs until SIGINT or SIGTERM.

    Args:
        closed: folders and files that user code may not open.
    Raises:
        ServiceStartError: Ray could not be reached, or is lost; the supervisor starts another one.
    """
    from drmad_service.scheduling.scheduler import Scheduler

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    if exit_with_parent:
        follow_parent()
    async with (
        _driver(settings, closed) as driver,
        connect(settings.redis_url, timeout_s=settings.store.redis_timeout_s) as redis,
    ):
        try:
            await agree(redis)
        except RedisError as error:  # once Redis is back, its scripts refuse another schema
            logger.warning("Redis does not answer yet: %s", error)
        store = Store(redis, settings.store, artifacts=settings.artifact_location.open())
        await Scheduler(store, settings, driver).run(stopping)


def _driver(
    settings: SchedulerSettings, closed: Sequence[Path]
) -> AbstractAsyncContextManager[RayDriver]:
    from drmad_service.ray_driver.launch import Workers, connected, launched

    if settings.ray_driver:
        host, port = host_and_port(settings.ray_driver, "--ray-driver")
        return connected(host, port, cluster_token(os.environ))
    readable = [settings.data_dir, *settings.data_roots]
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    writable = []
    if (folder := settings.artifact_location.open().folder) is not None:
        writable = [folder / "jobs"]
        writable[0].mkdir(parents=True, exist_ok=True, mode=0o700)
    workers = Workers(
        settings.worker_variables,
        closed,
        readable,
        writable,
        settings.worker_user,
        settings.warm_workers,
    )
    return launched(settings.ray_address, settings.cpus, workers)


def _url_files() -> Iterator[Path]:
    if file := os.environ.get("DRMAD_REDIS_URL_FILE"):
        yield Path(file)


def _mail_password(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceStartError(f"cannot read the password from {file}: {error}") from error


def _webhook_secret(hosts: Sequence[str], file: Path | None) -> str:
    if file is not None:
        return read_secret(file)
    if hosts:
        raise ServiceStartError(
            "--webhook-host requires --webhook-secret-file: a file with one line of at least 32 "
            "characters, with which receivers verify the signatures"
        )
    return ""
