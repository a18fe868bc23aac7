"""The user's code: archives, named by the digest of their bytes."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from drmad_client.files import code_archive as archives
from drmad_client.records.job import Record
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.routes.dependencies import PROBLEM, StoreDependency, body_refused

router = APIRouter(prefix="/v1/code", tags=["code"])

Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="Of the archive's bytes.")]


class UploadedCode(Record):
    """An archive that jobs may name."""

    code: str
    size_bytes: int


@router.put(
    "/{sha256}",
    status_code=201,
    responses={200: {"model": UploadedCode}, 413: PROBLEM, 422: PROBLEM, 507: PROBLEM},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload(
    sha256: Sha256,
    request: Request,
    store: StoreDependency,
    principal: PrincipalDependency,
    response: Response,
) -> UploadedCode:
    """Upload a zip archive; the same bytes again change nothing."""
    content = await request.body()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise body_refused(f"the body's sha256 is {digest}; put it under that name")
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
    """Whether the tenant has sent the archive, so that it need not be sent again."""
    return Response(status_code=204 if await store.has_code(sha256, principal.tenant) else 404)
