"""Uploaded data sets and weights, named by the digest of their bytes."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from drmad_client.records.base import Record
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.file_checker import FileRefused
from drmad_service.api.middleware.upload_limits import counts_as_upload
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
from drmad_service.store.files.received_file import WrongDigest

router = APIRouter(prefix="/v1/data", tags=["data"])


class UploadedData(Record):
    """An uploaded file of arrays, which jobs refer to by `problem.data` or `problem.weights`."""

    data: str
    size_bytes: int


@router.put(
    "/{sha256}",
    status_code=201,
    dependencies=[counts_as_upload],
    responses={
        200: {"model": UploadedData},
        413: PROBLEM,
        422: PROBLEM,
        503: PROBLEM,
        507: PROBLEM,
    },
    openapi_extra=binary_body("application/octet-stream"),
)
async def upload(
    sha256: Sha256,
    request: Request,
    store: StoreDependency,
    folder: FolderDependency,
    checker: CheckerDependency,
    principal: PrincipalDependency,
    settings: SettingsDependency,
    response: Response,
) -> UploadedData:
    """Upload a file of arrays (npz, safetensors) or of a table (CSV, Parquet).

    Uploading the same bytes again changes nothing.
    """
    await store.must_have_room()
    await store.must_have_room_for(principal.tenant, settings.tenant_bytes, folder.size_or_none)
    try:
        size = await folder.put(sha256, request.stream(), partial(checker.check, "data"))
    except (WrongDigest, FileRefused) as error:
        raise body_refused(str(error)) from error
    if not await store.note_data(sha256, principal.tenant):
        response.status_code = 200
    return UploadedData(data=f"sha256:{sha256}", size_bytes=size)


@router.head("/{sha256}", status_code=204, responses={404: {}, 422: PROBLEM, 503: PROBLEM})
async def exists(
    sha256: Sha256,
    store: StoreDependency,
    folder: FolderDependency,
    principal: PrincipalDependency,
) -> Response:
    """Check whether the tenant has already uploaded the file."""
    if not (await store.has_data(sha256, principal.tenant) and await folder.is_kept(sha256)):
        return Response(status_code=404)
    await store.note_data(sha256, principal.tenant)
    return Response(status_code=204)
