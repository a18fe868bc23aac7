"""What tenants use: counted by the scripts that release reservations, and read here."""

from __future__ import annotations

import json
from collections.abc import Callable

from drmad_client.records.service.usage import TenantLimits, TenantUsage, Usage
from drmad_service.errors import TenantFull
from drmad_service.store.files.job_artifacts import ArtifactsOfJobs, bytes_of
from drmad_service.store.jobs.placement import UNLIMITED
from drmad_service.store.layout import keys
from drmad_service.store.tenant_limits import effective

_PAGE = 500


class TenantUses(ArtifactsOfJobs):
    """Usage and limits of tenants."""

    async def usage(
        self, tenant: str | None, limits: TenantLimits, data_size: Callable[[str], int] | None
    ) -> list[TenantUsage]:
        """The usage of one tenant, or of all that have used something.

        Args:
            limits: those that the API knows; the others are read from the schedulers.
            data_size: the bytes of an uploaded data set, by its digest; None leaves the stored
                bytes at 0, which take long to count.
        """
        pipe = self._redis.pipeline(transaction=False)
        pipe.hgetall(keys.COUNTERS)
        pipe.hgetall(keys.RESERVATIONS)
        pipe.hgetall(keys.PLACES)
        counters, reservations, places = await pipe.execute()
        totals: dict[str, dict[str, float]] = {}
        for name, value in counters.items():
            kind, _, rest = name.decode().partition(":")
            if kind == "usage":
                resource, _, whose = rest.partition(":")
                totals.setdefault(whose, {})[resource] = float(value)
        held = [
            (whose, float(cpus), float(gpus), _replicas(places.get(key)))
            for key, raw in reservations.items()
            for cpus, gpus, whose in [raw.decode().split()]
        ]
        own = await self.own_limits.all()
        tenants = [tenant] if tenant else sorted({*totals, *(whose for whose, *_ in held), *own})
        capacity = (await self.cluster()).capacity
        known = limits.model_copy(
            update={
                "running_jobs": _limit(capacity.tenant_jobs),
                "replicas": _limit(capacity.tenant_replicas),
                "gpus": _limit(capacity.tenant_gpus),
            }
        )
        found = []
        for each in tenants:
            theirs = [row for row in held if row[0] == each]
            total = totals.get(each, {})
            found.append(
                TenantUsage(
                    tenant=each,
                    total=Usage(
                        cpu_seconds=total.get("cpu", 0.0), gpu_seconds=total.get("gpu", 0.0)
                    ),
                    queued_jobs=await self._queued(each),
                    running_jobs=len(theirs),
                    replicas=sum(row[3] for row in theirs),
                    cpus=sum(row[1] for row in theirs),
                    gpus=sum(row[2] for row in theirs),
                    stored_bytes=await self.stored_bytes(each, data_size) if data_size else 0,
                    limits=effective(known, own.get(each, TenantLimits())),
                )
            )
        return found

    async def must_have_room_for(
        self, tenant: str, most_bytes: int, data_size: Callable[[str], int], in_parts: int = 0
    ) -> None:
        """
        Args:
            in_parts: the bytes of uploads of which only parts have arrived.
        Raises:
            TenantFull: the tenant stores `most_bytes` or more, or as much as its own limit; 0 sets
                no limit.
        """
        own = (await self.own_limits.of(tenant)).stored_bytes
        most = own if own is not None else most_bytes or None
        if most is None:
            return
        if (used := in_parts + await self.stored_bytes(tenant, data_size)) >= most:
            raise TenantFull(tenant, used, most)

    async def stored_bytes(self, tenant: str, data_size: Callable[[str], int]) -> int:
        """About what the tenant's jobs keep, in Redis and as artifacts, and the size of uploads."""
        total = 0
        ids = [
            raw.decode() for raw in await self._redis.zrange(keys.jobs_with(None, tenant), 0, -1)
        ]
        for start in range(0, len(ids), _PAGE):
            pipe = self._redis.pipeline(transaction=False)
            for job_id in ids[start : start + _PAGE]:
                for part in (None, *keys.PARTS):
                    pipe.memory_usage(keys.job(job_id, part), samples=3)
            total += sum(size or 0 for size in await pipe.execute())
        total += bytes_of(await self.artifacts_of(ids))
        for index, members in (
            (keys.CODES, keys.code_tenants),
            (keys.DATA, keys.data_tenants),
        ):
            named = [raw.decode() for raw in await self._redis.zrange(index, 0, -1)]
            pipe = self._redis.pipeline(transaction=False)
            for sha256 in named:
                pipe.sismember(members(sha256), tenant)
            own = [sha for sha, theirs in zip(named, await pipe.execute(), strict=True) if theirs]
            if index == keys.DATA:
                total += sum(map(data_size, own))
                continue
            for sha256 in own:
                pipe.memory_usage(keys.code(sha256))
            total += sum(size or 0 for size in await pipe.execute())
        return total

    async def _queued(self, tenant: str) -> int:
        pipe = self._redis.pipeline(transaction=False)
        for status in ("queued", "paused"):
            pipe.zcard(keys.jobs_with(status, tenant))
        return sum(await pipe.execute())


def _replicas(entries: bytes | None) -> int:
    return sum(entry[1] for entry in json.loads(entries)) if entries else 0


def _limit(value: float) -> float | None:
    return None if value >= UNLIMITED else value
