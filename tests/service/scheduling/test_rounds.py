"""Which arrival is applied next: the bound of staleness holds, whoever is fast or slow."""

from __future__ import annotations

import asyncio
import random

import pytest

from drmad_service.scheduling.rounds import _Flight, next_to_apply


def flight(number: int, begun: int, arrived: bool) -> _Flight:
    answer: asyncio.Future[None] = asyncio.Future(loop=LOOP)
    if arrived:
        answer.set_result(None)
    return _Flight(number, begun, 0, answer, None)


LOOP = asyncio.new_event_loop()
LOOP.close()  # futures need one to be made, and nothing here runs


@pytest.mark.parametrize(("count", "bound"), [(1, 0), (2, 1), (4, 3), (4, 8), (7, 6), (7, 20)])
def test_no_update_is_staler_than_the_bound_and_all_are_applied(count: int, bound: int) -> None:
    """Replicas that take random, very unequal times; one is a hundred times slower."""
    chance = random.Random(count * 100 + bound)
    speeds = [1.0] + [100.0] * (count - 1)
    updates = 0
    flights = {number: flight(number, 0, False) for number in range(count)}
    applied = dict.fromkeys(range(count), 0)
    stalest = 0
    while updates < 400:
        following = next_to_apply([*flights.values()], updates, bound)
        if following is None:
            running = [n for n, f in flights.items() if not f.answer.done()]
            assert running, "everybody waits for nobody"
            (ends,) = chance.choices(running, [speeds[number] for number in running])
            flights[ends] = flight(ends, flights[ends].begun, True)
            continue
        stalest = max(stalest, updates - following.begun)
        updates += 1
        applied[following.number] += 1
        flights[following.number] = flight(following.number, updates, False)
    assert stalest <= bound
    assert min(applied.values()) >= 400 // (bound + count)
    if count > 1:
        assert stalest == bound  # the slow one makes the others wait, and no sooner than it must


def test_oldest_arrival_is_applied_first() -> None:
    flights = [flight(0, 5, True), flight(1, 3, True), flight(2, 4, False)]
    following = next_to_apply(flights, 6, 10)
    assert following is not None
    assert following.number == 1


def test_arrival_that_would_make_a_slow_replica_too_stale_waits_for_it() -> None:
    slow, fast = flight(0, 0, False), flight(1, 2, True)
    assert next_to_apply([slow, fast], 2, 2) is None
    arrived = flight(0, 0, True)
    assert next_to_apply([arrived, fast], 2, 2) is arrived
