"""Authenticates and authorizes requests, as a dependency of the routes.

A program sends its key as `Authorization: Bearer KEY`. A browser exchanges the key once for a
session cookie that scripts cannot read.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from drmad_service import logs
from drmad_service.api.auth.api_keys import LOCAL, Access, Principal
from drmad_service.api.auth.failed_attempts import FailedAttempts
from drmad_service.api.auth.scopes import needed_for
from drmad_service.errors import CrossSite, NotSignedIn, ScopeTooLow

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def cookie_name(request: Request) -> str:
    """Cookies ignore ports, so the name has it: two services on one machine keep their sessions."""
    port = request.url.port
    return f"drmad_session_{port}" if port else "drmad_session"


def session_token(request: Request) -> str | None:
    return request.cookies.get(cookie_name(request))


def refuse_cross_site(request: Request, origin_needed: bool) -> None:
    """Prevents a page of another site from making changes in the name of its visitor.

    Raises:
        CrossSite: the request's origin is not the host that it is sent to.
    """
    origin = request.headers.get("origin")
    if origin is None and not origin_needed:
        return  # a program: browsers send the origin with every request that may change something
    if origin is None or origin.partition("://")[2] != request.headers.get("host"):
        raise CrossSite(origin)


async def note_failure(request: Request) -> None:
    """Counts a key, session or ticket that is unknown, and delays its answer after many."""
    attempts: FailedAttempts = request.app.state.failed_attempts
    await attempts.note(request.client.host if request.client else "")


_bearer = HTTPBearer(auto_error=False, description="A key of the service, as in DRMAD_API_KEY.")


async def _principal(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Principal:
    """The caller of a request, whose scope allows the route.

    Raises:
        NotSignedIn: the request has no key and no session, or an unknown one.
        TooManyRequests: the key exceeds its request rate.
        ScopeTooLow: the key's scope does not allow the route.
        CrossSite: a page of another site sent the request, with the browser's cookie.
    """
    access: Access = request.app.state.access
    token = session_token(request)
    changes = request.method not in _SAFE_METHODS
    principal: Principal | None = None
    if credentials is not None:
        principal = await access.of_key(credentials.credentials)
    elif token is not None:
        principal = await access.of_session(token)
    is_open = principal is None and await access.is_open()
    if is_open:
        principal = LOCAL
    if principal is None:
        if credentials is not None or token is not None:
            await note_failure(request)
        raise NotSignedIn(key_sent=credentials is not None)
    if changes and credentials is None:
        refuse_cross_site(request, origin_needed=not is_open)
    needed = needed_for(request.method, request.scope["route"].path)
    if principal.scope < needed:
        raise ScopeTooLow(principal.scope.name.lower(), needed.name.lower())
    logs.tenant.set(principal.tenant)
    return principal


PrincipalDependency = Annotated[Principal, Depends(_principal)]
signed_in = Depends(_principal)
"""Dependency of routers whose routes need authentication but not the principal."""
