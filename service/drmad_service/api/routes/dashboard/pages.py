"""Routes of the dashboard. Pages read the same store as the JSON routes."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, StringConstraints
from redis.exceptions import RedisError
from sse_starlette import EventSourceResponse, ServerSentEvent

from drmad_client.export import job_folder, recipe_folder
from drmad_client.export.recipe import reads_data
from drmad_client.plots.cluster_use import cluster_use
from drmad_client.records.field_errors import message_of
from drmad_client.records.group import group_record
from drmad_client.records.job import JobRecord
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.service.usage import TenantLimits
from drmad_client.records.status import JobStatus
from drmad_client.spec import capabilities
from drmad_client.spec.groups import GROUP
from drmad_client.spec.job import JobSpec
from drmad_client.spec.outer.transforms import to_user_units
from drmad_service.api import array_responses
from drmad_service.api.auth.authentication import PrincipalDependency, signed_in
from drmad_service.api.file_responses import file_response
from drmad_service.api.job_changes import JobChanges
from drmad_service.api.middleware.compression import compressible
from drmad_service.api.middleware.stream_limits import counts_as_stream
from drmad_service.api.middleware.strict_requests import refuse_unknown_parameters
from drmad_service.api.routes import groups as groups_route
from drmad_service.api.routes.dashboard.figures import first_and_best
from drmad_service.api.routes.dependencies import (
    AccessDependency,
    ChangesDependency,
    OverviewDependency,
    SettingsDependency,
    StoreDependency,
    VisibleJobId,
    must_see,
)
from drmad_service.api.routes.service import cluster
from drmad_service.dashboard import (
    api_reference,
    comparison,
    job_editor,
    job_page,
    job_rows,
    job_trust,
    job_verdict,
    learned,
    rendering,
    snippets,
)
from drmad_service.dashboard.job_rows import JobRow
from drmad_service.errors import (
    GroupNotFound,
    JobNotFound,
    NotSignedIn,
    ResultNotFound,
    ScopeTooLow,
    TooManyRequests,
)
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from drmad_service.store.access.refusals import refusal_of
from drmad_service.store.jobs.job_requests import Archived
from drmad_service.store.overview import OF_METRIC, ORDERS, Overview, key_of

JOBS_PER_PAGE = 50
MAX_METRICS = 6
"""Metrics that the list of jobs shows in columns of their own."""
MetricName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
MAX_COMPARED_JOBS = 8
MAX_FOLDED_GROUPS = 10
"""Groups that a page of the list folds; each is read whole."""
MAX_COMPARED_VALUES = 1_000_000
"""Hyperparameters of a job above which no rank correlation is computed for a page."""
_CHANGE_INTERVAL_S = 0.5


class _PageRoute(APIRoute):
    """Renders errors as pages, and redirects to the sign-in page where a key is missing."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                if self.path != "/sign-in":  # providers of sign-in add parameters of their own
                    await refuse_unknown_parameters(request)
                return await handler(request)
            except NotSignedIn:
                here = (
                    root_of(request)
                    + request.url.path
                    + (f"?{request.url.query}" if request.url.query else "")
                )
                target = f"{root_of(request)}/sign-in?next={quote(here)}"
                return RedirectResponse(target, status_code=303)
            except (GroupNotFound, JobNotFound, ResultNotFound) as error:
                return await page(request, "trouble.html", 404, title="Not found", message=error)
            except ScopeTooLow as error:
                return await page(request, "trouble.html", 403, title="Not allowed", message=error)
            except TooManyRequests as error:
                return await page(
                    request, "trouble.html", 429, title="Too many requests", message=error
                )
            except RequestValidationError as error:
                wrong = [each for each in error.errors() if each["loc"][0] == "query"]
                if wrong:
                    said = "; ".join(
                        f"{each['loc'][1]}: {message_of(each, None)}" for each in wrong
                    )
                    message = f"A parameter of the address is invalid. {said}."
                    return await page(
                        request, "trouble.html", 422, title="Not understood", message=message
                    )
                message = "The address names no page."
                return await page(request, "trouble.html", 404, title="Not found", message=message)
            except RedisError as error:
                refusal = refusal_of(error)
                message = "The store does not respond. Reload this page in a few seconds."
                if refusal is not None:
                    message = f"{refusal}."
                return await page(
                    request, "trouble.html", 503, title="Service unavailable", message=message
                )

        return handle


def root_of(request: Request) -> str:
    """The path below which a proxy offers the service; empty without one."""
    settings: ApiSettings = request.app.state.settings
    return settings.root_path


async def page(request: Request, template: str, status_code: int = 200, **values: Any) -> Response:
    html = rendering.render(template, request.url.path, root_of(request), **values)
    response = await compressible(request, html.encode(), "text/html", rendering.HEADERS)
    response.status_code = status_code
    return response


router = APIRouter(route_class=_PageRoute, include_in_schema=False)
actions = APIRouter(dependencies=[signed_in], include_in_schema=False)


@router.get("/")
async def jobs(
    request: Request,
    principal: PrincipalDependency,
    store: StoreDependency,
    overview: OverviewDependency,
    status: Annotated[str, Query(max_length=20)] = "",
    tag: Annotated[str, Query(max_length=400)] = "",
    q: Annotated[str, Query(max_length=200)] = "",
    after: Annotated[str, Query(max_length=64)] = "",
    sort: Annotated[str, Query(pattern=f"^({'|'.join(ORDERS)}|{OF_METRIC}.{{1,200}})?$")] = "",
    down: Annotated[str, Query(pattern="^1?$")] = "",
    archived: Annotated[str, Query(pattern="^(only)?$")] = "",
    metric: Annotated[list[MetricName], Query(max_length=MAX_METRICS)] = [],  # noqa: B006
) -> Response:
    chosen = JobStatus(status) if status in set(JobStatus) else None
    wanted = (chosen, tag if ":" in tag else "", q)
    which: Archived = "only" if archived else "exclude"
    is_folded = not tag.startswith(f"{GROUP}:")  # the members of one group are asked for
    if sort:
        start = int(after) if after.isdecimal() else 0
        every = await overview.ordered(sort, bool(down), *wanted, principal.only_tenant, which)
        listed = job_rows.ordered(job_rows.folded(every, is_folded), sort, key_of(sort), bool(down))
        rows = listed[start : start + JOBS_PER_PAGE]
        more = str(start + JOBS_PER_PAGE) if start + JOBS_PER_PAGE < len(listed) else None
    else:
        found = await overview.find(
            *wanted, after or None, JOBS_PER_PAGE, principal.only_tenant, which
        )
        rows, more = job_rows.folded(found.data, is_folded), found.next
        if not (status or q or tag or archived):
            rows = await _whole_groups(store, rows, principal.only_tenant)
    shown = [job for row in rows for job in row.shown]
    counts = await overview.counts(principal.only_tenant)

    def address(**other: str | Sequence[str] | None) -> str:
        query: dict[str, str | Sequence[str] | None] = {
            "status": chosen,
            "tag": tag,
            "q": q,
            "sort": sort,
            "down": down,
        }
        query |= {"archived": archived, "metric": metric} | other
        stated = {name: value for name, value in query.items() if value}
        return f"{root_of(request)}/?" + urlencode(stated, doseq=True)

    return await page(
        request,
        "jobs.html",
        principal=principal,
        rows=rows,
        permitted=lambda job: job_rows.permitted(
            job, principal.may_submit and principal.may_change(job.created_by)
        ),
        is_filtered=bool(status or q or tag or archived),
        next=more,
        after=after,
        losses=await overview.losses(shown),
        trust=await _trust(store, overview, shown),
        counts=counts,
        total=sum(counts.values()),
        status=chosen,
        tag=tag,
        q=q,
        sort=sort,
        down=down,
        archived=archived,
        columns=list(dict.fromkeys(metric)),
        metrics=job_rows.metrics(shown),
        most_metrics=MAX_METRICS,
        tenants=principal.only_tenant is None and any(j.tenant != "local" for j in shown),
        address=address,
    )


async def _whole_groups(store: Store, rows: Sequence[JobRow], tenant: str | None) -> list[JobRow]:
    """The folded groups with those of their jobs that older pages of the list have."""
    whole: list[JobRow] = []
    read = 0
    for row in rows:
        if row.group is not None and read < MAX_FOLDED_GROUPS:
            read += 1
            every = await groups_route.members(store, row.group.name, tenant)
            of_page = {job.id for job in row.jobs}
            older = [job for job in every if job.id not in of_page and job.archived_at is None]
            whole.append(JobRow([*row.jobs, *older], group_record(row.group.name, every)))
        else:
            whole.append(row)
    return whole


async def _trust(
    store: Store, overview: Overview, jobs: Sequence[JobRecord]
) -> dict[str, job_trust.Trust]:
    """By the id of the job what its page says against its result."""
    validated, retrained = await overview.side_runs(jobs)
    found = {}
    for job in jobs:
        counted = None
        if job.id in retrained:
            counted = job_verdict.counted(job, await store.retrainings(job.id))
        verdict = job_verdict.judged(job, None, None, None, counted)
        validations = await store.validations(job.id) if job.id in validated else []
        validation = next((each for each in validations if each.report), None)
        if trust := job_trust.trust(job, verdict, validation):
            found[job.id] = trust
    return found


@router.get("/jobs/{job_id}")
async def job(
    request: Request,
    job_id: VisibleJobId,
    principal: PrincipalDependency,
    store: StoreDependency,
    overview: OverviewDependency,
) -> Response:
    # The event id is read first: a change between the two reads is shown twice, never missed.
    last_event = await overview.last_event(job_id)
    job = await store.get(job_id)
    last: MetaIteration | None = None
    with contextlib.suppress(
        ResultNotFound
    ):  # no meta-iteration is committed, or only those of the forked job
        last = await store.iteration(job_id, "last")
    trials = (await store.trials(job_id, limit=1000)).data if job.spec.search else []
    attributed = await store.attribution(job_id) if await store.has_attribution(job_id) else None
    validations = await store.validations(job_id)
    validated = next((each for each in validations if each.report), None)
    retrainings = await store.retrainings(job_id)
    retrained = next((each for each in retrainings if each.report), None)
    counted = job_verdict.counted(job, retrainings)
    measured = await store.fidelity(job_id)
    fields = job_editor.without_defaults(job.spec)
    may_change = principal.may_submit and principal.may_change(job.created_by)
    url = str(request.base_url).rstrip("/") + root_of(request)
    verdict = job_verdict.judged(job, *await _shown_iterations(store, job), last, counted)
    return await page(
        request,
        "job.html",
        principal=principal,
        job=job,
        last=last,
        last_event=last_event,
        actions=job_page.permitted(job, principal.may_submit, may_change),
        may_change=may_change,
        charts=job_page.charts(job, len((measured["report"] or {}).get("predictions", ())) > 1),
        verdict=verdict,
        trust=job_trust.trust(job, verdict, validated),
        other_warnings=job_trust.other_warnings(job),
        probes=job_verdict.probe_rows(_probes(measured)),
        learned=learned.views(job) if job.progress.iteration > 0 else [],
        trials=job_page.best_trials(trials),
        attributed=attributed,
        validation=validations[0] if validations else None,
        validated=validated,
        retraining=retrainings[0] if retrainings else None,
        retrained=retrained,
        may_retrain=may_change and job.best is not None,
        recipe_reads_data=reads_data(job.spec),
        may_validate=may_change and job.best is not None,
        timeline=job_page.timeline(job, await overview.notable_events(job_id)),
        spec={
            "YAML": job_editor.to_yaml(fields),
            "Python": snippets.python(fields, url),
            "curl": snippets.curl(fields, url),
        },
    )


async def _shown_iterations(
    store: Store, job: JobRecord
) -> tuple[MetaIteration | None, MetaIteration | None]:
    """The meta-iteration before tuning, and one some time before the last."""
    begin = int((job.forked_from or "@0").partition("@")[2])
    found: list[MetaIteration | None] = []
    for number in (begin, job_verdict.earlier_than(job.progress.iteration)):
        record = None
        if number < job.progress.iteration:
            with contextlib.suppress(ResultNotFound):
                record = await store.iteration(job.id, number)
        found.append(record)
    return found[0], found[1]


def _probes(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """The fidelity probes of a job: that of the method of the spec, or those of auto."""
    figures = [found["figure"] for found in (measured["report"] or {}).get("predictions", ())]
    reported = [{"iteration": None, "probes": figures}] if figures else []
    return [*reported, *measured["choices"]]


@router.get("/jobs/{job_id}/download/{file}")
async def download(
    job_id: VisibleJobId,
    file: Literal["hyperparameters.safetensors", "model.safetensors", "history.csv", "job.yaml"],
    principal: PrincipalDependency,
    store: StoreDependency,
    request: Request,
) -> Response:
    """Downloads the best hyperparameters (raw units), the best model, the history or the spec."""
    job = await store.get(job_id)
    media_type = "application/octet-stream"
    headers = {"Content-Disposition": f'attachment; filename="{job_id}-{file}"'}
    if file == "job.yaml":
        content, media_type = job_folder.spec_yaml(job.spec).encode(), "application/yaml"
    elif file == "model.safetensors":
        _, model = await store.model(job_id, "best")
        return await file_response(request, model, media_type, headers)
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
    return Response(content, media_type=media_type, headers=headers)


@router.get("/jobs/{job_id}/recipe.zip")
async def recipe(job_id: VisibleJobId, store: StoreDependency) -> Response:
    """Downloads recipe.py with the best hyperparameters and the job's own code."""
    job = await store.get(job_id)
    record = await store.iteration(job_id, "best")
    blob = await store.vectors(job_id, record.iteration, "state")
    raw = array_responses.select(blob, job.hyperparameters)
    tuned = {
        each.name: to_user_units(raw[each.name], each.transform) for each in job.hyperparameters
    }
    code = await store.code(job.spec.problem.code) if job.spec.problem.kind == "code" else None
    content = await asyncio.to_thread(
        lambda: recipe_folder.zipped(recipe_folder.recipe_files(job, tuned, code))
    )
    headers = {"Content-Disposition": f'attachment; filename="{job_id}-recipe.zip"'}
    return Response(content, media_type="application/zip", headers=headers)


@router.get("/new")
async def new(
    request: Request,
    principal: PrincipalDependency,
    store: StoreDependency,
    like: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """The editor, filled with an example or with the spec of the job `like`."""
    given = rendering.examples()
    text = next(iter(given.values()))
    if like:
        await must_see(principal, store, like)
        text = job_editor.to_yaml(job_editor.without_defaults((await store.get(like)).spec))
    return await page(
        request, "new.html", principal=principal, fork=None, text=text, examples=given
    )


@router.get("/jobs/{job_id}/fork")
async def fork(
    request: Request, job_id: VisibleJobId, principal: PrincipalDependency, store: StoreDependency
) -> Response:
    """The editor, filled with the spec of the job that is forked."""
    job = await store.get(job_id)
    text = job_editor.to_yaml(job_editor.without_defaults(job.spec))
    return await page(request, "new.html", principal=principal, fork=job, text=text, examples={})


@router.get("/compare")
async def compare(
    request: Request,
    principal: PrincipalDependency,
    store: StoreDependency,
    job: Annotated[list[str], Query(max_length=MAX_COMPARED_JOBS)] = [],  # noqa: B006
    group: Annotated[list[str], Query(max_length=MAX_COMPARED_JOBS)] = [],  # noqa: B006
) -> Response:
    """Jobs beside each other; of groups, their settings with mean and interval."""
    for job_id in job:
        await must_see(principal, store, job_id)
    chosen: list[JobRecord] = [await store.get(job_id) for job_id in dict.fromkeys(job)]
    groups = [
        group_record(name, await groups_route.members(store, name, principal.only_tenant))
        for name in dict.fromkeys(group)
    ]
    if groups and not chosen:
        ids = [row.jobs[0] for found in groups for row in found.rows][:MAX_COMPARED_JOBS]
        chosen = [await store.get(job_id) for job_id in ids]
    return await page(
        request,
        "compare.html",
        principal=principal,
        jobs=chosen,
        groups=groups,
        differences=comparison.differences([job.spec for job in chosen]),
        metrics=comparison.metrics(chosen),
        best=comparison.best(chosen),
        alike=comparison.alike(chosen) if chosen else set(),
        shared=await _shared(store, chosen),
    )


async def _shared(store: Store, jobs: list[JobRecord]) -> list[comparison.SharedHyperparameter]:
    values = {}
    for job in jobs:
        if sum(math.prod(info.shape) for info in job.hyperparameters) <= MAX_COMPARED_VALUES:
            values[job.id] = (await first_and_best(store, job))[1]
    return await asyncio.to_thread(comparison.shared, jobs, values)


@router.get("/cluster")
async def cluster_page(
    request: Request,
    principal: PrincipalDependency,
    store: StoreDependency,
    overview: OverviewDependency,
) -> Response:
    view = await cluster.retrieve(store, overview, principal)
    tenants = await store.usage(principal.only_tenant, TenantLimits(), None)
    return await page(request, "cluster.html", principal=principal, cluster=view, tenants=tenants)


@actions.get("/cluster/use")
async def cluster_figure(store: StoreDependency) -> dict[str, Any]:
    """The use of the cluster over the last week, as a figure."""
    samples = await store.uses()
    return await asyncio.to_thread(cluster_use, samples)


@router.get("/docs")
async def api(request: Request, principal: PrincipalDependency) -> Response:
    """The API reference, made from the OpenAPI document."""
    document = request.app.openapi()
    groups = api_reference.calls(document)
    return await page(request, "api.html", principal=principal, api=document, groups=groups)


@router.get("/sign-in")
async def sign_in(request: Request) -> Response:
    provider = request.app.state.provider
    return await page(
        request, "sign_in.html", principal=None, provider=provider.host if provider else ""
    )


@actions.get("/new/schema")
async def schema() -> dict[str, Any]:
    """The JSON schema from which form.js makes the form."""
    schema: dict[str, Any] = capabilities.describe()["schema"]
    return schema


class _EditorDraft(job_editor.Draft):
    fork_of: str | None = None


class _EditorAnswer(BaseModel):
    draft: job_editor.ValidatedDraft
    changes: dict[str, Any] | None = None


@actions.post("/new/check")
async def validate(
    draft: _EditorDraft, store: StoreDependency, principal: PrincipalDependency
) -> _EditorAnswer:
    """Validates a draft; for a fork, also returns the fields that it changes."""
    if draft.fork_of is not None:
        await must_see(principal, store, draft.fork_of)
    validated = await asyncio.to_thread(job_editor.validate, draft)
    if draft.fork_of is None or validated.findings or validated.job is None:
        return _EditorAnswer(draft=validated)
    job = await store.get(draft.fork_of)
    before = job.spec.model_dump(mode="json")
    after = JobSpec.model_validate(validated.job).model_dump(mode="json")
    changes = job_editor.changes(before, after)
    findings = [
        job_editor.EditorMessage(
            path=part, message="cannot change in a fork; restore the value of the forked job"
        )
        for part in ("problem", "hyperparameters")
        if part in changes
    ]
    findings = findings or job_editor.fork_findings(job.begun, changes)
    return _EditorAnswer(draft=validated.model_copy(update={"findings": findings}), changes=changes)


@actions.get("/live", dependencies=[counts_as_stream])
async def live(
    changes: ChangesDependency,
    access: AccessDependency,
    principal: PrincipalDependency,
    settings: SettingsDependency,
) -> EventSourceResponse:
    """Streams an event when a job has changed, at most two per second."""

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
            await asyncio.sleep(_CHANGE_INTERVAL_S)
