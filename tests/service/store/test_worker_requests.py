"""Whose request a worker answers next, how many one tenant may have, and when a request ends."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from drmad_service.errors import TooManyWaiting
from drmad_service.store import Store
from drmad_service.store.layout import keys
from drmad_service.store.side_runs.worker_requests import ASKED_S, MOST_WAITING

pytestmark = pytest.mark.anyio

KIND = "preflights"


async def taken(store: Store, count: int, *unserved: str) -> list[str]:
    found = [await store.take(KIND, unserved) for _ in range(count)]
    return [request.id if request else "-" for request in found]


async def test_tenants_take_turns_however_many_requests_one_has(store: Store) -> None:
    for number in range(3):
        await store.ask(KIND, f"a{number}", "a", "{}")
    await store.ask(KIND, "b0", "b", "{}")
    assert await taken(store, 1) == ["a0"]
    await store.ask(KIND, "c0", "c", "{}")
    assert sorted(await taken(store, 2)) == ["b0", "c0"]
    assert await taken(store, 3) == ["a1", "a2", "-"]


async def test_a_tenant_that_is_not_served_now_keeps_its_requests(store: Store) -> None:
    await store.ask(KIND, "a0", "a", "{}")
    await store.ask(KIND, "b0", "b", "{}")
    assert await taken(store, 2, "a") == ["b0", "-"]
    assert await taken(store, 1) == ["a0"]


async def test_a_tenant_has_a_bounded_queue_and_others_have_theirs(store: Store) -> None:
    for number in range(MOST_WAITING):
        await store.ask(KIND, f"a{number}", "a", "{}")
    with pytest.raises(TooManyWaiting, match=f"{MOST_WAITING} requests of tenant a wait"):
        await store.ask(KIND, "more", "a", "{}")
    await store.ask("examples", "other", "a", "{}")
    await store.ask(KIND, "b0", "b", "{}")


async def test_a_request_that_was_withdrawn_or_has_expired_is_not_taken(
    store: Store, redis: Redis
) -> None:
    for name in ("withdrawn", "expired", "asked"):
        await store.ask(KIND, name, "a", "{}")
    await store.withdraw(KIND, "withdrawn")
    assert 0 < await redis.ttl(keys.worker_request(KIND, "expired")) <= ASKED_S
    await redis.delete(keys.worker_request(KIND, "expired"))
    assert await taken(store, 2) == ["asked", "-"]


async def test_the_asker_keeps_its_request_until_the_answer(store: Store, redis: Redis) -> None:
    await store.ask(KIND, "r", "a", "{}")
    key = keys.worker_request(KIND, "r")
    waiting = asyncio.create_task(store.answer_to(KIND, "r", 60.0))
    await redis.expire(key, 5)
    async with asyncio.timeout(60):
        while await redis.ttl(key) <= 5:
            await asyncio.sleep(0.05)
    await store.answer(KIND, "r", "found")
    assert await waiting == b"found"


async def test_a_client_that_is_gone_ends_the_wait(store: Store) -> None:
    async def is_connected() -> bool:
        return False

    await store.ask(KIND, "r", "a", "{}")
    async with asyncio.timeout(60):
        assert await store.answer_to(KIND, "r", 3600.0, is_connected) is None
