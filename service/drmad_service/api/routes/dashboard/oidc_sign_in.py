"""Sign-in by OpenID Connect: to the provider, and back with a session.

Between both the browser keeps the state of its sign-in in a cookie of its own. The last answer is a
page and no redirect: a redirect that another site began carries no cookie that is SameSite=Strict.
"""

from __future__ import annotations

import base64
import dataclasses
import hmac
import json
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from drmad_service.api.auth.authentication import cookie_name, note_failure
from drmad_service.api.auth.oidc import NoGroup, Pending, Provider, ProviderError
from drmad_service.api.routes.dashboard.pages import page, root_of
from drmad_service.api.routes.dependencies import AccessDependency

router = APIRouter(include_in_schema=False)

_PENDING_S = 600
_PATH = "/sign-in/oidc"


@router.get(_PATH)
async def begin(request: Request, next: Annotated[str, Query(max_length=2000)] = "/") -> Response:  # noqa: A002
    """Send the browser to the provider."""
    provider: Provider | None = request.app.state.provider
    if provider is None:
        return await _trouble(request, 404, "Sign-in by a provider is not set up: use a key.")
    try:
        url, pending = await provider.begin(_redirect_uri(request), _own(next, root_of(request)))
    except ProviderError as error:
        return await _trouble(request, 502, str(error))
    response = RedirectResponse(url, status_code=303)
    response.set_cookie(
        _cookie(request),
        base64.urlsafe_b64encode(json.dumps(dataclasses.asdict(pending)).encode()).decode(),
        max_age=_PENDING_S,
        path=root_of(request) + _PATH,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response


@router.get(f"{_PATH}/callback")
async def finish(
    request: Request,
    access: AccessDependency,
    state: Annotated[str, Query(max_length=200)] = "",
    code: Annotated[str, Query(max_length=4000)] = "",
    error: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Open a session for the user whom the provider sends back."""
    provider: Provider | None = request.app.state.provider
    pending = _pending(request.cookies.get(_cookie(request), ""))
    if provider is None or pending is None or not _same(state, pending.state):
        await note_failure(request)
        message = "This sign-in has expired, or began in another browser: begin it again."
        return await _trouble(request, 400, message)
    try:
        if error or not code:
            raise ProviderError(f"{provider.host} refused the sign-in: {error or 'no code'}")
        identity = await provider.finish(code, _redirect_uri(request), pending)
    except ProviderError as refusal:
        await note_failure(request)
        return await _trouble(request, 401, str(refusal))
    except NoGroup as refusal:
        return await _trouble(request, 403, str(refusal))
    token = await access.open_session_of(identity, provider.session_s)
    response = await page(request, "signed_in.html", principal=None, next=pending.next)
    response.set_cookie(
        cookie_name(request),
        token,
        max_age=provider.session_s,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path=root_of(request) or "/",
    )
    path = root_of(request) + _PATH
    response.delete_cookie(_cookie(request), path, httponly=True, samesite="lax")
    return response


async def _trouble(request: Request, status: int, message: str) -> Response:
    return await page(request, "trouble.html", status, title="Sign-in failed", message=message)


def _redirect_uri(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}{root_of(request)}{_PATH}/callback"


def _cookie(request: Request) -> str:
    return f"{cookie_name(request)}_oidc"


def _own(path: str, root: str) -> str:
    """The path below the service's root, if it is one of this site; else that of the jobs."""
    is_own = path.startswith(f"{root}/") and path.isprintable()
    inner = path.removeprefix(root)
    return inner if is_own and not inner.startswith(("//", "/\\")) else "/"


def _pending(cookie: str) -> Pending | None:
    try:
        fields = json.loads(base64.urlsafe_b64decode(cookie))
        pending = Pending(**{name: str(value) for name, value in fields.items()})
    except (ValueError, TypeError, AttributeError):
        return None
    return dataclasses.replace(pending, next=_own(pending.next, "")) if pending.state else None


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
