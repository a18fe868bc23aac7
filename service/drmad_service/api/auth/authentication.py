"""Who asks, and what they may do: the dependency of every route.

A key comes as `Authorization: Bearer KEY`. A browser exchanges it once for a session cookie that no
script can read.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from drmad_service import logs
from drmad_service.api.auth.api_keys import LOCAL, Access, Principal
from drmad_service.api.auth.scopes import needed_for
from drmad_service.errors import CrossSite, NotSignedIn, ScopeTooLow

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def cookie_name(request: Request) -> str:
    """Cookies know no ports: two services on one machine must not sign each other out."""
    port = request.url.port
    return f"drmad_session_{port}" if port else "drmad_session"


def session_token(request: Request) -> str | None:
    return request.cookies.get(cookie_name(request))


def refuse_cross_site(request: Request, origin_needed: bool) -> None:
    """Let no other site's page change anything in the name of whoever looks at it.

    Raises:
        CrossSite: the request comes from another origin than the host it is sent to.
    """
    origin = request.headers.get("origin")
    if origin is None and not origin_needed:
        return  # a program; browsers always tell where a changing request comes from
    if origin is None or origin.partition("://")[2] != request.headers.get("host"):
        raise CrossSite(origin)


_bearer = HTTPBearer(auto_error=False, description="A key, as in DRMAD_API_KEY.")


async def _principal(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Principal:
    """Who asks, and that scopes.py lets them.

    Raises:
        NotSignedIn: no key or session, or one that is not known.
        TooManyRequests: the key asks faster than it may.
        ScopeTooLow: the key does not allow the route.
        CrossSite: a page of another site asks, with the browser's cookie.
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
"""For routers whose routes do not ask who it is."""
