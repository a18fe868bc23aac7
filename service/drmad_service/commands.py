"""The service's commands: `drmad up`, `serve`, `schedule` and `demo`."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from drmad_service.errors import ServiceStartError

Home = Annotated[
    Path, typer.Option(envvar="DRMAD_HOME", help="Folder that holds the state and the logs.")
]
Host = Annotated[str, typer.Option(envvar="DRMAD_HOST", help="Address to listen on.")]
Port = Annotated[
    int, typer.Option(envvar="DRMAD_PORT", min=1, max=65535, help="Port to listen on.")
]
RedisUrl = Annotated[
    str,
    typer.Option(
        envvar="DRMAD_REDIS_URL", help="As in redis://:password@host:6379/0 or unix:///path."
    ),
]
DataRoots = Annotated[
    list[Path],
    typer.Option(
        "--data-root",
        envvar="DRMAD_DATA_ROOTS",
        help="Folder of the workers below which jobs may read data; may be repeated.",
    ),
]
Cpus = Annotated[
    float | None,
    typer.Option(envvar="DRMAD_CPUS", min=0.1, help="CPUs that jobs may use; default: all."),
]
ExitWithParent = Annotated[bool, typer.Option("--exit-with-parent", hidden=True)]

DEFAULT_HOME = Path.home() / ".drmad"


def register(app: typer.Typer) -> None:
    """Add the service's commands to the command line."""
    for command in (up, serve, schedule):
        app.command()(command)
    from drmad_service.demo import demo

    app.command()(demo)


def up(
    home: Home = DEFAULT_HOME,
    port: Port = 8080,
    redis_url: Annotated[
        str, typer.Option(envvar="DRMAD_REDIS_URL", help="Default: a Redis of its own in the home.")
    ] = "",
    data_roots: DataRoots = [],  # noqa: B006 (typer reads the default and copies it)
    cpus: Cpus = None,
) -> None:
    """Run everything on this machine until Ctrl-C: Redis, API, scheduler and Ray.

    What is in the home survives: started again, it finds its jobs and goes on with them.
    """
    _configure_logging()
    from drmad_service.supervisor import supervise

    schedule_arguments = [part for root in data_roots for part in ("--data-root", str(root))]
    if cpus is not None:
        schedule_arguments += ["--cpus", str(cpus)]
    typer.echo(f"drmad is at http://127.0.0.1:{port}, its state and logs in {home}")
    typer.echo("Submit a job with: drmad submit examples/clean-mnist.yaml --watch")
    typer.echo("Ctrl-C stops everything; unfinished jobs go on at the next start.")
    supervise(
        home.expanduser().resolve(),
        redis_url or None,
        serve=["--port", str(port)],
        schedule=schedule_arguments,
    )


def serve(
    redis_url: RedisUrl,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    max_body_bytes: Annotated[
        int, typer.Option(envvar="DRMAD_MAX_BODY_BYTES", min=1024, help="Of a request.")
    ] = 1 << 20,
    exit_with_parent: ExitWithParent = False,
) -> None:
    """Run the API alone: stateless, any number of it."""
    _refuse_open_address(host)
    _configure_logging()
    import uvicorn

    from drmad_service.app import create_app
    from drmad_service.settings import ApiSettings
    from drmad_service.supervisor import exit_with_parent as follow_parent

    if exit_with_parent:
        follow_parent()
    uvicorn.run(
        create_app(ApiSettings(redis_url=redis_url, max_body_bytes=max_body_bytes)),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=3,
    )


def schedule(
    redis_url: RedisUrl,
    ray_address: Annotated[
        str,
        typer.Option(envvar="DRMAD_RAY_ADDRESS", help="Of a Ray cluster; local starts one here."),
    ] = "local",
    data_roots: DataRoots = [],  # noqa: B006
    cpus: Cpus = None,
    lease_s: Annotated[
        float,
        typer.Option(
            envvar="DRMAD_LEASE_S",
            min=0.5,
            help="Seconds after which a lost scheduler's jobs are taken over.",
        ),
    ] = 10.0,
    exit_with_parent: ExitWithParent = False,
) -> None:
    """Run a scheduler alone: any number of it. It holds the connection to Ray."""
    _configure_logging()
    from drmad_service.settings import SchedulerSettings
    from drmad_service.supervisor import exit_with_parent as follow_parent

    settings = SchedulerSettings(
        redis_url=redis_url,
        ray_address=ray_address,
        cpus=cpus,
        lease_s=lease_s,
        data_roots=tuple(root.expanduser().resolve() for root in data_roots),
    )
    from drmad_service.embedded import start_ray

    start_ray(settings.ray_address, settings.cpus)
    stopping = asyncio.Event()

    async def main() -> None:
        from drmad_service.connection import connect
        from drmad_service.scheduler import Scheduler
        from drmad_service.store import Store

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        if exit_with_parent:
            follow_parent()
        async with connect(settings.redis_url) as redis:
            await Scheduler(Store(redis), settings).run(stopping)

    asyncio.run(main())
    import ray

    ray.shutdown()


def _refuse_open_address(host: str) -> None:
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        raise ServiceStartError(
            f"--host must be a loopback address such as 127.0.0.1, got {host}: whoever reaches the "
            "API may submit jobs; put a proxy that authenticates in front of it"
        )


def _configure_logging() -> None:
    logging.basicConfig(
        level=os.environ.get("DRMAD_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
