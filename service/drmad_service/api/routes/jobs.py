"""Jobs: submission, records, actions and logs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError

from drmad_client.records.events import LogLine
from drmad_client.records.job import JobRecord, PreflightReport
from drmad_client.records.pages import Page
from drmad_client.records.status import JobStatus
from drmad_client.spec.fork import ExtendSpec, ForkSpec
from drmad_client.spec.job import JobSpec
from drmad_client.spec.labels import LabelsSpec
from drmad_client.spec.outer.warm_start import unlike
from drmad_client.spec.problem import uploaded_files
from drmad_service.api import etags
from drmad_service.api.auth.api_keys import Principal
from drmad_service.api.auth.authentication import PrincipalDependency
from drmad_service.api.job_changes import JobChanges
from drmad_service.api.middleware.strict_requests import JsonRoute
from drmad_service.api.problem_details import problem_response
from drmad_service.api.routes.dependencies import (
    PROBLEM,
    ChangeableJobId,
    ChangesDependency,
    EntryCursor,
    FolderDependency,
    JobCursor,
    SettingsDependency,
    StoreDependency,
    StreamLimitsDependency,
    VisibleJobId,
    body_refused,
    must_see,
    until_gone,
)
from drmad_service.errors import ActionRefused, JobNotFound, ResultNotFound
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from drmad_service.store.files.data_folder import DataFolder
from drmad_service.store.jobs.job_requests import Archived

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=JsonRoute)

_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,9})(?:$|[,;\s])")
_INVALID: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 413, 415, 422), PROBLEM)
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: PROBLEM, 422: PROBLEM}


@router.post(
    "",
    status_code=201,
    response_model=JobRecord,
    responses={
        200: {
            "model": JobSpec | PreflightReport | JobRecord,
            "description": "The job was only validated, or its Idempotency-Key is known.",
        },
        409: PROBLEM,
        503: PROBLEM,
        **_INVALID,
    },
)
async def submit(
    spec: JobSpec,
    store: StoreDependency,
    data: FolderDependency,
    principal: PrincipalDependency,
    settings: SettingsDependency,
    request: Request,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(
            max_length=255,
            description="Submitting the same key and body again returns the same job.",
        ),
    ] = None,
    validate_only: Annotated[
        bool,
        Query(
            description="Create no job: run its preflight on a worker and return the report, whose "
            "proofs may have failed."
        ),
    ] = False,
    deep: Annotated[
        bool,
        Query(
            description="With validate_only, false validates only the spec and returns it with its "
            "defaults."
        ),
    ] = True,
) -> Any:
    """Submit a job and return its record."""
    _require_within_limits(spec, settings)
    await _require_uploads(spec, store, data, principal.tenant)
    _require_allowed(spec, settings)
    await _require_start(spec, store, principal)
    if validate_only and deep:
        return await _preflight(spec, store, settings, principal.tenant, request)
    if validate_only:
        return Response(spec.model_dump_json(), media_type="application/json")
    await store.must_have_room_for(principal.tenant, settings.tenant_bytes, data.size_or_none)
    job, created = await store.create(spec, idempotency_key, principal.tenant, principal.key_id)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    response.headers["ETag"] = _etag(job)
    return job


@router.get("", responses={422: PROBLEM})
async def list_jobs(
    store: StoreDependency,
    principal: PrincipalDependency,
    status: Annotated[
        list[JobStatus],
        Query(
            default_factory=list,
            description="Return only jobs in one of these states; repeatable.",
        ),
    ],
    tag: Annotated[
        list[Annotated[str, Field(pattern=r"^.{1,64}:.{0,256}$")]],
        Query(
            default_factory=list,
            description="Return only jobs with this tag, as in team:vision. Repeatable: of the "
            "values of one key a job has one, and of several keys it has all.",
        ),
    ],
    after: JobCursor = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    archived: Annotated[
        Archived, Query(description="Whether archived jobs are left out, are listed too, or alone.")
    ] = "exclude",
) -> Page[JobRecord]:
    """List the tenant's jobs, newest first and without transitions.

    A key with the scope `admin` lists the jobs of every tenant.
    """
    return await store.jobs(status, tag, after or None, limit, principal.only_tenant, archived)


@router.get("/{job_id}", response_model=JobRecord, responses={304: {}, **_UNKNOWN})
async def retrieve(
    job_id: VisibleJobId,
    store: StoreDependency,
    changes: ChangesDependency,
    settings: SettingsDependency,
    principal: PrincipalDependency,
    stream_limits: StreamLimitsDependency,
    response: Response,
    if_none_match: Annotated[str | None, Header(max_length=4096)] = None,
    prefer: Annotated[
        str | None,
        Header(max_length=255, description="wait=30 waits up to 30 seconds for a change."),
    ] = None,
) -> Any:
    """Return a job, or 304 if the header If-None-Match has its ETag, in a list too, or *."""
    job = await store.get(job_id)
    known = if_none_match or (_etag(job) if prefer else None)
    if etags.matches(known, _etag(job)) and (wait := _WAIT.search(prefer or "")):
        wait_s = min(float(wait[1]), settings.longest_wait_s)
        with stream_limits.hold(principal):
            job = await _changed(store, changes, job, wait_s)
    headers = {"ETag": _etag(job)}
    if etags.matches(if_none_match, _etag(job)):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return job


@router.patch("/{job_id}", responses={409: PROBLEM, 404: PROBLEM, 507: PROBLEM, **_INVALID})
async def label(
    job_id: ChangeableJobId,
    labels: LabelsSpec,
    store: StoreDependency,
    principal: PrincipalDependency,
) -> JobRecord:
    """Rename a job, change its note or its tags, or archive it. None of it changes its results.

    What the body leaves out stays as it is, and null removes: a merge patch (RFC 7396). Lists
    show an archived job again once it is extended.
    """
    return await store.label(job_id, labels, principal.key_id)


@router.post("/{job_id}/cancel", responses={409: PROBLEM, **_UNKNOWN})
async def cancel(
    job_id: ChangeableJobId, store: StoreDependency, principal: PrincipalDependency
) -> JobRecord:
    """Cancel the job now. It keeps its committed meta-iterations."""
    return await store.cancel(job_id, principal.key_id)


@router.post("/{job_id}/pause", responses={409: PROBLEM, **_UNKNOWN})
async def pause(
    job_id: ChangeableJobId, store: StoreDependency, principal: PrincipalDependency
) -> JobRecord:
    """Pause the job after its current meta-iteration and free its resources."""
    return await store.pause(job_id, principal.key_id)


@router.post("/{job_id}/resume", responses={409: PROBLEM, **_UNKNOWN})
async def resume(
    job_id: ChangeableJobId, store: StoreDependency, principal: PrincipalDependency
) -> JobRecord:
    """Resume a paused job."""
    return await store.resume(job_id, principal.key_id)


@router.post("/{job_id}/extend", responses={409: PROBLEM, 507: PROBLEM, 404: PROBLEM, **_INVALID})
async def extend(
    job_id: ChangeableJobId,
    extension: ExtendSpec,
    store: StoreDependency,
    data: FolderDependency,
    principal: PrincipalDependency,
    settings: SettingsDependency,
) -> JobRecord:
    """Continue a job that has ended from its last meta-iteration, for more meta-iterations."""
    job = await store.get(job_id)
    spec = job.spec
    if job.failed_preflight:
        advice = (
            ", because its preflight failed, and the same spec would fail it again; submit a new "
            "job with the cause corrected, or with the failed proofs in preflight.override"
        )
        raise ActionRefused(job_id, "extend", job.status, advice)
    try:
        longer = JobSpec.combined(
            spec.model_dump()
            | {
                "meta": {
                    **spec.meta.model_dump(),
                    "iterations": spec.meta.iterations + extension.iterations,
                }
            }
        )
    except ValidationError as error:
        raise _invalid_body(error, extension.model_dump(), ("iterations",)) from error
    # What was allowed and kept when the job was created may no longer be.
    _require_within_limits(longer, settings)
    await _require_uploads(longer, store, data, job.tenant)
    _require_allowed(longer, settings)
    return await store.extend(job, longer, principal.key_id)


@router.post(
    "/{job_id}/fork",
    status_code=201,
    responses={507: PROBLEM, 404: PROBLEM, **_INVALID},
)
async def fork(
    job_id: VisibleJobId,
    request: ForkSpec,
    store: StoreDependency,
    data: FolderDependency,
    principal: PrincipalDependency,
    settings: SettingsDependency,
    response: Response,
) -> JobRecord:
    """Create a job that starts from a kept meta-iteration of this one.

    Without changes it reproduces the numbers of this job. Changes that the kept state does not fit
    are refused; the record's `adapted` says what of the state was adapted to the others. The code,
    the data and the limits that it inherits are validated as those of a new job.
    """
    try:
        begun = (await store.get(job_id)).begun
        spec = request.applied_to(begun)
    except ValidationError as error:
        raise _invalid_body(error, request.model_dump()) from error
    _require_within_limits(spec, settings)
    await _require_uploads(spec, store, data, principal.tenant)
    _require_allowed(spec, settings)
    await store.must_have_room_for(principal.tenant, settings.tenant_bytes, data.size_or_none)
    job = await store.fork(
        job_id, request.iteration, begun, spec, principal.tenant, principal.key_id
    )
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    response.headers["ETag"] = _etag(job)
    return job


@router.get("/{job_id}/logs", responses=_UNKNOWN)
async def logs(
    job_id: VisibleJobId,
    store: StoreDependency,
    after: EntryCursor = None,
    replica: Annotated[
        int | None, Query(ge=0, lt=2**31, description="Return only the lines of this replica.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[LogLine]:
    """List the log lines of the replicas; the service keeps the last ones."""
    return await store.logs(job_id, after or None, replica, limit)


@router.delete("/{job_id}", status_code=204, responses={409: PROBLEM, **_UNKNOWN})
async def delete(
    job_id: ChangeableJobId, store: StoreDependency, principal: PrincipalDependency
) -> None:
    """Delete a job that has ended, with all its data."""
    await store.delete(job_id, principal.key_id)


def _require_allowed(spec: JobSpec, settings: ApiSettings) -> None:
    asks = spec.problem.kind == "code" and spec.problem.requirements
    if asks and not settings.allow_requirements:
        message = (
            "this service installs no packages for jobs; copy the package's code into your "
            "folder, or ask the operator to set --allow-requirements"
        )
        raise body_refused(message, "problem", "requirements")


async def _preflight(
    spec: JobSpec, store: Store, settings: ApiSettings, tenant: str, request: Request
) -> Response:
    """Runs a preflight on a worker and returns its report; waits for a scheduler to start."""
    preflight_id = await store.request_preflight(spec, tenant)
    try:
        answer = await store.preflight_answer(
            preflight_id, settings.check_wait_s, until_gone(request)
        )
    finally:
        await store.withdraw_preflight(preflight_id)
    if isinstance(answer, PreflightReport):
        return Response(answer.model_dump_json(), media_type="application/json")
    if answer is None and not (await store.cluster()).schedulers:
        message = (
            f"no scheduler was running within {settings.check_wait_s:g} s to run the preflight; "
            "start one with: drmad schedule"
        )
        return problem_response(409, "not_checked", message, instance="/v1/jobs")
    if answer is None:
        message = (
            f"no scheduler completed the preflight within {settings.check_wait_s:g} s; retry later"
        )
        return problem_response(503, "not_checked", message, instance="/v1/jobs")
    detail = f"{answer.message}\n{answer.traceback or ''}".rstrip()
    return problem_response(422, answer.code, detail, instance="/v1/jobs")


async def _require_uploads(spec: JobSpec, store: Store, data: DataFolder, tenant: str) -> None:
    if spec.problem.kind == "code" and not await store.has_code(spec.problem.code, tenant):
        message = (
            "this archive is not uploaded; PUT it to /v1/code/{sha256} first, or submit with "
            "--code FOLDER"
        )
        raise body_refused(message, "problem", "code")
    for path, name in uploaded_files(spec.problem).items():
        sha256 = name.removeprefix("sha256:")
        if await store.has_data(name, tenant) and await data.is_kept(sha256):
            continue
        message = (
            "this file is not uploaded; PUT it to /v1/data/{sha256} first, or run: drmad data "
            "upload FILE"
        )
        raise body_refused(message, *path)


async def _require_start(spec: JobSpec, store: Store, principal: Principal) -> None:
    """Refuses values to start from that do not exist, or have another meaning in this job."""
    if spec.start is None:
        return
    try:
        await must_see(principal, store, spec.start.job)
        source = await store.get(spec.start.job)
    except JobNotFound as error:
        message = f"there is no job {spec.start.job}; GET /v1/jobs lists the jobs"
        raise body_refused(message, "start", "job") from error
    try:
        number = (await store.iteration(spec.start.job, spec.start.iteration)).iteration
        await store.state_of(spec.start.job, number)
    except ResultNotFound as error:
        raise body_refused(str(error), "start", "iteration") from error
    lines = [
        {"type": "misfit", "loc": ("body", *path), "msg": message, "input": value}
        for path, value, message in unlike(spec, source.begun)
    ]
    if lines:
        raise RequestValidationError(lines, body=spec.model_dump(mode="json"))


def _invalid_body(
    error: ValidationError, body: Any, at: tuple[str, ...] | None = None
) -> RequestValidationError:
    """Reports an error that depends on more than the body like an error of the body itself."""
    lines = [{**line, "loc": ("body", *(at or line["loc"]))} for line in error.errors()]
    return RequestValidationError(lines, body=body)


def _require_within_limits(spec: JobSpec, settings: ApiSettings) -> None:
    """Refuses a spec that exceeds the operator's limits."""
    violations = [*settings.job_limits.violations(spec), *_refused_addresses(spec, settings)]
    lines = [
        {"type": "misfit", "loc": ("body", *path), "msg": message, "input": None}
        for path, message in violations
    ]
    if lines:
        raise RequestValidationError(lines, body=spec.model_dump(mode="json"))


def _refused_addresses(
    spec: JobSpec, settings: ApiSettings
) -> Iterator[tuple[tuple[int | str, ...], str]]:
    for channel in ("webhook", "slack"):
        url = getattr(spec.notify, channel)
        if url is not None and (refusal := settings.webhooks.refusal(url)):
            yield ("notify", channel), refusal
    for place, address in enumerate(spec.notify.email):
        if refusal := settings.mail.refusal(address):
            yield ("notify", "email", place), refusal


def _etag(job: JobRecord) -> str:
    return f'"{job.version}"'


async def _changed(store: Store, changes: JobChanges, job: JobRecord, wait_s: float) -> JobRecord:
    async with changes.watch(job.id) as changed:
        now = await store.get(job.id)
        if now.version == job.version and not changes.closed:
            try:
                await asyncio.wait_for(changed.wait(), wait_s)
            except TimeoutError:
                return now
            now = await store.get(job.id)
    return now
