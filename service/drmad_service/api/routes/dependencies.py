"""Dependencies and parameters that the routes share."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from drmad_client.records.problem_details import ProblemDetails
from drmad_service.api.auth.api_keys import Access, Principal
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.file_checker import FileChecker
from drmad_service.api.job_changes import JobChanges
from drmad_service.api.middleware.stream_limits import StreamLimits
from drmad_service.errors import JobNotFound, NotOwner
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from drmad_service.store.files.data_folder import DataFolder
from drmad_service.store.overview import Overview

# These are asynchronous because FastAPI runs synchronous dependencies in a thread, each time.


async def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


async def _changes(request: Request) -> JobChanges:
    changes: JobChanges = request.app.state.changes
    return changes


async def _settings(request: Request) -> ApiSettings:
    settings: ApiSettings = request.app.state.settings
    return settings


async def _overview(request: Request) -> Overview:
    overview: Overview = request.app.state.overview
    return overview


async def _data(request: Request) -> DataFolder:
    folder: DataFolder = request.app.state.data
    return folder


async def _checker(request: Request) -> FileChecker:
    checker: FileChecker = request.app.state.checker
    return checker


async def _access(request: Request) -> Access:
    access: Access = request.app.state.access
    return access


async def _stream_limits(request: Request) -> StreamLimits:
    limits: StreamLimits = request.app.state.stream_limits
    return limits


AccessDependency = Annotated[Access, Depends(_access)]
StreamLimitsDependency = Annotated[StreamLimits, Depends(_stream_limits)]
StoreDependency = Annotated[Store, Depends(_store)]
ChangesDependency = Annotated[JobChanges, Depends(_changes)]
SettingsDependency = Annotated[ApiSettings, Depends(_settings)]
OverviewDependency = Annotated[Overview, Depends(_overview)]
CheckerDependency = Annotated[FileChecker, Depends(_checker)]
FolderDependency = Annotated[DataFolder, Depends(_data)]


async def must_see(principal: Principal, store: Store, job_id: str) -> None:
    """
    Raises:
        JobNotFound: there is no such job, or it is another tenant's; the error is the same.
    """
    if not principal.sees_all and await store.tenant_of(job_id) != principal.tenant:
        raise JobNotFound(job_id)


async def _visible(
    job_id: Annotated[
        str, Path(max_length=64, description="Id of a job, as in job_01JD7X8Z9T3V5W6Y7A8B9C0D1E.")
    ],
    principal: PrincipalDependency,
    store: StoreDependency,
) -> str:
    await must_see(principal, store, job_id)
    return job_id


def _of_form(pattern: str, example: str) -> AfterValidator:
    def check(value: str | None) -> str | None:
        if value and re.fullmatch(pattern, value) is None:
            raise PydanticCustomError("cursor", f"must have the form {example}")
        return value

    return AfterValidator(check)


ENTRY_ID = _of_form(r"\d{1,19}-\d{1,19}", "1763912345678-0")
JobCursor = Annotated[
    str | None,
    _of_form("job_[0-9A-HJKMNP-TV-Z]{26}", "job_01JD7X8Z9T3V5W6Y7A8B9C0D1E"),
    Query(max_length=64, description="`next` of the page before."),
]
"""The id of a job, after which a page starts."""
EntryCursor = Annotated[
    str | None,
    ENTRY_ID,
    Query(
        max_length=64, description="`next` of the page before, or the id of a line or of an event."
    ),
]
"""The id of an entry of a stream, after which a page starts."""


async def _changeable(
    job_id: Annotated[str, Depends(_visible)],
    principal: PrincipalDependency,
    store: StoreDependency,
) -> str:
    """
    Raises:
        NotOwner: another key of the tenant made the job, and the scope does not suffice.
    """
    owner = await store.owner_of(job_id)
    if not principal.may_change(owner):
        raise NotOwner(job_id, owner or "")
    return job_id


ChangeableJobId = Annotated[str, Depends(_changeable)]
"""Id of a job that the caller may change."""
VisibleJobId = Annotated[str, Depends(_visible)]
"""Id of a job that the caller may see."""
Sha256 = Annotated[
    str,
    Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the uploaded bytes, in hexadecimal."),
]


def until_gone(request: Request) -> Callable[[], Awaitable[bool]]:
    """Whether the client of a request still waits for its answer."""

    async def is_connected() -> bool:
        return not await request.is_disconnected()

    return is_connected


def binary_body(media_type: str) -> dict[str, Any]:
    """The OpenAPI description of a request body of bytes."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "content": content}}


def body_refused(message: str, *path: str) -> RequestValidationError:
    """The error of a body, or of its field at `path`, that the state of the service rules out."""
    error = {"type": "misfit", "loc": ("body", *path), "msg": message, "input": None}
    return RequestValidationError([error])


PROBLEM = {"model": ProblemDetails, "content": {"application/problem+json": {}}}
