"""Reports of the nodes of a scheduler's Ray cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from datetime import UTC, datetime
from typing import Any

from redis.exceptions import RedisError

from drmad_client.records.service.cluster import Node, SchedulerView
from drmad_service.ray_driver.connection import CallFailed, RayDriver, RayLost
from drmad_service.store import Store
from drmad_service.store.cluster_use import SAMPLE_S

logger = logging.getLogger(__name__)


async def keep_reporting_nodes(
    store: Store, scheduler: str, interval_s: float, driver: RayDriver
) -> None:
    """Report the nodes to the store every `interval_s` seconds, until cancelled."""
    sample_due = 0.0
    try:
        while True:
            try:
                nodes = [_node(fields) for fields in await driver.nodes()]
                view = SchedulerView(scheduler=scheduler, at=datetime.now(UTC), nodes=nodes)
                await store.report_nodes(scheduler, view.model_dump_json())
                if time.monotonic() >= sample_due:
                    await store.sample_use()
                    sample_due = time.monotonic() + SAMPLE_S / 2
            except (RedisError, CallFailed, RayLost) as error:
                logger.warning("could not report the nodes: %s", error)
            await asyncio.sleep(interval_s)
    finally:
        with contextlib.suppress(RedisError):
            await store.report_nodes(scheduler, None)


def _node(fields: dict[str, Any]) -> Node:
    resources = fields.get("Resources", {})
    # Ray marks a node's kind of GPU by a resource such as accelerator_type:H200.
    kinds = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    return Node(
        id=fields["NodeID"],
        name=fields.get("NodeManagerHostname") or fields["NodeID"][:8],
        address=fields.get("NodeManagerAddress", ""),
        alive=bool(fields.get("Alive")),
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        memory_bytes=int(resources.get("memory", 0)),
        gpu_kind=kinds[0] if kinds else "",
    )
