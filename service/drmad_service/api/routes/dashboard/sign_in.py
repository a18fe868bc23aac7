"""Sign-in: a browser exchanges a key, or the ticket of a `drmad up` link, for a session cookie."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from drmad_service.api.auth.api_keys import Access
from drmad_service.api.auth.authentication import (
    cookie_name,
    note_failure,
    refuse_cross_site,
    session_token,
)
from drmad_service.api.routes.dependencies import PROBLEM
from drmad_service.errors import SignInFailed
from drmad_service.settings import ApiSettings

router = APIRouter(tags=["sign-in"])


class Credentials(BaseModel):
    """A key or a ticket."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    key: str = Field(default="", max_length=256)
    ticket: str = Field(
        default="", max_length=256, description="Ticket of a sign-in link; it works once."
    )


@router.post(
    "/sign-in",
    status_code=204,
    responses={400: PROBLEM, 401: PROBLEM, 403: PROBLEM, 413: PROBLEM, 422: PROBLEM, 429: PROBLEM},
)
async def sign_in(credentials: Credentials, request: Request) -> Response:
    """Open a session. The response sets its token as a cookie that scripts cannot read."""
    refuse_cross_site(request, origin_needed=False)
    access: Access = request.app.state.access
    if credentials.ticket:
        token = await access.redeem(credentials.ticket)
    else:
        token = await access.open_session(credentials.key)
    if token is None:
        await note_failure(request)
        raise SignInFailed(by_ticket=bool(credentials.ticket))
    response = Response(status_code=204)
    response.set_cookie(
        cookie_name(request),
        token,
        max_age=access.session_s,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path=_cookie_path(request),
    )
    return response


@router.post("/sign-out", status_code=204, responses={403: PROBLEM})
async def sign_out(request: Request) -> Response:
    """Close the session."""
    refuse_cross_site(request, origin_needed=False)
    if token := session_token(request):
        access: Access = request.app.state.access
        await access.close_session(token)
    response = Response(status_code=204)
    response.delete_cookie(
        cookie_name(request), _cookie_path(request), httponly=True, samesite="strict"
    )
    return response


def _cookie_path(request: Request) -> str:
    """Two services below one host keep their sessions apart."""
    settings: ApiSettings = request.app.state.settings
    return settings.root_path or "/"
