"""The API as a FastAPI application. It uses Redis only and never imports Ray."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from redis.exceptions import RedisError

import drmad_client
from drmad_service.api import openapi_document, problem_details
from drmad_service.api.auth.api_keys import Access
from drmad_service.api.auth.authentication import signed_in
from drmad_service.api.auth.failed_attempts import FailedAttempts
from drmad_service.api.auth.oidc import Provider
from drmad_service.api.file_checker import FileChecker
from drmad_service.api.job_changes import JobChanges
from drmad_service.api.middleware.head_requests import HeadRequests
from drmad_service.api.middleware.known_hosts import KnownHosts
from drmad_service.api.middleware.request_guard import RequestGuard
from drmad_service.api.middleware.request_log import RequestLog
from drmad_service.api.middleware.root_path import RootPath
from drmad_service.api.middleware.stream_limits import StreamLimits
from drmad_service.api.middleware.strict_requests import only_known_parameters
from drmad_service.api.prometheus import Metrics, MetricsMiddleware
from drmad_service.api.routes import event_stream, groups, jobs, results
from drmad_service.api.routes.dashboard import (
    figures,
    learned,
    oidc_sign_in,
    pages,
    sign_in,
    static,
)
from drmad_service.api.routes.dependencies import PROBLEM
from drmad_service.api.routes.service import audit, catalog, cluster, health, limits, usage
from drmad_service.api.routes.service import metrics as metrics_route
from drmad_service.api.routes.side_runs import attributions, retrainings, validations
from drmad_service.api.routes.uploads import code_uploads, data_parts, data_uploads
from drmad_service.cancellation import cancel_and_wait
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from drmad_service.store.access.connection import connect
from drmad_service.store.files.data_folder import DataFolder
from drmad_service.store.layout.schema import agree
from drmad_service.store.overview import Overview

logger = logging.getLogger(__name__)


def create_app(settings: ApiSettings) -> FastAPI:
    """The application for these settings; it connects to Redis at startup."""
    metrics = Metrics(settings.store.scheduler_silent_s)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        timeout_s = settings.store.redis_timeout_s
        async with connect(settings.redis_url, metrics.redis.observe, timeout_s) as redis:
            try:
                await agree(redis)
            except RedisError as error:  # once Redis is back, its scripts refuse another schema
                logger.warning("Redis does not answer yet: %s", error)
            app.state.settings = settings
            app.state.redis = redis
            app.state.metrics = metrics
            artifacts = settings.artifact_location.open()
            app.state.store = Store(redis, settings.store, settings.most_queued, artifacts)
            app.state.data = DataFolder(settings.data_dir, artifacts)
            app.state.checker = FileChecker()
            app.state.overview = Overview(redis, app.state.store, settings.store.scheduler_silent_s)
            app.state.access = Access(
                redis,
                settings.local_key,
                settings.requests_per_s,
                settings.request_burst,
                settings.open_without_keys,
                settings.session_s,
            )
            app.state.provider = Provider(settings.oidc) if settings.oidc.issuer else None
            app.state.failed_attempts = FailedAttempts(settings.failed_key_delay_s)
            app.state.stream_limits = StreamLimits(
                max(1, settings.most_connections // 2),
                settings.most_streams_of_a_key,
                metrics.streams,
            )
            app.state.changes = JobChanges(app.state.store, settings.store.redis_pause_s)
            listening = asyncio.create_task(app.state.changes.run())
            try:
                yield
            finally:
                await cancel_and_wait([listening])
                await app.state.checker.close()

    app = FastAPI(
        title="drmad",
        version=drmad_client.__version__,
        summary="Tune thousands of hyperparameters of a PyTorch model by gradient.",
        lifespan=lifespan,
        docs_url=None,  # the dashboard has its own page
        redoc_url=None,
        servers=[{"url": settings.root_path}] if settings.root_path else None,
    )
    problem_details.install(app)
    openapi_document.install(app)
    refusals: dict[int | str, dict[str, Any]] = dict.fromkeys(
        (400, 401, 403, 421, 422, 429), PROBLEM
    )
    for resource in (
        jobs,
        groups,
        results,
        figures,
        event_stream,
        catalog,
        cluster,
        audit,
        usage,
        limits,
        code_uploads,
        data_uploads,
        data_parts,
        metrics_route,
        attributions,
        validations,
        retrainings,
    ):
        app.include_router(
            resource.router, dependencies=[signed_in, only_known_parameters], responses=refusals
        )
    for resource in (health, sign_in, oidc_sign_in, pages, static):
        app.include_router(resource.router)
    for fetched in (pages.actions, learned.router):
        app.include_router(fetched, dependencies=[only_known_parameters])
    app.add_middleware(HeadRequests)
    app.add_middleware(KnownHosts, hosts=settings.allowed_hosts)
    app.add_middleware(
        RequestGuard,
        max_body_bytes=settings.max_body_bytes,
        slow_client_timeout_s=settings.slow_client_timeout_s,
        larger={"/v1/code/": settings.max_upload_bytes, "/v1/data/": settings.max_data_bytes},
    )
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    app.add_middleware(RequestLog)
    if settings.root_path:
        app.add_middleware(RootPath, root=settings.root_path)
    return app
