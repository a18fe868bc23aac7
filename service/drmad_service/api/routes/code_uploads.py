"""Archives of user code, named by the digest of their bytes."""

from __future__ import annotations

import asyncio
import hashlib

from fastapi import APIRouter, Request, Response

from drmad_client.files import code_archive as archives
from drmad_client.records.base import Record
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.routes.dependencies import (
    PROBLEM,
    Sha256,
    StoreDependency,
    binary_body,
    body_refused,
)

router = APIRouter(prefix="/v1/code", tags=["code"])


class UploadedCode(Record):
    """An uploaded archive, which jobs refer to by `code`."""

    code: str
    size_bytes: int


@router.put(
    "/{sha256}",
    status_code=201,
    responses={200: {"model": UploadedCode}, 413: PROBLEM, 422: PROBLEM, 507: PROBLEM},
    openapi_extra=binary_body("application/zip"),
)
async def upload(
    sha256: Sha256,
    request: Request,
    store: StoreDependency,
    principal: PrincipalDependency,
    response: Response,
) -> UploadedCode:
    """Upload a zip archive. Uploading the same bytes again changes nothing."""
    content = await request.body()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise body_refused(
            f"the path names sha256 {sha256}, but the body has {digest}; PUT it there"
        )
    try:
        await asyncio.to_thread(archives.check, content)
    except archives.CodeError as error:
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
