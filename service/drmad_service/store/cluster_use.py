"""How much of the cluster is reserved: by node now, and over the last days."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

from redis.exceptions import ResponseError

from drmad_client.records.service.cluster import NodeReservation, SchedulerView, UseSample
from drmad_service.store.base import Base
from drmad_service.store.layout import keys

SAMPLE_S = 60
KEPT = 7 * 24 * 60
"""Samples that are kept: a week of them."""


class ClusterUse(Base):
    """Reservations by node, and a sample of them every minute."""

    async def node_reservations(self) -> dict[str, NodeReservation]:
        """What the replicas of all jobs reserve, by the id of the node."""
        found: dict[str, NodeReservation] = {}
        for job_id, entries in (await self._redis.hgetall(keys.PLACES)).items():
            for node, replicas, cpus, parts in json.loads(entries):
                held = found.get(node, NodeReservation())
                found[node] = NodeReservation(
                    cpus=held.cpus + cpus,
                    gpus=held.gpus + sum(part for _, part in parts or ()),
                    replicas=held.replicas + replicas,
                    jobs=[*held.jobs, job_id.decode()],
                )
        return found

    async def sample_use(self) -> bool:
        """Add a sample unless this minute has one, from whichever scheduler. Returns whether."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hvals(keys.RESERVATIONS)
        pipe.zcard(keys.QUEUE)
        pipe.hvals(keys.NODES)
        reservations, queued, reports = await pipe.execute()
        silent = datetime.now(UTC) - timedelta(seconds=SAMPLE_S)
        views = [SchedulerView.model_validate_json(report) for report in reports]
        views = [view for view in views if view.at > silent]
        nodes = {node.id: node for view in views for node in view.nodes if node.alive}
        held = [raw.decode().split() for raw in reservations]
        sample = {
            "cpus": sum(node.cpus for node in nodes.values()),
            "gpus": sum(node.gpus for node in nodes.values()),
            "reserved_cpus": sum(float(cpus) for cpus, *_ in held),
            "reserved_gpus": sum(float(gpus) for _, gpus, _ in held),
            "running": len(held),
            "queued": queued,
        }
        minute = int(time.time() // SAMPLE_S * SAMPLE_S * 1000)
        fields = {name: repr(value) for name, value in sample.items()}
        try:
            # Redis refuses an id that is not above the last one, so that a minute has one sample.
            await self._redis.xadd(keys.USE, fields, f"{minute}-1", maxlen=KEPT, approximate=True)
        except ResponseError as error:
            if "equal or smaller" not in str(error):
                raise
            return False
        return True

    async def uses(self, limit: int = KEPT) -> list[UseSample]:
        """The last samples, the oldest first."""
        rows = await self._redis.xrevrange(keys.USE, count=limit)
        return [
            UseSample.model_validate(
                {name.decode(): float(value) for name, value in fields.items()}
                | {"at": datetime.fromtimestamp(int(row_id.partition(b"-")[0]) / 1000, tz=UTC)}
            )
            for row_id, fields in reversed(rows)
        ]
