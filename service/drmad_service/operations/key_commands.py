"""`drmad keys`: who may use a service, told to its Redis directly. The API hands out no keys."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from drmad_client.errors import DrmadError
from drmad_service.errors import ServiceStartError

if TYPE_CHECKING:  # `drmad --help` loads no Redis
    from drmad_service.api.auth.api_keys import Access

keys_app = typer.Typer(
    name="keys", help="Keys that open the service to others.", no_args_is_help=True
)

_T = TypeVar("_T")


class ScopeName(StrEnum):
    """What a key allows; each includes those before it."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"


RedisUrl = Annotated[
    str,
    typer.Option(envvar="DRMAD_REDIS_URL", help="Default: the Redis of `drmad up` in the home."),
]
Home = Annotated[Path, typer.Option(envvar="DRMAD_HOME", help="Of `drmad up`.")]
_HOME = Path.home() / ".drmad"


@keys_app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose jobs the key sees: a team, a person.")],
    scope: Annotated[
        ScopeName,
        typer.Option(
            help="read looks at the tenant's jobs, submit changes them too, admin does both with "
            "everybody's."
        ),
    ] = ScopeName.SUBMIT,
    note: Annotated[str, typer.Option(help="What it is for, shown by `keys list`.")] = "",
    redis_url: RedisUrl = "",
    home: Home = _HOME,
) -> None:
    """Make a key and print it. It is kept nowhere: who loses it gets a new one."""

    from drmad_service.api.auth.api_keys import Scope

    async def run(access: Access) -> str:
        made, text = await access.create(tenant, Scope[scope.name], note)
        typer.echo(
            f"Key {made.id} lets {tenant} {scope}. Set DRMAD_API_KEY to the next line, which is "
            "shown only now:",
            err=True,
        )
        return text

    typer.echo(_with_access(redis_url, home, run))


@keys_app.command("list")
def list_keys(redis_url: RedisUrl = "", home: Home = _HOME) -> None:
    """Show the keys: all of each but its secret."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("id", "tenant", "scope", "created", "last used", "note", box=None)
    for key in _with_access(redis_url, home, lambda access: access.keys()):
        table.add_row(
            key.id,
            key.tenant,
            key.scope.name.lower(),
            _shown(key.created_at),
            _shown(key.used_at) if key.used_at else "never",
            escape(key.note),
        )
    Console().print(table)


@keys_app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `drmad keys list` shows it.")],
    redis_url: RedisUrl = "",
    home: Home = _HOME,
) -> None:
    """Close the service to a key, and to the browsers that signed in with it, at once."""
    _with_access(redis_url, home, lambda access: access.revoke(key_id))
    typer.echo(f"Key {key_id} opens nothing any more.")


def refuse_unguarded(host: str, redis_url: str, has_key: bool) -> None:
    """Let nobody from elsewhere reach a service that knows no keys.

    Args:
        host: the address to listen on.
        has_key: the operator gave a key by --key-file.
    Raises:
        ServiceStartError: the address is not loopback, and no key was made yet.
    """
    if has_key or is_loopback(host):
        return
    if not _with_access(redis_url, _HOME, lambda access: access.keys()):
        raise ServiceStartError(
            f"--host {host} lets others in, and there is no key yet; make one first: drmad keys "
            "create --tenant NAME --scope submit. Or listen on a loopback address such as 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _with_access(redis_url: str, home: Path, use: Callable[[Access], Awaitable[_T]]) -> _T:
    from redis.exceptions import RedisError

    from drmad_service.api.auth.api_keys import Access
    from drmad_service.store.connection import connect

    url = redis_url or _redis_of(home)

    async def main() -> _T:
        async with connect(url) as redis:
            return await use(Access(redis))

    try:
        return asyncio.run(main())
    except RedisError as error:
        raise ServiceStartError(f"Redis does not answer: {error}") from error
    except ValueError as error:
        raise DrmadError(str(error)) from error


def _redis_of(home: Path) -> str:
    from drmad_service.operations.embedded import EmbeddedRedis

    home = home.expanduser().resolve()
    redis = EmbeddedRedis(home)
    if not (home / "redis").is_dir() or not redis.is_running():
        raise ServiceStartError(
            f"no Redis runs in {home}; start `drmad up` first, or give --redis-url"
        )
    return redis.url


def _shown(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
