"""Answers what clients ask of workers: several at once, few of one tenant, none for nobody."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError

from drmad_service.cancellation import cancel_and_wait
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store
from drmad_service.store.side_runs.worker_requests import WorkerRequest

logger = logging.getLogger(__name__)

_ASKED_POLL_S = 1.0

Answer = Callable[[WorkerRequest], Awaitable[None]]
"""Has a worker do what a request asks, and stores the answer; cancelled when nobody waits."""


async def keep_answering(
    store: Store, settings: SchedulerSettings, kind: str, answer: Answer
) -> None:
    """Answer requests of a kind, for ever.

    At most `worker_requests` are answered at once, and `tenant_worker_requests` of one tenant: code
    that sleeps keeps nobody else waiting.
    """
    answering: dict[asyncio.Task[None], str] = {}
    try:
        while True:
            answering = {task: tenant for task, tenant in answering.items() if not task.done()}
            request = None
            if len(answering) < settings.worker_requests:
                counts = Counter(answering.values())
                most = settings.tenant_worker_requests
                with contextlib.suppress(RedisError):
                    busy = [tenant for tenant, count in counts.items() if count >= most]
                    request = await store.take(
                        kind, [*settings.not_tenants, *busy], settings.tenants
                    )
            if request is None:
                await asyncio.sleep(settings.poll_s)
                continue
            task = asyncio.create_task(_while_asked(store, request, answer))
            answering[task] = request.tenant
    finally:
        await cancel_and_wait([*answering])


async def _while_asked(store: Store, request: WorkerRequest, answer: Answer) -> None:
    """Answer a request; stop when its asker has gone."""
    task = asyncio.ensure_future(answer(request))
    try:
        while not task.done():
            await asyncio.wait([task], timeout=_ASKED_POLL_S)
            with contextlib.suppress(RedisError):
                if not task.done() and not await store.is_asked(request):
                    fields = {"action": "request_abandoned", "request_id": request.id}
                    logger.info("ends a request that nobody waits for", extra=fields)
                    return
    finally:
        await cancel_and_wait([task])
