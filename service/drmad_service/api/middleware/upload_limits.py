"""Limits the uploads of one tenant that a process receives at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

from fastapi import Depends, Request

from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.errors import TooManyUploads
from drmad_service.store import Store


class UploadLimits:
    """Counts the uploads that are under way, by tenant."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.open: Counter[str] = Counter()

    def begin(self, tenant: str, own: int | None) -> None:
        """
        Raises:
            TooManyUploads: the tenant's own limit, else that of the process, is reached.
        """
        most = self._most if own is None else own
        if self.open[tenant] >= most:
            raise TooManyUploads(tenant, most)
        self.open[tenant] += 1

    def end(self, tenant: str) -> None:
        self.open[tenant] -= 1
        if not self.open[tenant]:
            del self.open[tenant]


async def _held(request: Request, principal: PrincipalDependency) -> AsyncIterator[None]:
    limits: UploadLimits = request.app.state.upload_limits
    store: Store = request.app.state.store
    own = await store.own_limits.of(principal.tenant)
    limits.begin(principal.tenant, own.uploads)
    try:
        yield
    finally:
        limits.end(principal.tenant)


counts_as_upload = Depends(_held, scope="request")
"""Dependency of the routes that receive a file."""
