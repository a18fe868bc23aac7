"""`drmad serve`: one API process."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from drmad_service import logs, traces
from drmad_service.errors import ServiceStartError
from drmad_service.flags import filled, with_settings
from drmad_service.job_limits import JobLimits
from drmad_service.oidc_settings import OidcSettings
from drmad_service.operations.home_secrets import read_secret
from drmad_service.operations.key_commands import is_loopback, refuse_unguarded
from drmad_service.operations.options import (
    DEFAULT_HOME,
    ArtifactsOptionsFile,
    ArtifactsUrl,
    DataDir,
    ExitWithParent,
    Home,
    Host,
    Port,
    RedisUrl,
    artifact_location,
)
from drmad_service.operations.supervisor import exit_with_parent as follow_parent
from drmad_service.scheduling.notifications.mail import Mail
from drmad_service.scheduling.notifications.webhooks import Webhooks
from drmad_service.settings import ApiSettings
from drmad_service.store import StoreSettings
from drmad_service.store.files.data_folder import data_folder


@with_settings(
    ApiSettings, StoreSettings, max=JobLimits, webhook=Webhooks, mail=Mail, oidc=OidcSettings
)
def serve(
    redis_url: RedisUrl = "",
    host: Host = "127.0.0.1",
    port: Port = 8080,
    key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="DRMAD_KEY_FILE",
            help="File with an admin key of the service. Without it and without keys in Redis, "
            "every program on this machine may call the API.",
        ),
    ] = None,
    oidc_client_secret_file: Annotated[
        Path | None,
        typer.Option(
            envvar="DRMAD_OIDC_CLIENT_SECRET_FILE",
            help="File with the secret by which the issuer knows this service; none for a public "
            "client.",
        ),
    ] = None,
    data_dir: DataDir = None,
    artifacts_url: ArtifactsUrl = "",
    artifacts_options_file: ArtifactsOptionsFile = None,
    home: Home = DEFAULT_HOME,
    exit_with_parent: ExitWithParent = False,
    **flags: Any,
) -> None:
    """Run one API process. It keeps no state: any number of them may run."""

    refuse_unguarded(host, redis_url, has_key=key_file is not None)
    logs.configure(logs.from_environment())
    traces.configure("drmad-api", os.environ)
    from drmad_service.api.app import create_app
    from drmad_service.api.server import Server, run

    settings = filled(
        ApiSettings,
        flags,
        redis_url=redis_url,
        local_key=read_secret(key_file) if key_file else None,
        open_without_keys=is_loopback(host),
        store=filled(StoreSettings, flags),
        job_limits=filled(JobLimits, flags, "max"),
        webhooks=filled(Webhooks, flags, "webhook"),
        oidc=_oidc(flags, oidc_client_secret_file),
        mail=filled(Mail, flags, "mail"),
        data_dir=data_folder(data_dir, home),
        artifacts=artifact_location(artifacts_url, artifacts_options_file),
    )
    if exit_with_parent:
        follow_parent()
    run(Server(create_app(settings), settings, host, port))


def _oidc(flags: dict[str, Any], secret_file: Path | None) -> OidcSettings:
    has_secret = secret_file is not None and secret_file.read_text().strip()
    secret = read_secret(secret_file) if secret_file and has_secret else ""
    settings = filled(OidcSettings, flags, "oidc", client_secret=secret)
    if settings.issuer and find_spec("joserfc") is None:
        raise ServiceStartError(
            '--oidc-issuer needs the extra oidc: pip install ".[api,oidc]" in the clone'
        )
    return settings
