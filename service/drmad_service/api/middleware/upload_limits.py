"""Limits the uploads of one tenant that the service receives at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import Depends, Request
from redis.exceptions import RedisError

from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.cancellation import cancel_and_wait
from drmad_service.store import Store
from drmad_service.store.files.uploads import UPLOAD_HELD_S


async def _held(request: Request, principal: PrincipalDependency) -> AsyncIterator[None]:
    """
    Raises:
        TooManyUploads: the tenant's own limit, else that of the service, is reached.
    """
    store: Store = request.app.state.store
    tenant = principal.tenant
    own = (await store.own_limits.of(tenant)).uploads
    most = request.app.state.settings.tenant_uploads if own is None else own
    upload = await store.begin_upload(tenant, most)
    keeping = asyncio.create_task(_keep(store, tenant, upload))
    try:
        yield
    finally:
        await cancel_and_wait([keeping])
        with contextlib.suppress(RedisError):
            await store.end_upload(tenant, upload)


async def _keep(store: Store, tenant: str, upload: str) -> None:
    while True:
        await asyncio.sleep(UPLOAD_HELD_S / 3.0)
        with contextlib.suppress(RedisError):
            await store.keep_upload(tenant, upload)


counts_as_upload = Depends(_held, scope="request")
"""Dependency of the routes that receive a file."""
