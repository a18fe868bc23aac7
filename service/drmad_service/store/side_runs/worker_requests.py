"""What clients ask of a worker while they wait: taken fairly between tenants, kept while asked.

Such a request reserves no capacity, and user code runs for it. A tenant has a queue of its own; of
those that have one, the tenant that was served longest ago is next. The request itself expires
unless its asker renews it, so that the work ends with the asker, however that ended.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from drmad_client.records.job import JobError
from drmad_service.errors import TooManyWaiting
from drmad_service.store.base import Base
from drmad_service.store.layout import keys

ASKED_S = 20
"""Expiry of a request that nobody renews, in seconds."""
ANSWER_S = 600
"""Expiry of an answer, in seconds."""
MOST_WAITING = 20
"""Requests of one kind that a tenant may have in its queue."""
_POLL_S = 0.1
_RENEW_S = 2.0


@dataclass(frozen=True)
class WorkerRequest:
    """A request that a scheduler has taken.

    Attributes:
        kind: "preflights", "examples" or "recipes".
        content: what is asked (JSON).
    """

    kind: str
    id: str
    tenant: str
    content: str


class WorkerRequests(Base):
    """The queues of the requests, and their answers."""

    async def ask(self, kind: str, request_id: str, tenant: str, content: str) -> None:
        """Put a request at the end of its tenant's queue.

        Raises:
            TooManyWaiting: the tenant has as many waiting as it may.
        """
        queue = keys.worker_requests(kind, tenant)
        if (waiting := await self._redis.llen(queue)) >= MOST_WAITING:
            raise TooManyWaiting(tenant, waiting, MOST_WAITING)
        pipe = self._redis.pipeline(transaction=True)
        pipe.set(keys.worker_request(kind, request_id), content, ex=ASKED_S)
        pipe.rpush(queue, request_id)
        pipe.expire(queue, ANSWER_S)
        pipe.zadd(keys.worker_requests(kind), {tenant: 0}, nx=True)
        await pipe.execute()

    async def take(
        self, kind: str, unserved: Iterable[str] = (), served: Iterable[str] = ()
    ) -> WorkerRequest | None:
        """Take the oldest request of the tenant that was served longest ago.

        Args:
            unserved: the tenants whose requests stay where they are.
            served: the tenants of which one is taken; none stands for all.
        """
        cluster = json.dumps({"tenants": [*served], "not_tenants": [*unserved]})
        taken = await self._scripts.run("take_request", kind, cluster)
        return WorkerRequest(kind, *taken) if taken else None

    async def is_asked(self, request: WorkerRequest) -> bool:
        """Whether somebody still waits for the answer."""
        return bool(await self._redis.exists(keys.worker_request(request.kind, request.id)))

    async def withdraw(self, kind: str, request_id: str) -> None:
        await self._redis.delete(keys.worker_request(kind, request_id))

    async def answer(self, kind: str, request_id: str, text: str) -> None:
        await self._redis.set(keys.worker_request(kind, request_id, "answer"), text, ex=ANSWER_S)

    async def answer_to(
        self,
        kind: str,
        request_id: str,
        timeout_s: float,
        is_connected: Callable[[], Awaitable[bool]] | None = None,
    ) -> bytes | None:
        """Wait for the answer, and keep the request as long.

        Args:
            is_connected: whether the client still waits; the request ends when it does not.
        Returns:
            The answer; None if there is none in time, or the client is gone.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        renewed = loop.time()
        while loop.time() < deadline:
            answer = await self._redis.get(keys.worker_request(kind, request_id, "answer"))
            if answer is not None:
                return bytes(answer)
            if loop.time() > renewed + _RENEW_S:
                if is_connected is not None and not await is_connected():
                    return None
                await self._redis.expire(keys.worker_request(kind, request_id), ASKED_S)
                renewed = loop.time()
            await asyncio.sleep(_POLL_S)
        return None

    async def error_of(
        self,
        kind: str,
        request_id: str,
        timeout_s: float,
        is_connected: Callable[[], Awaitable[bool]] | None = None,
    ) -> JobError | None:
        """Wait for an answer that is empty or an error; returns the error.

        Raises:
            TimeoutError: no worker answered in time, or the client is gone.
        """
        try:
            raw = await self.answer_to(kind, request_id, timeout_s, is_connected)
        finally:
            await self.withdraw(kind, request_id)
        if raw is None:
            raise TimeoutError
        return JobError.model_validate_json(raw) if raw else None
