"""Reads over many jobs or long histories: counts, text search, samples, the queue."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio import Redis

from drmad_client.records.events import Event
from drmad_client.records.job import JobRecord
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.pages import Page
from drmad_client.records.service.cluster import SchedulerView
from drmad_client.records.status import JobStatus
from drmad_service.errors import JobNotFound
from drmad_service.store import Store
from drmad_service.store.jobs.job_requests import Archived
from drmad_service.store.layout import keys

MOST_SEARCHED = 5_000
"""Maximum jobs that one page of a text search reads; the next page continues behind them."""
MOST_SORTED = 2_000
"""Jobs that a sorted list holds, the newest first."""
SPARKLINE_POINTS = 32
FIGURE_POINTS = 800

_LOSSES_KEPT = 100_000
_SAMPLES_KEPT = 8
_PAGE = 100
_SORTED_PAGE = 500
_SHORTEST_ID = 6  # fewer characters of an id are a part of most ids
_EVENTS_READ = 500
_NOTABLE = {b"warning", b"rollback", b"start", b"webhook"}


def _test_figure(job: JobRecord) -> float | None:
    """The test error of the best meta-iteration, or what stands for it; lower is better."""
    metrics = job.best.metrics if job.best else {}
    if "test_error" in metrics:
        return metrics["test_error"]
    if "test_accuracy" in metrics:
        return 1.0 - metrics["test_accuracy"]
    return metrics.get("test_loss")


ORDERS: dict[str, Callable[[JobRecord], Any]] = {
    "name": lambda job: job.name.lower(),
    "state": lambda job: str(job.status),
    "progress": lambda job: job.progress.iteration / max(1, job.progress.iterations),
    "best": lambda job: job.best.validation_loss if job.best else None,
    "test": _test_figure,
    "age": lambda job: -job.created_at.timestamp(),
    "tenant": lambda job: job.tenant,
}
"""What the list of jobs is sorted by: name -> the key of a job."""

OF_METRIC = "metric:"
"""Before the name of a metric, by whose value at the best meta-iteration the list is sorted."""


def key_of(order: str) -> Callable[[JobRecord], Any]:
    """The key by which an order sorts: one of ORDERS, or a metric; None for a job without it."""
    if order.startswith(OF_METRIC):
        name = order.removeprefix(OF_METRIC)
        return lambda job: job.best.metrics.get(name) if job.best else None
    return ORDERS[order]


class Overview:
    """Reads for pages. A committed meta-iteration never changes, so this object caches them."""

    def __init__(self, redis: Redis, store: Store, silent_s: float) -> None:
        """Schedulers without a report for `silent_s` seconds are left out."""
        self._redis: Any = redis
        self._store = store
        self._silent = timedelta(seconds=silent_s)
        self._losses: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._samples: OrderedDict[tuple[str, int], asyncio.Task[list[MetaIteration]]] = (
            OrderedDict()
        )

    async def counts(self, tenant: str | None = None) -> dict[JobStatus, int]:
        """Number of jobs by status that are not archived, without the statuses that none has."""
        pipe = self._redis.pipeline(transaction=False)
        for status in JobStatus:
            pipe.zcard(keys.jobs_with(status, tenant))
            pipe.zcard(keys.archived_jobs(status, tenant))
        found = await pipe.execute()
        listed = [every - archived for every, archived in zip(found[::2], found[1::2], strict=True)]
        return {s: n for s, n in zip(JobStatus, listed, strict=True) if n > 0}

    async def find(
        self,
        status: JobStatus | None = None,
        tag: str = "",
        text: str = "",
        after: str | None = None,
        limit: int = 50,
        tenant: str | None = None,
        archived: Archived = "exclude",
    ) -> Page[JobRecord]:
        """Jobs whose name, id, problem or tags contain every word of `text`, the newest first."""
        words = text.lower().split()
        statuses, tags = (status,) if status else (), (tag,) if tag else ()
        if not words:
            return await self._store.jobs(statuses, tags, after, limit, tenant, archived)
        found: list[JobRecord] = []
        searched = 0
        while searched < MOST_SEARCHED:
            page = await self._store.jobs(statuses, tags, after, _PAGE, tenant, archived)
            for job in page.data:
                if all(_has(job, word) for word in words):
                    found.append(job)
                if len(found) == limit:
                    more = job.id != page.data[-1].id or page.has_more
                    return Page(data=found, has_more=more, next=job.id if more else None)
            searched += len(page.data)
            after = page.next
            if not page.has_more:
                return Page(data=found, has_more=False)
        return Page(data=found, has_more=True, next=after)

    async def losses(self, jobs: Sequence[JobRecord]) -> dict[str, list[float]]:
        """Evenly spaced validation losses of each job, in order, for a sparkline."""
        wanted = {
            job.id: _spread(job.progress.iteration, SPARKLINE_POINTS)
            for job in jobs
            if job.progress.iteration > 0
        }
        missing = [
            (job_id, iteration)
            for job_id, iterations in wanted.items()
            for iteration in iterations
            if (job_id, iteration) not in self._losses
        ]
        for (job_id, iteration), record in zip(missing, await self._records(missing), strict=True):
            if record is not None:
                self._losses[job_id, iteration] = json.loads(record)["validation_loss"]
        found = {
            job_id: [self._losses[job_id, i] for i in iterations if (job_id, i) in self._losses]
            for job_id, iterations in wanted.items()
        }
        while len(self._losses) > _LOSSES_KEPT:
            self._losses.popitem(last=False)
        return found

    async def side_runs(self, jobs: Sequence[JobRecord]) -> tuple[set[str], set[str]]:
        """The ids of those jobs that have validations, and of those that have retrainings."""
        pipe = self._redis.pipeline(transaction=False)
        for part in ("validations", "retrainings"):
            for job in jobs:
                pipe.exists(keys.job(job.id, part))
        found = await pipe.execute()
        ids = [job.id for job in jobs]
        validated, retrained = found[: len(ids)], found[len(ids) :]
        return set(itertools.compress(ids, validated)), set(itertools.compress(ids, retrained))

    async def sample(self, job: JobRecord) -> list[MetaIteration]:
        """About FIGURE_POINTS evenly spaced meta-iterations, with the best and the last.

        Concurrent calls for the figures of one page share one read.
        """
        key = job.id, job.progress.iteration
        if key not in self._samples:
            self._samples[key] = asyncio.create_task(self._sample(job))
            while len(self._samples) > _SAMPLES_KEPT:
                self._samples.popitem(last=False)
        try:
            return await asyncio.shield(self._samples[key])
        except Exception:
            self._samples.pop(key, None)
            raise

    async def queue(self, limit: int = 200) -> list[JobRecord]:
        """The queued jobs, in the order in which they will run."""
        return await self._existing(await self._store.queue(limit))

    async def ordered(
        self,
        order: str,
        reverse: bool,
        status: JobStatus | None = None,
        tag: str = "",
        text: str = "",
        tenant: str | None = None,
        archived: Archived = "exclude",
    ) -> list[JobRecord]:
        """The jobs that `find` finds, of the newest MOST_SORTED, sorted by `key_of` an order.

        A job without the figure comes last.
        """
        key = key_of(order)
        found: list[JobRecord] = []
        after: str | None = None
        while len(found) < MOST_SORTED:
            page = await self.find(status, tag, text, after, _SORTED_PAGE, tenant, archived)
            found += page.data
            after = page.next
            if not page.has_more or after is None:
                break
        known = [job for job in found if key(job) is not None]
        known.sort(key=key, reverse=reverse)
        return known + [job for job in found if key(job) is None]

    async def driven(self) -> list[JobRecord]:
        """The jobs that a scheduler drives, the oldest first."""
        ids = await self._redis.zrange(keys.LEASES, 0, -1)
        return await self._existing(sorted(raw.decode() for raw in ids))

    async def schedulers(self) -> list[SchedulerView]:
        """The last report of each living scheduler."""
        reports = await self._redis.hgetall(keys.NODES)
        views = [SchedulerView.model_validate_json(report) for report in reports.values()]
        oldest = datetime.now(UTC) - self._silent
        return sorted((v for v in views if v.at > oldest), key=lambda view: view.scheduler)

    async def last_event(self, job_id: str) -> str:
        """The id after which a page that was just rendered follows the events."""
        rows = await self._redis.xrevrange(keys.job(job_id, "events"), count=1)
        return rows[0][0].decode() if rows else "0-0"

    async def notable_events(self, job_id: str) -> list[Event]:
        """Recent warnings, rollbacks, search results and webhook outcomes, in order."""
        rows = await self._redis.xrevrange(keys.job(job_id, "events"), count=_EVENTS_READ)
        return [
            Event(
                id=row_id.decode(),
                at=datetime.fromtimestamp(int(fields[b"at"]) / 1000, tz=UTC),
                type=fields[b"type"].decode(),
                data=json.loads(fields[b"data"]),
            )
            for row_id, fields in reversed(rows)
            if fields[b"type"] in _NOTABLE
        ]

    async def _sample(self, job: JobRecord) -> list[MetaIteration]:
        iterations = set(_spread(job.progress.iteration, FIGURE_POINTS))
        if job.best is not None:
            iterations.add(job.best.iteration)
        rows = await self._records([(job.id, i) for i in sorted(iterations)])
        return await asyncio.to_thread(
            lambda: [MetaIteration.model_validate_json(row) for row in rows if row is not None]
        )

    async def _records(self, wanted: Sequence[tuple[str, int]]) -> list[bytes | None]:
        """MetaIterations as JSON; None for one that is not committed or was deleted."""
        if not wanted:
            return []
        pipe = self._redis.pipeline(transaction=False)
        for job_id, iteration in wanted:
            place = f"{iteration}-1"
            pipe.xrange(keys.job(job_id, "history"), min=place, max=place)
        return [rows[0][1][b"record"] if rows else None for rows in await pipe.execute()]

    async def _existing(self, ids: Sequence[str]) -> list[JobRecord]:
        jobs = []
        for job_id in ids:
            try:
                jobs.append(await self._store.get(job_id))
            except JobNotFound:
                continue  # deleted meanwhile
        return jobs


def _searchable(job: JobRecord) -> str:
    """What the row of a job shows, and how its parts are called in a spec."""
    spec = job.spec
    if spec.problem.kind == "code":
        problem = spec.problem.entrypoint
    else:
        path = getattr(spec.problem.data, "path", None) or getattr(spec.problem.data, "data", "")
        problem = f"{spec.problem.model.name} on {spec.problem.data.name} {path or ''}"
    tuned = " ".join(f"{h.name or ''} {h.kind}" for h in spec.hyperparameters)
    tags = " ".join(f"{name}:{value}" for name, value in job.tags.items())
    why = f"{job.message} {job.error.message if job.error else ''}"
    return (
        f"{job.name} {problem} {tuned} {spec.hypergradient.method} {spec.kind} {tags} "
        f"{job.status} {why}"
    ).lower()


def _has(job: JobRecord, word: str) -> bool:
    is_of_id = len(word) >= _SHORTEST_ID and word in job.id.lower()
    return is_of_id or word in _searchable(job)


def _spread(count: int, most: int) -> list[int]:
    """At most `most` + 1 of the numbers below `count`: multiples of a power of two, and the last.

    As the count grows most of them stay the same.
    """
    stride = 2 ** max(0, math.ceil(math.log2(count / most))) if count > 0 else 1
    chosen = list(range(0, count, stride))
    return chosen if not chosen or chosen[-1] == count - 1 else [*chosen, count - 1]
