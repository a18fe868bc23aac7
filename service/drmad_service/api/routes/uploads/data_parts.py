"""Uploads of data sets in parts: a broken upload goes on where it broke."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from drmad_client.records.base import Record
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.file_checker import FileRefused
from drmad_service.api.middleware.upload_limits import counts_as_upload
from drmad_service.api.problem_details import problem_response
from drmad_service.api.routes.dependencies import (
    PROBLEM,
    CheckerDependency,
    FolderDependency,
    SettingsDependency,
    Sha256,
    StoreDependency,
    binary_body,
    body_refused,
)
from drmad_service.store.files.partial_upload import WrongOffset
from drmad_service.store.files.received_file import WrongDigest

router = APIRouter(prefix="/v1/data/{sha256}/parts", tags=["data"])


class UploadState(Record):
    """How much of a file has arrived."""

    offset: int = Field(description="Bytes that have arrived: where the next part begins.")
    is_complete: bool = Field(
        default=False, description="Whether the whole file is kept; jobs may name it then."
    )


@router.get("", responses={422: PROBLEM})
async def state(
    sha256: Sha256, store: StoreDependency, folder: FolderDependency, principal: PrincipalDependency
) -> UploadState:
    """Return how much of a file has arrived, to go on from there."""
    if folder.holds(sha256) and await store.has_data(sha256, principal.tenant):
        return UploadState(offset=folder.size(sha256), is_complete=True)
    return UploadState(offset=folder.partial(sha256, principal.tenant).offset)


@router.patch(
    "",
    dependencies=[counts_as_upload],
    status_code=202,
    response_model=UploadState,
    responses={
        201: {"model": UploadState, "description": "The file is complete and kept."},
        409: PROBLEM,
        413: PROBLEM,
        422: PROBLEM,
        503: PROBLEM,
        507: PROBLEM,
    },
    openapi_extra=binary_body("application/octet-stream"),
)
async def append(
    sha256: Sha256,
    request: Request,
    store: StoreDependency,
    folder: FolderDependency,
    checker: CheckerDependency,
    principal: PrincipalDependency,
    settings: SettingsDependency,
    response: Response,
    offset: Annotated[int, Query(ge=0, lt=2**63, description="Where the part begins, in bytes.")],
    length: Annotated[int, Query(ge=1, lt=2**63, description="Bytes of the whole file.")],
) -> UploadState | Response:
    """Append a part of a file; the part that reaches `length` completes it.

    Parts are sent one after another. Of a part whose connection breaks the beginning is kept. The
    digest of the whole is compared with the path; an upload that differs is removed. One to which
    nothing was appended for a day is removed, too.
    """
    if length > settings.max_data_bytes:
        detail = f"a file must have at most {settings.max_data_bytes} bytes, got {length}"
        return problem_response(413, "body_too_large", detail, instance=request.url.path)
    upload = folder.partial(sha256, principal.tenant)
    await store.must_have_room()
    in_parts = folder.bytes_in_parts(principal.tenant)
    await store.must_have_room_for(
        principal.tenant, settings.tenant_bytes, folder.size_or_none, in_parts
    )
    try:
        arrived = await upload.append(offset, length, request.stream())
        if arrived < length:
            return UploadState(offset=arrived)
        await folder.keep_complete(upload, partial(checker.check, "data"))
    except WrongOffset as error:
        detail = f"{error}; GET this address for the offset, and go on from there"
        return problem_response(409, "upload_offset", detail, instance=request.url.path)
    except (WrongDigest, FileRefused) as error:
        raise body_refused(str(error)) from error
    await store.note_data(sha256, principal.tenant)
    response.status_code = 201
    return UploadState(offset=arrived, is_complete=True)


@router.delete("", status_code=204, responses={422: PROBLEM})
async def abandon(
    sha256: Sha256, folder: FolderDependency, principal: PrincipalDependency
) -> Response:
    """Remove the parts of a file that have arrived; a complete file stays."""
    folder.partial(sha256, principal.tenant).abandon()
    return Response(status_code=204)
