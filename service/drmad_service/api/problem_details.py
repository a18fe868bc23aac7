"""Answers every error as problem+json (RFC 9457); the only map from exceptions to statuses."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from drmad_client.records.field_errors import field_errors, message_of
from drmad_client.records.problem_details import FieldError, ProblemDetails
from drmad_service.api.middleware.head_requests import allowed
from drmad_service.errors import (
    ActionRefused,
    ArtifactsFail,
    CrossSite,
    DiskRefuses,
    GroupNotFound,
    IdempotencyConflict,
    JobNotFound,
    NotInstalled,
    NotJson,
    NotOwner,
    NotSignedIn,
    ResultNotFound,
    RetrainingRefused,
    SchemaDiffers,
    ScopeTooLow,
    SignInFailed,
    StoreFull,
    TenantFull,
    TooManyQueued,
    TooManyRequests,
    TooManyStreams,
    TooManyTags,
    TooManyUploads,
    TooManyWaiting,
    ValidationRefused,
)
from drmad_service.store.access.refusals import explained, refusal_of

logger = logging.getLogger(__name__)

_STATUSES: dict[type[Exception], tuple[HTTPStatus, str]] = {
    JobNotFound: (HTTPStatus.NOT_FOUND, "job_not_found"),
    GroupNotFound: (HTTPStatus.NOT_FOUND, "group_not_found"),
    NotInstalled: (HTTPStatus.NOT_IMPLEMENTED, "not_installed"),
    ResultNotFound: (HTTPStatus.NOT_FOUND, "result_not_found"),
    StoreFull: (HTTPStatus.INSUFFICIENT_STORAGE, "store_full"),
    SchemaDiffers: (HTTPStatus.SERVICE_UNAVAILABLE, "schema_differs"),
    ArtifactsFail: (HTTPStatus.SERVICE_UNAVAILABLE, "artifacts_fail"),
    ActionRefused: (HTTPStatus.CONFLICT, "action_refused"),
    ValidationRefused: (HTTPStatus.CONFLICT, "validation_refused"),
    RetrainingRefused: (HTTPStatus.CONFLICT, "retraining_refused"),
    TooManyTags: (HTTPStatus.CONFLICT, "too_many_tags"),
    IdempotencyConflict: (HTTPStatus.CONFLICT, "idempotency_conflict"),
    NotJson: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not_json"),
    NotSignedIn: (HTTPStatus.UNAUTHORIZED, "not_signed_in"),
    SignInFailed: (HTTPStatus.UNAUTHORIZED, "sign_in_failed"),
    ScopeTooLow: (HTTPStatus.FORBIDDEN, "scope_too_low"),
    TenantFull: (HTTPStatus.INSUFFICIENT_STORAGE, "tenant_full"),
    NotOwner: (HTTPStatus.FORBIDDEN, "not_owner"),
    CrossSite: (HTTPStatus.FORBIDDEN, "cross_site"),
    TooManyStreams: (HTTPStatus.TOO_MANY_REQUESTS, "too_many_streams"),
    TooManyUploads: (HTTPStatus.TOO_MANY_REQUESTS, "too_many_uploads"),
    TooManyWaiting: (HTTPStatus.TOO_MANY_REQUESTS, "too_many_waiting"),
    TooManyQueued: (HTTPStatus.TOO_MANY_REQUESTS, "too_many_queued"),
    TooManyRequests: (HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests"),
}


def problem_response(
    status: int,
    code: str,
    detail: str,
    errors: Sequence[FieldError] = (),
    instance: str = "",
    headers: dict[str, str] | None = None,
) -> Response:
    problem = ProblemDetails(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        errors=list(errors),
        instance=instance,
    )
    return Response(
        problem.model_dump_json(),
        status_code=status,
        media_type="application/problem+json",
        headers=headers,
    )


def install(app: FastAPI) -> None:
    """Adds handlers that answer the app's exceptions as problems."""
    for kind, (status, code) in _STATUSES.items():
        app.add_exception_handler(kind, _known(status, code))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RedisError, _store_down)
    app.add_exception_handler(DiskRefuses, _disk_refuses)


def _known(status: int, code: str) -> Any:
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}

    async def handler(request: Request, error: Exception) -> Response:
        # The header counts whole seconds: rounded up, so that the retry is not refused again.
        wait_s = getattr(error, "retry_after_s", None)
        retry = {} if wait_s is None else {"Retry-After": str(max(1, math.ceil(wait_s)))}
        return problem_response(
            status, code, str(error), instance=request.url.path, headers=headers | retry
        )

    return handler


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    raw = error.errors()
    if raw and raw[0]["type"] == "json_invalid":
        where = raw[0]["loc"][-1]
        detail = f"the body must be JSON: {raw[0]['ctx']['error']} at character {where}"
        return problem_response(400, "invalid_json", detail, instance=request.url.path)
    in_body = [e | {"loc": e["loc"][1:]} for e in raw if e["loc"][0] == "body"]
    elsewhere = [
        FieldError(path=f"{e['loc'][0]}.{e['loc'][1]}", message=message_of(e, None))
        for e in raw
        if e["loc"][0] != "body"
    ]
    errors = [*elsewhere, *field_errors(in_body, error.body)]
    count = "1 field is" if len(errors) == 1 else f"{len(errors)} fields are"
    detail = f"{count} invalid; nothing was created or changed"
    return problem_response(422, "invalid_fields", detail, errors, request.url.path)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    headers = dict(error.headers or {})
    code, detail = HTTPStatus(status).name.lower(), str(error.detail)
    if status == 400 and detail == "There was an error parsing the body":
        code, detail = "invalid_json", "the body must be JSON in UTF-8"
    elif status == 404:
        detail = f"there is no resource at {request.url.path}; /docs lists the paths"
    elif status == 405:
        headers["Allow"] = allowed(request.scope)
        detail = (
            f"{request.url.path} does not support the method {request.method}; it has "
            f"{headers['Allow']}"
        )
    return problem_response(status, code, detail, instance=request.url.path, headers=headers)


async def _store_down(request: Request, error: Exception) -> Response:
    logger.error("%s", explained(error), exc_info=error)
    return store_problem(error, request.url.path)


def store_problem(error: Exception, instance: str) -> Response:
    """The answer to a request that Redis did not execute: it is away, or refuses, and says why."""
    refusal = refusal_of(error)
    if refusal is None:
        code, detail = "store_unavailable", "Redis does not answer; retry in a moment"
        headers = {"Retry-After": "1"}
        return problem_response(503, code, detail, instance=instance, headers=headers)
    return problem_response(refusal.status, refusal.code, str(refusal), instance=instance)


async def _disk_refuses(request: Request, error: Exception) -> Response:
    assert isinstance(error, DiskRefuses)
    logger.error("%s", error)
    return problem_response(error.status, error.code, str(error), instance=request.url.path)
