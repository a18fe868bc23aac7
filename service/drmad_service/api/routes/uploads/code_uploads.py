"""Archives of user code, named by the digest of their bytes."""

from __future__ import annotations

import asyncio

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
from drmad_service.errors import ResultNotFound
from drmad_service.store.files.received_file import WrongDigest

router = APIRouter(prefix="/v1/code", tags=["code"])


class UploadedCode(Record):
    """An uploaded archive, which jobs refer to by `code`."""

    code: str
    size_bytes: int


@router.put(
    "/{sha256}",
    status_code=201,
    dependencies=[counts_as_upload],
    responses={200: {"model": UploadedCode}, 413: PROBLEM, 422: PROBLEM, 507: PROBLEM},
    openapi_extra=binary_body("application/zip"),
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
) -> UploadedCode:
    """Upload a zip archive. Uploading the same bytes again changes nothing."""
    await store.must_have_room_for(principal.tenant, settings.tenant_bytes, folder.size_or_none)
    try:
        async with folder.received(sha256, request.stream()) as path:
            await checker.check("code", path)
            content = await asyncio.to_thread(path.read_bytes)
    except (WrongDigest, FileRefused) as error:
        raise body_refused(str(error)) from error
    if not await store.put_code(sha256, content, principal.tenant):
        response.status_code = 200
    return UploadedCode(code=f"sha256:{sha256}", size_bytes=len(content))


@router.head("/{sha256}", status_code=204, responses={404: {}, 422: PROBLEM})
async def exists(
    sha256: Sha256, store: StoreDependency, principal: PrincipalDependency
) -> Response:
    """Check whether the tenant has already uploaded the archive."""
    return Response(status_code=204 if await store.has_code(sha256, principal.tenant) else 404)


@router.get(
    "/{sha256}",
    response_class=Response,
    responses={
        200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}},
        404: PROBLEM,
        422: PROBLEM,
    },
)
async def download(
    sha256: Sha256, store: StoreDependency, principal: PrincipalDependency
) -> Response:
    """Download an archive that the tenant has uploaded."""
    if not await store.has_code(sha256, principal.tenant):
        raise ResultNotFound(f"the code sha256:{sha256} is not kept; upload it again")
    return Response(await store.code(sha256), media_type="application/zip")
