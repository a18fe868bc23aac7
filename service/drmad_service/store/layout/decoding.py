"""Decodes what Redis holds into the records of the API."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from drmad_client.records.events import Event, LogLine
from drmad_client.records.job import Best, JobError, JobRecord, PreflightReport, Progress, Waiting
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.records.search import Start, Trial
from drmad_client.records.service.audit import AuditEntry
from drmad_client.records.service.usage import Usage
from drmad_client.records.side_runs.confirmation import Confirmation
from drmad_client.records.status import JobStatus, Transition
from drmad_client.spec.job import JobSpec
from drmad_service.store.jobs.placement import Capacity, Needs, announced, counted
from drmad_service.store.layout.turn import SHORT_ID, Turn

Fields = Mapping[bytes, bytes]


def order(entry_id: bytes | str) -> tuple[int, int]:
    """The id of a stream's entry as numbers, which sort like the entries."""
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    milliseconds, number = text.split("-")
    return int(milliseconds), int(number)


def time(milliseconds: float | str | bytes) -> datetime:
    return datetime.fromtimestamp(float(milliseconds) / 1000, tz=UTC)


def transition(raw: bytes) -> Transition:
    fields = json.loads(raw)
    return Transition(**fields | {"at": time(fields["at"])})


def iteration(raw: bytes, has_vectors: bool) -> MetaIteration:
    fields = json.loads(raw)
    return MetaIteration(**fields | {"at": time(fields["at"]), "has_vectors": has_vectors})


def event(entry_id: bytes, fields: Fields) -> Event:
    kind, data = fields[b"type"].decode(), fields[b"data"]
    if kind == "status":
        payload = transition(data).model_dump(mode="json")
    elif kind == "trial":
        payload = trial(data).model_dump(mode="json")
    elif kind == "iteration":
        payload = iteration(data, has_vectors=True).model_dump(mode="json")
    else:
        payload = json.loads(data)
    at = time(fields[b"at"])
    described = {"id": entry_id.decode(), "at": at, "type": kind, "data": payload}
    return Event.model_validate(described)


def trial(raw: bytes) -> Trial:
    fields = json.loads(raw)
    return Trial(**fields | {"at": time(fields["at"])})


def log_line(entry_id: bytes, fields: Fields) -> LogLine:
    return LogLine(
        id=entry_id.decode(),
        at=time(order(entry_id)[0]),
        replica=int(fields[b"replica"]),
        source=fields.get(b"source", fields[b"replica"]).decode(),
        text=fields[b"text"].decode(),
    )


def audit_entry(entry_id: bytes, fields: Fields) -> AuditEntry:
    named = {name.decode(): value.decode() for name, value in fields.items()}
    return AuditEntry(
        id=entry_id.decode(),
        at=time(named["at"]),
        by=named["by"],
        tenant=named["tenant"],
        action=named["action"],
        job_id=named.get("job"),
        key_id=named.get("key"),
        detail=named.get("detail", ""),
    )


@lru_cache(maxsize=1024)
def _spec(raw: bytes) -> JobSpec:
    """Cached: a job is read often."""
    return JobSpec.accepted(raw)


def _labelled(spec: JobSpec, fields: Fields) -> JobSpec:
    """The spec with the labels that its users have changed since, see store/labels.py."""
    changes: dict[str, Any] = {}
    if b"name" in fields:
        changes["name"] = fields[b"name"].decode()
    if b"tags" in fields:
        changes["tags"] = json.loads(fields[b"tags"])
    return spec.model_copy(update=changes) if changes else spec


def job(
    job_id: str,
    fields: Fields,
    transitions: list[Transition],
    cluster: ClusterCapacity | None = None,
    turn: Turn | None = None,
) -> JobRecord:
    """`cluster` and `turn` explain why the job is queued."""

    def at(name: bytes) -> datetime | None:
        return time(fields[name]) if name in fields else None

    spec = _labelled(_spec(fields[b"spec"]), fields)
    status = JobStatus(fields[b"status"].decode())
    message, waiting = fields[b"message"].decode(), None
    if cluster is not None and status is JobStatus.QUEUED:
        needs = Needs.of(spec)
        unplaced = fields.get(b"unplaced_until")
        turn, tenant = turn or Turn(), fields[b"tenant"].decode()
        waiting = cluster.waiting(needs, float(unplaced) if unplaced else None)
        place = turn.behind(tenant, spec.priority, float(fields[b"created_at"]))
        message = cluster.reason(waiting, needs, tenant, turn.refusal(tenant), place)
        if place and message.endswith(place):  # else other jobs are not what it waits for
            ahead = {"ahead": turn.ahead, "behind": turn.last_of(tenant)}
            waiting = waiting.model_copy(update=ahead)
    names = (b"best", b"error", b"start", b"preflight")
    best, error, start, preflight = (fields.get(name) for name in names)
    progress = Progress.model_validate_json(fields[b"progress"])
    return JobRecord(
        id=job_id,
        name=spec.name,
        tenant=fields[b"tenant"].decode(),
        created_by=fields[b"created_by"].decode() if b"created_by" in fields else None,
        status=status,
        reason=fields[b"reason"].decode(),
        message=message,
        waiting=waiting,
        created_at=time(fields[b"created_at"]),
        started_at=at(b"started_at"),
        finished_at=at(b"finished_at"),
        progress=progress,
        usage=_usage(fields),
        start_phases=json.loads(fields.get(b"start_phases", b"null")),
        preflight=PreflightReport.model_validate_json(preflight) if preflight else None,
        start=Start.model_validate_json(start) if start else None,
        best=Best.model_validate_json(best) if best else None,
        confirmation=_confirmation(fields, progress),
        error=JobError.model_validate_json(error) if error else None,
        answer=fields.get(b"answer", b"").decode(),
        warnings=json.loads(fields.get(b"warnings", b"[]")),
        hyperparameters=json.loads(fields.get(b"hyperparameters", b"[]")),
        transitions=transitions,
        tags=spec.tags,
        note=fields.get(b"note", b"").decode(),
        archived_at=at(b"archived_at"),
        not_batched=fields[b"not_batched"].decode() if b"not_batched" in fields else None,
        adapted=json.loads(fields.get(b"adapted", b"[]")),
        started_from=_started_from(fields),
        forked_from=fields[b"forked_from"].decode() if b"forked_from" in fields else None,
        spec=spec,
        version=int(fields[b"version"]),
    )


def _started_from(fields: Fields) -> str | None:
    if b"warm" not in fields:
        return None
    described = json.loads(fields[b"warm"])
    return f"{described['job']}@{described['iteration']}"


def _usage(fields: Fields) -> Usage:
    """What the job has used, with what it holds now."""
    since = float(fields.get(b"reserved_at", 0.0))
    held_s = max(0.0, datetime.now(UTC).timestamp() - since / 1000) if since else 0.0
    return Usage(
        cpu_seconds=float(fields.get(b"cpu_seconds", 0.0)) + held_s * float(fields[b"cpus"]),
        gpu_seconds=float(fields.get(b"gpu_seconds", 0.0)) + held_s * float(fields[b"gpus"]),
    )


def _confirmation(fields: Fields, progress: Progress) -> Confirmation | None:
    """The confirmation of the job's end; that of an earlier end of an extended job is outdated."""
    raw = fields.get(b"confirmation")
    found = Confirmation.model_validate_json(raw) if raw else None
    return found if found is not None and found.iterations == progress.iteration else None


_NAMED_HOLDERS = 3


def _whole(announcements: Sequence[Mapping[str, Any]]) -> Capacity:
    """The capacity of all Ray clusters, from what their schedulers announced, the newest last.

    Schedulers of the same tenants share a cluster.
    """
    clusters: dict[tuple[tuple[str, ...], ...], Capacity] = {}
    for one in announcements:
        found = announced(one)
        clusters[tuple(sorted(found.tenants)), tuple(sorted(found.not_tenants))] = found
    if len(clusters) <= 1:
        return next(iter(clusters.values()), announced({"cpus": 0.0, "gpus": 0.0}))
    nodes = {node.id: node for each in clusters.values() for node in each.nodes}
    added = tuple(node for each in clusters.values() for node in each.autoscaler)
    return Capacity.of([*nodes.values()], autoscaler=added)


class ClusterCapacity:
    """The capacity that the schedulers announced, and the part that is reserved for jobs."""

    def __init__(
        self,
        announcements: Fields,
        reservations: Fields,
        places: Iterable[bytes],
        now_ms: float,
        silent_ms: float,
    ) -> None:
        """Schedulers that have not polled the queue for `silent_ms` are left out.

        Args:
            places: where the replicas are for which there are reservations.
        """
        views = map(json.loads, announcements.values())
        alive = [one for one in views if one["at"] > now_ms - silent_ms]
        self.schedulers = len(alive)
        self.now_ms = now_ms
        self.capacity = _whole(sorted(alive, key=lambda one: float(one["at"])))
        self.cpus, self.gpus = self.capacity.cpus, self.capacity.gpus
        free = {node.id: node for node in self.capacity.nodes}
        self.free_cpus, self.free_gpus = self.cpus, self.gpus
        self._holders: list[_Holder] = []
        for holder, reserved in reservations.items():
            cpus, gpus, tenant = reserved.decode().split()
            self.free_cpus -= float(cpus)
            self.free_gpus -= float(gpus)
            self._holders.append(_Holder(holder.decode(), float(cpus), float(gpus), tenant))
        for entry in itertools.chain.from_iterable(map(json.loads, places)):
            if entry[0] in free:
                free[entry[0]] = free[entry[0]].without(entry)
        self._free = [*free.values()]

    def waiting(self, needs: Needs, unplaced: float | None = None) -> Waiting:
        """`unplaced` is when the job that could not be placed may be placed again, in ms."""
        nodes = self.capacity.nodes
        later = unplaced is not None and unplaced > self.now_ms
        return Waiting(
            cpus=needs.cpus * needs.count,
            gpus=needs.gpus * needs.count,
            free_cpus=max(0.0, self.free_cpus),
            free_gpus=max(0.0, self.free_gpus),
            cluster_cpus=self.cpus,
            cluster_gpus=self.gpus,
            impossible=needs.refusal(nodes) if self.schedulers else None,
            autoscaled=needs.refusal([*nodes, *self.capacity.autoscaler]) is None,
            again_at=time(unplaced) if unplaced is not None and later else None,
        )

    def reason(self, waiting: Waiting, needs: Needs, tenant: str, refusal: str, behind: str) -> str:
        """Why a job is still queued: what is missing, who holds it, and who is ahead.

        Args:
            tenant: whose jobs are named; those of others are counted.
            refusal: why the bounds of its tenant keep it back, if they do.
            behind: which jobs are ahead, and why; empty for the first one.
        """
        if not self.schedulers:
            return "no scheduler is running; start one with: drmad schedule"
        if not self.capacity.serves(tenant):
            return f"no scheduler runs jobs of tenant {tenant}"
        if waiting.impossible and self.capacity.autoscaler:
            if waiting.autoscaled:
                return f"{waiting.impossible}; waits for the autoscaler to add nodes"
            return f"{waiting.impossible}, also with every node that the autoscaler may add"
        if waiting.impossible:
            return waiting.impossible
        if waiting.again_at is not None:
            return (
                "its replicas could not be placed, although there was room: it is tried again at "
                f"{waiting.again_at:%H:%M:%S} UTC, or when the nodes change"
            )
        if refusal:
            return refusal
        missing = self._missing(waiting, needs, tenant)
        return "; ".join(filter(None, (missing, behind))) or "first in the queue"

    def _missing(self, waiting: Waiting, needs: Needs, tenant: str) -> str:
        """What is not free of what a job needs, and who holds it; empty where the job fits."""
        for wanted, free, total, unit in (
            (waiting.gpus, waiting.free_gpus, waiting.cluster_gpus, "GPU"),
            (waiting.cpus, waiting.free_cpus, waiting.cluster_cpus, "CPU"),
        ):
            if wanted > free + 1e-6:
                holders = self._held(unit, tenant)
                return f"needs {counted(wanted, unit)}, {free:g} of {total:g} are free{holders}"
        if (held := needs.held_by(self._free)) < needs.count:
            return (
                f"needs {needs.each} on one node"
                f"{f' for each of {needs.count} replicas' if needs.count > 1 else ''}: "
                f"{held or 'no'} replica{'' if held == 1 else 's'} would fit what is free"
                f"{self._roomiest(needs)}{self._held('GPU' if needs.gpus else 'CPU', tenant)}"
            )
        return ""

    def _roomiest(self, needs: Needs) -> str:
        """What is free on the node with most room of those that are large enough."""
        whole = {node.id: node for node in self.capacity.nodes}
        large = [node for node in self._free if whole[node.id].slots(needs)]
        if not large:
            return ""
        best = max(large, key=lambda node: (sum(node.parts) if needs.gpus else 0.0, node.cpus))
        free = f"{max(0.0, best.cpus):g} of {counted(whole[best.id].cpus, 'CPU')}"
        if needs.gpus:
            free += f" and {sum(best.parts):g} of {counted(whole[best.id].gpus, 'GPU')}"
        place = f"node {best.id[:SHORT_ID]}" if best.id else "the node"
        return f"; {place} has most room, {free} free"

    def _held(self, unit: str, tenant: str) -> str:
        """Who holds CPUs or GPUs: the jobs of the tenant by id, those of others by number."""

        def amount(holder: _Holder) -> float:
            return holder.gpus if unit == "GPU" else holder.cpus

        holders = sorted((h for h in self._holders if amount(h) > 0), key=amount, reverse=True)
        own = [holder for holder in holders if holder.tenant == tenant]
        others = len(holders) - len(own)
        named = [
            f"{holder.id[-SHORT_ID:]} ({counted(amount(holder), unit)})"
            for holder in own[:_NAMED_HOLDERS]
        ]
        if len(own) > len(named):
            named.append(f"{len(own) - len(named)} more of yours")
        if others:
            named.append(f"{others} of other tenants")
        return f"; held by {', '.join(named)}" if named else ""


@dataclass(frozen=True)
class _Holder:
    """A reservation: of a job, or of what runs beside jobs."""

    id: str
    cpus: float
    gpus: float
    tenant: str
