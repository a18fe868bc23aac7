"""The dashboard's pages. What they show is read through the same store as the API's answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from redis.exceptions import RedisError
from sse_starlette import EventSourceResponse, ServerSentEvent

from drmad_client.export import job_folder
from drmad_client.records.job import JobRecord, JobStatus, MetaIteration
from drmad_client.spec import catalog
from drmad_client.spec.job import JobSpec
from drmad_service.api import array_responses
from drmad_service.api.auth.authentication import PrincipalDependency, signed_in
from drmad_service.api.job_changes import JobChanges
from drmad_service.api.routes import cluster
from drmad_service.api.routes.dependencies import (
    AccessDependency,
    ChangesDependency,
    OverviewDependency,
    SettingsDependency,
    StoreDependency,
    VisibleJobId,
    must_see,
)
from drmad_service.api.stream_limits import counts_as_stream
from drmad_service.dashboard import api_reference, comparison, job_editor, job_page, snippets
from drmad_service.dashboard.rendering import examples, page
from drmad_service.errors import (
    JobNotFound,
    NotSignedIn,
    ResultNotFound,
    ScopeTooLow,
    TooManyRequests,
)

JOBS_OF_A_PAGE = 50
MOST_COMPARED = 8
_LIVE_PACE_S = 0.5


class _PageRoute(APIRoute):
    """Answers what goes wrong as a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except NotSignedIn:
                here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                return RedirectResponse(f"/sign-in?next={quote(here)}", status_code=303)
            except (JobNotFound, ResultNotFound) as error:
                return await page(request, "trouble.html", 404, title="Not found", message=error)
            except ScopeTooLow as error:
                return await page(request, "trouble.html", 403, title="Not allowed", message=error)
            except TooManyRequests as error:
                return await page(request, "trouble.html", 429, title="One moment", message=error)
            except RequestValidationError:
                message = "this address asks for something that does not exist"
                return await page(request, "trouble.html", 404, title="Not found", message=message)
            except RedisError:
                message = "the store does not answer; this page tries again"
                return await page(request, "trouble.html", 503, title="One moment", message=message)

        return handle


router = APIRouter(route_class=_PageRoute, include_in_schema=False)
actions = APIRouter(dependencies=[signed_in], include_in_schema=False)


@router.get("/")
async def jobs(
    request: Request,
    principal: PrincipalDependency,
    overview: OverviewDependency,
    status: Annotated[str, Query(max_length=20)] = "",
    tag: Annotated[str, Query(max_length=400)] = "",
    q: Annotated[str, Query(max_length=200)] = "",
    after: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    chosen = JobStatus(status) if status in set(JobStatus) else None
    name, colon, value = tag.partition(":")
    found = await overview.find(
        chosen,
        (name, value) if colon else None,
        q,
        after or None,
        JOBS_OF_A_PAGE,
        principal.only_tenant,
    )
    counts = await overview.counts(principal.only_tenant)

    def address(**other: str | None) -> str:
        asked = {"status": chosen, "tag": tag, "q": q} | other
        return "/?" + urlencode({name: value for name, value in asked.items() if value})

    return await page(
        request,
        "jobs.html",
        principal=principal,
        jobs=found.data,
        next=found.next,
        after=after,
        losses=await overview.losses(found.data),
        counts=counts,
        total=sum(counts.values()),
        status=chosen,
        tag=tag,
        q=q,
        address=address,
    )


@router.get("/jobs/{job_id}")
async def job(
    request: Request,
    job_id: VisibleJobId,
    principal: PrincipalDependency,
    store: StoreDependency,
    overview: OverviewDependency,
) -> Response:
    # The event first: what happens between the two looks is shown twice rather than never.
    last_event = await overview.last_event(job_id)
    job = await store.get(job_id)
    last: MetaIteration | None = None
    with contextlib.suppress(ResultNotFound):  # nothing is committed, or by the forked job alone
        last = await store.iteration(job_id, "last")
    trials = (await store.trials(job_id, limit=1000)).data if job.spec.search else []
    essential = job_editor.essential(job.spec)
    url = str(request.base_url).rstrip("/")
    return await page(
        request,
        "job.html",
        principal=principal,
        job=job,
        last=last,
        last_event=last_event,
        actions=job_page.actions(job) if principal.may_submit else [],
        charts=job_page.charts(job, await store.fidelity_report(job_id) is not None),
        trials=job_page.best_trials(trials),
        timeline=job_page.timeline(job, await overview.notable_events(job_id)),
        spec={
            "YAML": job_editor.dump(essential),
            "Python": snippets.python(essential, url),
            "curl": snippets.curl(essential, url),
        },
    )


@router.get("/jobs/{job_id}/download/{file}")
async def download(
    job_id: VisibleJobId,
    file: Literal["hyperparameters.safetensors", "model.safetensors", "history.csv", "job.yaml"],
    principal: PrincipalDependency,
    store: StoreDependency,
) -> Response:
    """A file to keep: the best hyperparameters (raw), the best model, the figures, the spec."""
    job = await store.get(job_id)
    media_type = "application/octet-stream"
    if file == "job.yaml":
        content, media_type = job_folder.spec_yaml(job.spec).encode(), "application/yaml"
    elif file == "model.safetensors":
        _, content = await store.model(job_id, "best")
    elif file == "history.csv":
        records: list[MetaIteration] = []
        after, has_more = None, True
        while has_more:
            part = await store.history(job_id, after, 1000)
            records += part.data
            has_more, after = part.has_more, int(part.next) if part.next else None
        content = (await asyncio.to_thread(job_folder.history_csv, records)).encode()
        media_type = "text/csv"
    else:
        record = await store.iteration(job_id, "best")
        blob = await store.vectors(job_id, record.iteration, "state")
        tensors = array_responses.select(blob, job.hyperparameters)
        content = array_responses.as_safetensors(record.iteration, tensors, job.hyperparameters)
    headers = {"Content-Disposition": f'attachment; filename="{job_id}-{file}"'}
    return Response(content, media_type=media_type, headers=headers)


@router.get("/new")
async def new(
    request: Request,
    principal: PrincipalDependency,
    store: StoreDependency,
    like: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """An editor with an example, or with a job to start from."""
    given = examples()
    text = next(iter(given.values()))
    if like:
        await must_see(principal, store, like)
        text = job_editor.dump(job_editor.essential((await store.get(like)).spec))
    return await page(
        request, "new.html", principal=principal, fork=None, text=text, examples=given
    )


@router.get("/jobs/{job_id}/fork")
async def fork(
    request: Request, job_id: VisibleJobId, principal: PrincipalDependency, store: StoreDependency
) -> Response:
    """The same editor, for what a fork changes."""
    job = await store.get(job_id)
    text = job_editor.dump(job_editor.essential(job.spec))
    return await page(request, "new.html", principal=principal, fork=job, text=text, examples={})


@router.get("/compare")
async def compare(
    request: Request,
    principal: PrincipalDependency,
    store: StoreDependency,
    job: Annotated[list[str], Query(max_length=MOST_COMPARED)] = [],  # noqa: B006
) -> Response:
    for job_id in job:
        await must_see(principal, store, job_id)
    chosen: list[JobRecord] = [await store.get(job_id) for job_id in dict.fromkeys(job)]
    return await page(
        request,
        "compare.html",
        principal=principal,
        jobs=chosen,
        differences=comparison.differences([job.spec for job in chosen]),
        metrics=comparison.metrics(chosen),
    )


@router.get("/cluster")
async def cluster_page(
    request: Request,
    principal: PrincipalDependency,
    store: StoreDependency,
    overview: OverviewDependency,
) -> Response:
    view = await cluster.retrieve(store, overview, principal)
    return await page(request, "cluster.html", principal=principal, cluster=view)


@router.get("/docs")
async def api(request: Request, principal: PrincipalDependency) -> Response:
    """What the API offers, as the OpenAPI document has it."""
    document = request.app.openapi()
    groups = api_reference.calls(document)
    return await page(request, "api.html", principal=principal, api=document, groups=groups)


@router.get("/sign-in")
async def sign_in(request: Request) -> Response:
    return await page(request, "sign_in.html", principal=None)


@actions.get("/new/schema")
async def schema() -> dict[str, Any]:
    """What the form is made from."""
    schema: dict[str, Any] = catalog.describe()["schema"]
    return schema


class _Edited(job_editor.Draft):
    fork_of: str | None = None


class _EditorAnswer(BaseModel):
    checked: job_editor.Checked
    changes: dict[str, Any] | None = None


@actions.post("/new/check")
async def check(
    draft: _Edited, store: StoreDependency, principal: PrincipalDependency
) -> _EditorAnswer:
    """Read what somebody types; of a fork also tell what it changes."""
    if draft.fork_of is not None:
        await must_see(principal, store, draft.fork_of)
    checked = await asyncio.to_thread(job_editor.check, draft)
    if draft.fork_of is None or checked.findings or checked.job is None:
        return _EditorAnswer(checked=checked)
    before = (await store.get(draft.fork_of)).spec.model_dump(mode="json")
    after = JobSpec.model_validate(checked.job).model_dump(mode="json")
    changes = job_editor.changes(before, after)
    fixed = [
        job_editor.EditorMessage(path=part, message="stays as in the job that is forked")
        for part in ("problem", "hyperparameters")
        if part in changes
    ]
    return _EditorAnswer(checked=checked.model_copy(update={"findings": fixed}), changes=changes)


@actions.get("/live", dependencies=[counts_as_stream])
async def live(
    changes: ChangesDependency,
    access: AccessDependency,
    principal: PrincipalDependency,
    settings: SettingsDependency,
) -> EventSourceResponse:
    """A word whenever any job has changed, not more often than a page can follow."""

    async def may_go_on() -> bool:
        return await access.still_knows(principal)

    return EventSourceResponse(
        _changes(changes, may_go_on), ping=15, send_timeout=settings.slow_client_timeout_s
    )


async def _changes(
    changes: JobChanges, may_go_on: Callable[[], Awaitable[bool]]
) -> AsyncIterator[ServerSentEvent]:
    async with changes.watch("") as changed:
        yield ServerSentEvent("", event="open")
        while True:
            await changed.wait()
            if changes.closed or not await may_go_on():
                return
            changed.clear()
            yield ServerSentEvent("", event="change")
            await asyncio.sleep(_LIVE_PACE_S)
