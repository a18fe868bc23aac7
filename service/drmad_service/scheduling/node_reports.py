"""What a scheduler tells of the machines of its Ray cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from typing import Any

import ray
from ray.exceptions import RayError
from redis.exceptions import RedisError

from drmad_client.records.cluster import Node, SchedulerView
from drmad_service.store import Store

logger = logging.getLogger(__name__)


async def keep_telling(store: Store, scheduler: str, every_s: float) -> None:
    """Tell the store of the nodes, every so many seconds until cancelled."""
    try:
        while True:
            try:
                nodes = [_node(told) for told in await asyncio.to_thread(ray.nodes)]
                view = SchedulerView(scheduler=scheduler, at=datetime.now(UTC), nodes=nodes)
                await store.tell_nodes(scheduler, view.model_dump_json())
            except (RedisError, RayError) as error:
                logger.warning("could not tell of the nodes: %s", error)
            await asyncio.sleep(every_s)
    finally:
        with contextlib.suppress(RedisError):
            await store.tell_nodes(scheduler, None)


def _node(told: dict[str, Any]) -> Node:
    has = told.get("Resources", {})
    # Ray marks a node's kind of GPU by a resource such as accelerator_type:H200.
    kinds = [name.partition(":")[2] for name in has if name.startswith("accelerator_type:")]
    return Node(
        id=told["NodeID"],
        name=told.get("NodeManagerHostname") or told["NodeID"][:8],
        address=told.get("NodeManagerAddress", ""),
        alive=bool(told.get("Alive")),
        cpus=has.get("CPU", 0.0),
        gpus=has.get("GPU", 0.0),
        memory_bytes=int(has.get("memory", 0)),
        gpu_kind=kinds[0] if kinds else "",
    )
