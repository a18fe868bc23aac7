"""Nodes that are requested of an autoscaler."""

from __future__ import annotations

from typing import Any

import pytest

from drmad_client.spec.job import JobSpec
from drmad_service.scheduling.autoscaler import bundles, keep_requesting_nodes
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Capacity, NodeCapacity, Store
from tests.service.scheduling.stand_in import StandInCluster

pytestmark = pytest.mark.anyio

ADDED = NodeCapacity("", 4.0, 1.0)
SMALL = Capacity.of([NodeCapacity("a", 1.0, 0.0)], autoscaler=(ADDED, ADDED))


class SmallCluster(StandInCluster):
    async def capacity(self) -> Capacity:
        return SMALL


async def test_running_and_waiting_jobs_are_requested_and_impossible_ones_are_not(
    store: Store, spec: JobSpec, redis_url: str
) -> None:
    def wanted(cpus: float, gpus: float, count: int = 1) -> JobSpec:
        needs: dict[str, Any] = {
            "resources": {"cpus": cpus, "gpus": gpus},
            "replicas": {"count": count},
        }
        return JobSpec.model_validate(spec.model_dump() | needs)

    await store.create(wanted(1, 0))
    assert await store.claim("scheduler", 60.0, SMALL) is not None
    await store.create(wanted(2, 0.5, count=2))
    await store.create(wanted(8, 0))
    expected = [{"CPU": 1.0}, *[{"CPU": 2.0, "GPU": 0.5}] * 2]
    assert await bundles(store, SmallCluster()) == expected

    class Requested(Exception):
        pass

    def request(bundles: list[dict[str, float]]) -> None:
        raise Requested(bundles)

    settings = SchedulerSettings(redis_url, autoscaler_groups=("2:4:1",))
    with pytest.raises(Requested) as requested:
        await keep_requesting_nodes(store, settings, SmallCluster(), request)
    assert requested.value.args == (expected,)
    await keep_requesting_nodes(store, SchedulerSettings(redis_url), SmallCluster(), request)


def test_groups_of_nodes_are_what_the_autoscaler_may_add() -> None:
    settings = SchedulerSettings("redis://", autoscaler_groups=("2:4", "1:16.5:2"))
    small, large = NodeCapacity("", 4.0, 0.0), NodeCapacity("", 16.5, 2.0)
    assert settings.autoscaler == (small, small, large)
    assert SchedulerSettings("redis://").autoscaler == ()
    for wrong in ("4", "8:", "8:4:1:1", "-1:4", "many:4"):
        with pytest.raises(ValueError, match="NODES:CPUS"):
            SchedulerSettings("redis://", autoscaler_groups=(wrong,))
