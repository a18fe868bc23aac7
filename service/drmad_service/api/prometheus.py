"""Prometheus metrics, as /metrics exports them.

Of this API process, since it started:

    drmad_http_request_seconds{method, route, status}   histogram, until the response begins
    drmad_event_streams                                 open event streams and waiting requests
    drmad_redis_seconds                                 histogram, per command or script of the API
    process_*                                           memory, CPU, open files

Of the whole service, from Redis. The scripts that change a job also count it there, so the counters
survive every process, and all API processes export the same values: aggregate them by max, not sum.

    drmad_jobs{status}                                  jobs in each state
    drmad_queue_jobs{priority}                          queued jobs
    drmad_queue_oldest_seconds{priority}                age of the oldest queued job
    drmad_leases_expired                                jobs whose lease expired without a takeover
    drmad_schedulers                                    schedulers that reported recently
    drmad_cluster_capacity{resource}                    CPUs and GPUs of the cluster
    drmad_cluster_reserved{resource}                    CPUs and GPUs reserved for jobs
    drmad_redis_memory_bytes                            memory that Redis uses
    drmad_redis_memory_limit_bytes                      memory limit of Redis; 0 for none
    drmad_jobs_ended_total{status, reason}              jobs that ended
    drmad_meta_iterations_total                         committed meta-iterations
    drmad_meta_iteration_seconds_total{phase}           their duration by phase; total is wall time
    drmad_rollbacks_total                               meta-iterations rolled back
    drmad_replica_failures_total                        failures by which a job lost replicas
    drmad_lease_losses_total                            jobs taken over from a lost scheduler
    drmad_warnings_total{code}                          warnings of jobs
    drmad_usage_seconds_total{resource, tenant}         CPU and GPU seconds of released jobs
    drmad_webhooks_total{outcome}                       notices to webhooks and chats
    drmad_mails_total{outcome}                          notices by mail
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.asyncio import Redis
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drmad_client.records.status import JobStatus
from drmad_service.store import StoreSettings
from drmad_service.store.layout import decoding, keys

MAX_QUEUED_READ = 100_000
"""Only the front of a longer queue is counted by priority."""
_CACHE_S = 2.0
"""Scrapes within this time share one read of Redis."""
_PAGE = 1000
_HTTP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_REDIS_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)


class Metrics:
    """The metrics of one API process, and those of the whole service in Redis."""

    def __init__(self, silent_s: float = StoreSettings().scheduler_silent_s) -> None:
        """A scheduler that sent no report for `silent_s` seconds does not count."""
        self._silent_ms = 1000 * silent_s
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Histogram(
            "drmad_http_request_seconds",
            "Seconds from a request to the beginning of its response.",
            ["method", "route", "status"],
            buckets=_HTTP_BUCKETS,
            registry=self._registry,
        )
        self.streams = Gauge(
            "drmad_event_streams",
            "Open event streams and waiting requests.",
            registry=self._registry,
        )
        self.redis = Histogram(
            "drmad_redis_seconds",
            "Seconds of one Redis command or script.",
            buckets=_REDIS_BUCKETS,
            registry=self._registry,
        )
        self._lock = asyncio.Lock()
        self._cached = b""
        self._cached_at = -_CACHE_S

    async def text(self, redis: Redis) -> bytes:
        """All metrics in Prometheus's text format."""
        async with self._lock:
            if time.monotonic() > self._cached_at + _CACHE_S:
                self._cached = _written(await _service_metrics(redis, self._silent_ms))
                self._cached_at = time.monotonic()
        return generate_latest(self._registry) + self._cached


class MetricsMiddleware:
    """Measures every request, labelled by its route instead of its path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                labels = scope["method"] if route != "none" else "-", route, message["status"]
                self._metrics.requests.labels(*labels).observe(time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, observed)


class _Collected(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _written(metrics: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Collected(metrics))
    return generate_latest(registry)


async def _service_metrics(redis: Redis, silent_ms: float) -> list[Metric]:
    client: Any = redis
    pipe = client.pipeline(transaction=False)
    for status in JobStatus:
        pipe.zcard(keys.jobs_with(status))
    pipe.hgetall(keys.CLUSTER)
    pipe.hgetall(keys.RESERVATIONS)
    pipe.zrange(keys.LEASES, 0, -1, withscores=True)
    pipe.hgetall(keys.COUNTERS)
    pipe.info("memory")
    pipe.time()
    *states, announced, reserved, leases, counters, memory, (seconds, micros) = await pipe.execute()
    now_ms = seconds * 1000 + micros / 1000
    cluster = decoding.ClusterCapacity(announced, reserved, (), now_ms, silent_ms)
    queued, oldest_ms = await _queue(client)
    ages = {priority: max(0.0, now_ms - at) / 1000 for priority, at in oldest_ms.items()}
    expired = sum(score < now_ms for _, score in leases)
    capacity = {"cpus": cluster.cpus, "gpus": cluster.gpus}
    reserved = {
        "cpus": cluster.cpus - cluster.free_cpus,
        "gpus": cluster.gpus - cluster.free_gpus,
    }
    jobs = {status.value: count for status, count in zip(JobStatus, states, strict=True)}
    return [
        _gauges("drmad_jobs", "Jobs in each state.", "status", jobs),
        _gauges("drmad_queue_jobs", "Queued jobs.", "priority", queued),
        _gauges("drmad_queue_oldest_seconds", "Age of the oldest queued job.", "priority", ages),
        GaugeMetricFamily(
            "drmad_leases_expired", "Jobs whose lease expired without a takeover.", expired
        ),
        GaugeMetricFamily(
            "drmad_schedulers", "Schedulers that reported recently.", cluster.schedulers
        ),
        _gauges("drmad_cluster_capacity", "CPUs and GPUs of the cluster.", "resource", capacity),
        _gauges("drmad_cluster_reserved", "CPUs and GPUs reserved for jobs.", "resource", reserved),
        GaugeMetricFamily(
            "drmad_redis_memory_bytes", "Memory that Redis uses.", memory["used_memory"]
        ),
        GaugeMetricFamily(
            "drmad_redis_memory_limit_bytes", "Memory limit of Redis.", memory["maxmemory"]
        ),
        *_counted({name.decode(): float(value) for name, value in counters.items()}),
    ]


async def _queue(client: Any) -> tuple[dict[str, float], dict[str, float]]:
    """The number of queued jobs by priority, and the submission time of the oldest, in ms."""
    queued: Counter[str] = Counter()
    oldest: dict[str, float] = {}
    for start in range(0, MAX_QUEUED_READ, _PAGE):
        ids = await client.zrange(keys.QUEUE, start, start + _PAGE - 1)
        pipe = client.pipeline(transaction=False)
        for raw in ids:
            pipe.hmget(keys.job(raw.decode()), "priority", "created_at")
        for priority, created in await pipe.execute():
            if priority is not None:  # otherwise the job was deleted meanwhile
                name = priority.decode()
                queued[name] += 1
                oldest[name] = min(float(created), oldest.get(name, float("inf")))
        if len(ids) < _PAGE:
            break
    return dict(queued), oldest


def _counted(counters: Mapping[str, float]) -> list[Metric]:
    """The scripts' counters; names such as `seconds:forward` carry labels."""
    by_kind: defaultdict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for name, value in counters.items():
        kind, *labels = name.split(":")
        by_kind[kind][tuple(labels)] = value
    ended, warnings = by_kind["ended"], by_kind["warning"]
    # The loss after which a job fails is counted as its end, the others as warnings.
    lost = warnings.get(("replica_lost",), 0.0) + ended.get(("failed", "replica_lost"), 0.0)

    def counter(name: str, text: str, kind: str, *labels: str) -> Metric:
        family = CounterMetricFamily(name, text, labels=labels)
        for values, count in sorted(by_kind[kind].items()):
            family.add_metric(values, count)
        if not labels and not by_kind[kind]:
            family.add_metric((), 0.0)
        return family

    return [
        counter("drmad_jobs_ended", "Jobs that ended.", "ended", "status", "reason"),
        counter("drmad_meta_iterations", "Committed meta-iterations.", "meta_iterations"),
        counter(
            "drmad_meta_iteration_seconds",
            "Seconds of committed meta-iterations, by phase.",
            "seconds",
            "phase",
        ),
        counter("drmad_rollbacks", "Meta-iterations rolled back.", "rollbacks"),
        CounterMetricFamily(
            "drmad_replica_failures", "Failures by which a job lost replicas.", lost
        ),
        counter("drmad_lease_losses", "Jobs taken over from a lost scheduler.", "lease_losses"),
        counter("drmad_warnings", "Warnings of jobs.", "warning", "code"),
        counter(
            "drmad_usage_seconds",
            "Seconds times reserved CPUs and GPUs of released jobs.",
            "usage",
            "resource",
            "tenant",
        ),
        counter("drmad_webhooks", "Notices of jobs to webhooks and chats.", "webhook", "outcome"),
        counter("drmad_mails", "Notices of jobs by mail.", "mail", "outcome"),
    ]


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family
