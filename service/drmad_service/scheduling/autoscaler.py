"""Requests nodes of Ray's autoscaler for the jobs that run and those that wait.

Claims promise only what the nodes have, so Ray never sees the need of a waiting job by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from drmad_service.ray_driver.connection import RayLost
from drmad_service.scheduling.ray_cluster import ComputeCluster
from drmad_service.settings import SchedulerSettings
from drmad_service.store import Store

logger = logging.getLogger(__name__)

MOST_WAITING = 100
"""Waiting jobs for which nodes are requested at once, in the order of the queue."""

Bundles = list[dict[str, float]]


async def keep_requesting_nodes(
    store: Store,
    settings: SchedulerSettings,
    cluster: ComputeCluster,
    request: Callable[[Bundles], None],
) -> None:
    """Request nodes every `nodes_s` seconds, until cancelled; none without an autoscaler."""
    requested: Bundles = []
    while settings.autoscaler_groups:
        try:
            wanted = await bundles(store, cluster)
            if wanted != requested:  # replaces what was requested before
                request(wanted)
                requested = wanted
        except (RedisError, RayLost) as error:
            logger.warning("could not request nodes: %s", error)
        await asyncio.sleep(settings.nodes_s)


async def bundles(store: Store, cluster: ComputeCluster) -> Bundles:
    """What the running jobs hold, and what the waiting ones need that fit the most nodes."""
    capacity = await cluster.capacity()
    most = [*capacity.nodes, *capacity.autoscaler]
    return [
        {"CPU": needs.cpus} | ({"GPU": needs.gpus} if needs.gpus else {})
        for needs in await store.demand(MOST_WAITING, capacity)
        if needs.refusal(most) is None
        for _ in range(needs.count)
    ]
