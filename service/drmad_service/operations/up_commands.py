"""`drmad up` and `drmad open`: the whole service on one machine, and a link to its dashboard."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from drmad_service import logs
from drmad_service.api.auth.api_keys import issue_ticket
from drmad_service.flags import filled, with_settings
from drmad_service.operations.home_secrets import ensure_local_key
from drmad_service.operations.options import (
    DEFAULT_HOME,
    ArtifactsOptionsFile,
    ArtifactsUrl,
    DataDir,
    Home,
    Port,
    artifact_location,
)
from drmad_service.operations.supervisor import supervise
from drmad_service.settings import SupervisorSettings
from drmad_service.store.files.data_folder import data_folder


@with_settings(SupervisorSettings)
def up(
    home: Home = DEFAULT_HOME,
    port: Port = 8080,
    redis_url: Annotated[
        str,
        typer.Option(
            envvar="DRMAD_REDIS_URL", help="URL of Redis; by default `drmad up` runs its own."
        ),
    ] = "",
    data_dir: DataDir = None,
    artifacts_url: ArtifactsUrl = "",
    artifacts_options_file: ArtifactsOptionsFile = None,
    no_browser: Annotated[
        bool,
        typer.Option("--no-browser", envvar="DRMAD_NO_BROWSER", help="Do not open a browser."),
    ] = False,
    **flags: Any,
) -> None:
    """Run the whole service on this machine until Ctrl-C: Redis, API, scheduler and Ray.

    The home keeps its state: after a restart the service continues the unfinished jobs.
    """
    logs.configure(logs.from_environment())
    settings = filled(SupervisorSettings, flags)
    home = home.expanduser().resolve()
    shared = ["--data-dir", str(data_folder(data_dir, home))]
    if (location := artifact_location(artifacts_url, artifacts_options_file)) is not None:
        shared += ["--artifacts-url", location.url]
    if artifacts_options_file is not None:
        shared += ["--artifacts-options-file", str(artifacts_options_file.resolve())]
    serve = ["--port", str(port), *shared]
    if settings.allow_requirements:
        serve.append("--allow-requirements")
    schedule = [part for root in settings.data_roots for part in ("--data-root", str(root))]
    if settings.worker_user:
        schedule += ["--worker-user", settings.worker_user]
    if settings.cpus is not None:
        schedule += ["--cpus", str(settings.cpus)]

    def announce() -> None:
        link = sign_in_link(home, port)
        typer.echo(f"drmad is at http://127.0.0.1:{port}; its state and logs are in {home}")
        typer.echo(f"Sign in (the link works once, within an hour): {link}")
        typer.echo("Submit a job with: drmad submit examples/clean-mnist.yaml --watch")
        typer.echo("Ctrl-C stops the service; unfinished jobs continue at the next start.")
        if not no_browser:
            _open(link)

    supervise(home, redis_url or None, serve, [*schedule, *shared], settings, port, announce)


def open_dashboard(home: Home = DEFAULT_HOME, port: Port = 8080) -> None:
    """Print a link that signs in to the dashboard of `drmad up`, and open it in a browser."""
    link = sign_in_link(home.expanduser().resolve(), port)
    typer.echo(link)
    _open(link)


def sign_in_link(home: Path, port: int, page: str = "/") -> str:
    """A link to a page, whose ticket works once; its fragment is never sent or logged."""
    query = "" if page == "/" else f"?next={page}"
    ticket = issue_ticket(ensure_local_key(home))
    return f"http://127.0.0.1:{port}/sign-in{query}#ticket={ticket}"


def _open(link: str) -> None:
    """Opens a browser, but only from a terminal on a machine with a desktop."""
    has_desktop = sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if has_desktop and sys.stdout.isatty():
        webbrowser.open(link)
