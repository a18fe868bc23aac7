"""Manage the keys with which others use the service.

They are created, listed and revoked in Redis; the API offers no route for it.
"""

from __future__ import annotations

import getpass
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from redis.asyncio import Redis
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from drmad_client.errors import UsageError
from drmad_service.api.auth.api_keys import Access, Scope
from drmad_service.errors import ServiceStartError
from drmad_service.operations.options import DEFAULT_HOME, Home, HomeRedisUrl
from drmad_service.operations.redis_access import with_redis

keys_app = typer.Typer(name="keys", help=__doc__, no_args_is_help=True)

_T = TypeVar("_T")


class ScopeName(StrEnum):
    """What a key allows; each scope includes those before it."""

    READ = "read"
    SUBMIT = "submit"
    MANAGE = "manage"
    ADMIN = "admin"


@keys_app.command()
def create(
    tenant: Annotated[
        str, typer.Option(help="Tenant whose jobs the key gives access to, such as a team.")
    ],
    scope: Annotated[
        ScopeName,
        typer.Option(
            help="read allows reading the tenant's jobs, submit also submitting jobs and changing "
            "those that the key has made, manage changing all of the tenant's jobs, admin all of "
            "it for every tenant."
        ),
    ] = ScopeName.SUBMIT,
    note: Annotated[
        str, typer.Option(help="Purpose of the key, which `drmad keys list` shows.")
    ] = "",
    expires_days: Annotated[
        int | None,
        typer.Option(
            min=1, max=3650, help="Days after which the key expires; it does not by default."
        ),
    ] = None,
    redis_url: HomeRedisUrl = "",
    home: Home = DEFAULT_HOME,
) -> None:
    """Create a key and print it. The service stores no copy: a lost key needs a new one."""

    async def run(access: Access) -> str:
        expires_s = None if expires_days is None else expires_days * 24 * 3600
        made, text = await access.create(
            tenant, Scope[scope.name], note, operator(), expires_s=expires_s
        )
        until = f", until {_shown(made.expires_at)}" if made.expires_at else ""
        typer.echo(
            f"Created key {made.id} with scope {scope} for tenant {tenant}{until}. Set "
            "DRMAD_API_KEY to the next line, which is shown only once:",
            err=True,
        )
        return text

    typer.echo(_with_access(redis_url, home, run))


@keys_app.command("list")
def list_keys(redis_url: HomeRedisUrl = "", home: Home = DEFAULT_HOME) -> None:
    """List the keys, without their secrets."""
    table = Table(
        "id", "tenant", "scope", "created", "by", "last used", "expires", "note", box=None
    )
    for key in _with_access(redis_url, home, lambda access: access.keys()):
        table.add_row(
            key.id,
            key.tenant,
            key.scope.name.lower(),
            _shown(key.created_at),
            escape(key.created_by),
            _shown(key.used_at) if key.used_at else "never",
            _shown(key.expires_at) if key.expires_at else "never",
            escape(key.note),
        )
    Console().print(table)


@keys_app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `drmad keys list` shows it.")],
    redis_url: HomeRedisUrl = "",
    home: Home = DEFAULT_HOME,
) -> None:
    """Revoke a key, and end the browser sessions that it opened, at once."""
    _with_access(redis_url, home, lambda access: access.revoke(key_id, operator()))
    typer.echo(f"Revoked key {key_id}.")


def refuse_unguarded(host: str, redis_url: str, has_key: bool) -> None:
    """Refuses to listen beyond loopback as long as the service has no keys.

    Args:
        host: the address to listen on.
        has_key: the operator passed a key by --key-file.
    Raises:
        ServiceStartError: the address is not loopback, and no key exists.
    """
    if has_key or is_loopback(host):
        return
    if not _with_access(redis_url, DEFAULT_HOME, lambda access: access.keys()):
        raise ServiceStartError(
            f"--host {host} is reachable from other machines, and no key exists yet; create one "
            "first: drmad keys create --tenant NAME --scope submit. Or listen on a loopback "
            "address such as 127.0.0.1"
        )


def operator() -> str:
    """Who runs this command, as the audit log names them: user and machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _with_access(redis_url: str, home: Path, use: Callable[[Access], Awaitable[_T]]) -> _T:
    async def run(redis: Redis) -> _T:
        return await use(Access(redis))

    try:
        return with_redis(redis_url, home, run)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _shown(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
