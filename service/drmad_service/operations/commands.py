"""The service's commands: `drmad up`, `open`, `serve`, `schedule`, `keys` and `demo`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from drmad_service.flags import filled, with_settings
from drmad_service.job_limits import Bounds
from drmad_service.scheduling.webhooks import Webhooks
from drmad_service.settings import ApiSettings, SchedulerSettings, SupervisorSettings
from drmad_service.store import StoreSettings
from drmad_service.store.data_folder import data_folder

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
DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="DRMAD_DATA_DIR",
        help="Folder of uploaded data sets, which API and workers share; default: data in the "
        "home.",
    ),
]
AllowRequirements = Annotated[
    bool,
    typer.Option(
        "--allow-requirements",
        envvar="DRMAD_ALLOW_REQUIREMENTS",
        help="Jobs may have packages of PyPI installed on the workers, for themselves alone.",
    ),
]
WebhookHosts = Annotated[
    list[str],
    typer.Option(
        "--webhook-host",
        envvar="DRMAD_WEBHOOK_HOSTS",
        help="Host that jobs may notify of their end, *.example.com for all below it; may be "
        "repeated.",
    ),
]
WebhookPrivate = Annotated[
    bool,
    typer.Option(
        "--webhook-private",
        envvar="DRMAD_WEBHOOK_PRIVATE",
        help="Let webhooks lead to private addresses, and by plain http.",
    ),
]
ExitWithParent = Annotated[bool, typer.Option("--exit-with-parent", hidden=True)]

DEFAULT_HOME = Path.home() / ".drmad"


def register(app: typer.Typer) -> None:
    """Add the service's commands to the command line."""
    for command in (up, serve, schedule):
        app.command()(command)
    app.command("open")(open_dashboard)
    from drmad_service.operations.demo import demo

    app.command()(demo)
    from drmad_service.operations import maintenance
    from drmad_service.operations.key_commands import keys_app

    app.add_typer(keys_app)
    maintenance.register(app)


@with_settings(SupervisorSettings)
def up(
    home: Home = DEFAULT_HOME,
    port: Port = 8080,
    redis_url: Annotated[
        str, typer.Option(envvar="DRMAD_REDIS_URL", help="Default: a Redis of its own in the home.")
    ] = "",
    data_roots: DataRoots = [],  # noqa: B006 (typer reads the default and copies it)
    data_dir: DataDir = None,
    allow_requirements: AllowRequirements = False,
    cpus: Cpus = None,
    max_memory: Annotated[
        int,
        typer.Option(
            envvar="DRMAD_MAX_MEMORY",
            min=0,
            help="MiB that our own Redis may hold; new jobs are refused above 80 %, 0 never does.",
        ),
    ] = 2048,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", envvar="DRMAD_NO_BROWSER", help="Open no browser.")
    ] = False,
    **flags: Any,
) -> None:
    """Run everything on this machine until Ctrl-C: Redis, API, scheduler and Ray.

    What is in the home survives: started again, it finds its jobs and goes on with them.
    """
    _configure_logging()
    from drmad_service.operations.supervisor import supervise

    schedule_arguments = [part for root in data_roots for part in ("--data-root", str(root))]
    if cpus is not None:
        schedule_arguments += ["--cpus", str(cpus)]
    home = home.expanduser().resolve()
    shared = ["--data-dir", str(data_folder(data_dir, home))]
    schedule_arguments += shared
    link = sign_in_link(home, port)
    typer.echo(f"drmad is at http://127.0.0.1:{port}, its state and logs in {home}")
    typer.echo(f"Sign in (once, within the hour): {link}")
    typer.echo("Submit a job with: drmad submit examples/clean-mnist.yaml --watch")
    typer.echo("Ctrl-C stops everything; unfinished jobs go on at the next start.")
    if not no_browser:
        _open_when_ready(port, link)
    supervise(
        home,
        redis_url or None,
        serve=[
            "--port",
            str(port),
            *shared,
            *(["--allow-requirements"] if allow_requirements else []),
        ],
        schedule=schedule_arguments,
        settings=filled(SupervisorSettings, flags),
        max_memory_bytes=max_memory << 20,
    )


def open_dashboard(home: Home = DEFAULT_HOME, port: Port = 8080) -> None:
    """Print a link that signs in to the dashboard of `drmad up`, and open it."""
    link = sign_in_link(home.expanduser().resolve(), port)
    typer.echo(link)
    _open(link)


def sign_in_link(home: Path, port: int) -> str:
    """Carries a ticket that works once, in the part of the address that is never sent or logged."""
    from drmad_service.api.auth.api_keys import issue_ticket
    from drmad_service.operations import local_key

    return f"http://127.0.0.1:{port}/sign-in#ticket={issue_ticket(local_key.ensure(home))}"


@with_settings(ApiSettings, StoreSettings, max=Bounds, webhook=Webhooks)
def serve(
    redis_url: RedisUrl,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="DRMAD_KEY_FILE",
            help="Holds the key that callers need; without one, all of this machine may call.",
        ),
    ] = None,
    allowed_hosts: Annotated[
        list[str],
        typer.Option(
            "--allowed-host",
            envvar="DRMAD_ALLOWED_HOSTS",
            help="Name under which the service is reached besides localhost; may be repeated, "
            "* allows any.",
        ),
    ] = [],  # noqa: B006
    webhook_hosts: WebhookHosts = [],  # noqa: B006
    webhook_private: WebhookPrivate = False,
    data_dir: DataDir = None,
    allow_requirements: AllowRequirements = False,
    home: Home = DEFAULT_HOME,
    exit_with_parent: ExitWithParent = False,
    **flags: Any,
) -> None:
    """Run the API alone: stateless, any number of it."""
    from drmad_service.operations.key_commands import is_loopback, refuse_unguarded

    refuse_unguarded(host, redis_url, has_key=key_file is not None)
    _configure_logging()
    _configure_traces("drmad-api")
    from drmad_service.api.app import create_app
    from drmad_service.api.server import Server
    from drmad_service.api.server import serve as run
    from drmad_service.operations import local_key
    from drmad_service.operations.supervisor import exit_with_parent as follow_parent

    settings = filled(
        ApiSettings,
        flags,
        redis_url=redis_url,
        local_key=local_key.from_file(key_file) if key_file else None,
        hosts=tuple(allowed_hosts),
        open_without_keys=is_loopback(host),
        store=filled(StoreSettings, flags),
        bounds=filled(Bounds, flags, "max"),
        webhooks=filled(
            Webhooks, flags, "webhook", hosts=tuple(webhook_hosts), private=webhook_private
        ),
        allow_requirements=allow_requirements,
        data_dir=data_folder(data_dir, home),
    )
    if exit_with_parent:
        follow_parent()
    run(Server(create_app(settings), settings, host, port))


@with_settings(SchedulerSettings, StoreSettings, webhook=Webhooks)
def schedule(
    redis_url: RedisUrl,
    ray_address: Annotated[
        str,
        typer.Option(envvar="DRMAD_RAY_ADDRESS", help="Of a Ray cluster; local starts one here."),
    ] = "local",
    data_roots: DataRoots = [],  # noqa: B006
    data_dir: DataDir = None,
    home: Home = DEFAULT_HOME,
    cpus: Cpus = None,
    webhook_hosts: WebhookHosts = [],  # noqa: B006
    webhook_private: WebhookPrivate = False,
    webhook_secret_file: Annotated[
        Path | None,
        typer.Option(
            envvar="DRMAD_WEBHOOK_SECRET_FILE",
            help="Holds what signs the notices; needed where a webhook host is allowed.",
        ),
    ] = None,
    replica_memory: Annotated[
        int,
        typer.Option(
            envvar="DRMAD_REPLICA_MEMORY",
            min=0,
            help="MiB that a replica without a GPU may allocate where its job says nothing; 0 for "
            "all there is.",
        ),
    ] = 0,
    heartbeat_file: Annotated[
        Path | None,
        typer.Option(
            envvar="DRMAD_HEARTBEAT_FILE", help="Touched at each look at the queue, for probes."
        ),
    ] = None,
    exit_with_parent: ExitWithParent = False,
    **flags: Any,
) -> None:
    """Run a scheduler alone: any number of it. It holds the connection to Ray."""
    _configure_logging()
    _configure_traces("drmad-scheduler")
    from drmad_service.operations.supervisor import exit_with_parent as follow_parent

    settings = filled(
        SchedulerSettings,
        flags,
        redis_url=redis_url,
        ray_address=ray_address,
        cpus=cpus,
        store=filled(StoreSettings, flags),
        webhooks=filled(
            Webhooks,
            flags,
            "webhook",
            hosts=tuple(webhook_hosts),
            private=webhook_private,
            secret=_webhook_secret(webhook_hosts, webhook_secret_file),
        ),
        replica_memory_bytes=replica_memory << 20,
        data_roots=tuple(root.expanduser().resolve() for root in data_roots),
        data_dir=data_folder(data_dir, home),
        heartbeat_file=heartbeat_file,
    )
    from drmad_service.operations.embedded import start_ray
    from drmad_service.scheduling.ray_cluster import RayLost
    from drmad_service.scheduling.scheduler import Scheduler

    start_ray(settings.ray_address, settings.cpus)
    stopping = asyncio.Event()

    async def main() -> None:
        from redis.exceptions import RedisError

        from drmad_service.store import Store
        from drmad_service.store.connection import connect
        from drmad_service.store.schema import agree

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        if exit_with_parent:
            follow_parent()
        timeout_s = settings.store.redis_timeout_s
        async with connect(settings.redis_url, timeout_s=timeout_s) as redis:
            try:
                await agree(redis)
            except RedisError as error:  # the scripts refuse what does not fit, once it is back
                logging.getLogger(__name__).warning("Redis does not answer yet: %s", error)
            await Scheduler(Store(redis, settings.store), settings).run(stopping)

    try:
        asyncio.run(main())
    except RayLost as error:
        # Ray's own threads may hang on to the lost cluster; whoever supervises us starts anew.
        logging.getLogger(__name__).error("%s", error)
        os._exit(1)
    import ray

    ray.shutdown()


def _open_when_ready(port: int, link: str) -> None:
    def wait_and_open() -> None:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                _open(link)
                return
            time.sleep(0.1)

    threading.Thread(target=wait_and_open, daemon=True, name="open-browser").start()


def _open(link: str) -> None:
    """Open a browser for whoever sits before this machine, and nowhere else."""
    is_desk = sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if is_desk and sys.stdout.isatty():
        webbrowser.open(link)


def _webhook_secret(hosts: list[str], file: Path | None) -> str:
    from drmad_service.errors import ServiceStartError
    from drmad_service.operations import local_key

    if file is not None:
        return local_key.from_file(file)
    if hosts:
        raise ServiceStartError(
            "--webhook-host needs --webhook-secret-file: a file with one line of at least 32 "
            "characters, which the receivers check the signatures with"
        )
    return ""


def _configure_logging() -> None:
    from drmad_service import logs
    from drmad_service.errors import ServiceStartError

    log_format = os.environ.get("DRMAD_LOG_FORMAT", "text")
    if log_format not in ("text", "json"):
        raise ServiceStartError(f"DRMAD_LOG_FORMAT must be text or json, got {log_format!r}")
    logs.configure(
        "json" if log_format == "json" else "text", os.environ.get("DRMAD_LOG_LEVEL", "INFO")
    )


def _configure_traces(service: str) -> None:
    from drmad_service import traces

    traces.configure(service, os.environ)
