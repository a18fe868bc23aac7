"""Set the limits of single tenants; `drmad usage` shows what holds and what is used.

The settings of the service limit every tenant. A limit set here takes its place for one tenant.
"""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ValidationError
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from drmad_client.errors import UsageError
from drmad_client.records.field_errors import field_errors
from drmad_client.records.service.usage import OwnTenantLimits, TenantLimits
from drmad_service.api.auth.api_keys import TENANT
from drmad_service.operations.key_commands import operator
from drmad_service.operations.options import DEFAULT_HOME, Home, HomeRedisUrl
from drmad_service.operations.redis_access import with_redis
from drmad_service.store.tenant_limits import OwnLimits

limits_app = typer.Typer(name="limits", help=__doc__, no_args_is_help=True)

_NAMES = tuple(TenantLimits.model_fields)


@limits_app.command("set")
def set_limits(
    tenant: Annotated[str, typer.Option(help="Tenant whose limits change.")],
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=NUMBER...",
            help=f"One of {', '.join(_NAMES)}; none instead of a number removes the limit.",
        ),
    ],
    redis_url: HomeRedisUrl = "",
    home: Home = DEFAULT_HOME,
) -> None:
    """Set limits of one tenant; its others stay.

    \b
    Examples:
      drmad limits set --tenant vision queued_jobs=20 gpus=4
      drmad limits set --tenant vision gpus=none          the service's limit holds again
    """
    if not TENANT.fullmatch(tenant):
        raise UsageError(f"the tenant must match {TENANT.pattern}, got {tenant!r}")
    changed = parsed(changes)

    async def run(redis: Redis) -> TenantLimits:
        own = OwnLimits(redis)
        limits = (await own.of(tenant)).model_copy(update=changed)
        await own.replace(tenant, limits, operator())
        return limits

    typer.echo(f"Limits of tenant {tenant}: {_words(with_redis(redis_url, home, run))}.")


@limits_app.command("list")
def list_limits(redis_url: HomeRedisUrl = "", home: Home = DEFAULT_HOME) -> None:
    """List the tenants that have limits of their own."""
    found = with_redis(redis_url, home, lambda redis: OwnLimits(redis).all())
    if not found:
        typer.echo("No tenant has limits of its own; those of the service's settings hold.")
        return
    table = Table("tenant", "limits", box=None)
    for tenant in sorted(found):
        table.add_row(tenant, _words(found[tenant]))
    Console().print(table)


def parsed(changes: list[str]) -> dict[str, float | None]:
    given: dict[str, str | None] = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or name not in _NAMES:
            raise UsageError(
                f"expected NAME=NUMBER with one of {', '.join(_NAMES)}, got {change!r}"
            )
        if name in given:
            raise UsageError(f"{name} is given twice; give each limit once")
        given[name] = None if value == "none" else value
    try:
        limits = OwnTenantLimits.model_validate(given)
    except ValidationError as error:
        (first, *_) = field_errors(error.errors(), given)
        raise UsageError(f"{first.path}: {first.message}") from error
    return {name: getattr(limits, name) for name in given}


def _words(limits: TenantLimits) -> str:
    named = limits.model_dump(exclude_none=True)
    return ", ".join(f"{name} {value:,}" for name, value in named.items()) or "those of the service"
