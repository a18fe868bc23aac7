"""What the routes need of the application."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request
from fastapi.exceptions import RequestValidationError

from drmad_client.records.job import ProblemDetails
from drmad_service.api.auth.api_keys import Access, Principal
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.job_changes import Changes
from drmad_service.api.stream_limits import Streams
from drmad_service.errors import JobNotFound
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from drmad_service.store.data_folder import DataFolder
from drmad_service.store.overview import Overview

# Asynchronous although they wait for nothing: FastAPI sends others through a thread, each time.


async def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


async def _changes(request: Request) -> Changes:
    changes: Changes = request.app.state.changes
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


async def _access(request: Request) -> Access:
    access: Access = request.app.state.access
    return access


async def _streams(request: Request) -> Streams:
    streams: Streams = request.app.state.streams
    return streams


AccessDependency = Annotated[Access, Depends(_access)]
StreamsDependency = Annotated[Streams, Depends(_streams)]
StoreDependency = Annotated[Store, Depends(_store)]
ChangesDependency = Annotated[Changes, Depends(_changes)]
SettingsDependency = Annotated[ApiSettings, Depends(_settings)]
OverviewDependency = Annotated[Overview, Depends(_overview)]
FolderDependency = Annotated[DataFolder, Depends(_data)]


async def must_see(principal: Principal, store: Store, job_id: str) -> None:
    """
    Raises:
        JobNotFound: there is no such job, or it is another tenant's; nobody learns which.
    """
    if not principal.sees_all and await store.tenant_of(job_id) != principal.tenant:
        raise JobNotFound(job_id)


async def _visible(
    job_id: Annotated[
        str, Path(max_length=64, description="As in job_01JD7X8Z9T3V5W6Y7A8B9C0D1E.")
    ],
    principal: PrincipalDependency,
    store: StoreDependency,
) -> str:
    await must_see(principal, store, job_id)
    return job_id


JobId = Annotated[str, Depends(_visible)]
"""Of a job that whoever asks may see."""


def body_refused(message: str, *path: str) -> RequestValidationError:
    """A field of the body, or all of it, that a look beyond the body does not allow."""
    error = {"type": "misfit", "loc": ("body", *path), "msg": message, "input": None}
    return RequestValidationError([error])


PROBLEM = {"model": ProblemDetails, "content": {"application/problem+json": {}}}
