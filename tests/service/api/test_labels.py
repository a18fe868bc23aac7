"""Labels of a job change while it runs and after its end, and lists leave archived jobs out."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_service.operations.backup.backup_writer import write
from drmad_service.store import Store
from drmad_service.store.files.data_folder import DataFolder
from drmad_service.store.layout.state_machine import Action
from drmad_service.store.overview import Overview
from tests.service.operations.test_backups import bring_back
from tests.service.store.test_store import started, step

pytestmark = pytest.mark.anyio


async def patched(api: httpx.AsyncClient, job_id: str, **labels: Any) -> dict[str, Any]:
    answer = await api.patch(f"/v1/jobs/{job_id}", json=labels)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def listed(api: httpx.AsyncClient, **params: Any) -> list[str]:
    answer = await api.get("/v1/jobs", params=params)
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["data"]]


async def ended(store: Store, spec: JobSpec) -> str:
    job, _ = await store.create(spec)
    await store.cancel(job.id)
    return job.id


async def test_what_a_patch_leaves_out_stays_and_null_removes(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    job, _ = await store.create(spec.model_copy(update={"tags": {"a": "1", "b": "2"}}))
    renamed = await patched(api, job.id, name="other", note="line\n* point", tags={"a": "3"})
    assert (renamed["name"], renamed["note"]) == ("other", "line\n* point")
    assert renamed["tags"] == renamed["spec"]["tags"] == {"a": "3", "b": "2"}
    assert renamed["spec"]["name"] == "other"
    assert renamed["version"] == job.version + 1
    fewer = await patched(api, job.id, tags={"a": None, "c": ""}, note=None)
    assert (fewer["tags"], fewer["note"], fewer["name"]) == ({"b": "2", "c": ""}, "", "other")
    assert (await patched(api, job.id, tags=None))["tags"] == {}
    assert await listed(api, tag="b:2") == []


async def test_changes_at_once_of_different_tags_all_hold(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    job, _ = await store.create(spec)
    await asyncio.gather(*(patched(api, job.id, tags={f"t{n}": str(n)}) for n in range(20)))
    assert (await store.get(job.id)).tags == {f"t{n}": str(n) for n in range(20)}
    full = await api.patch(f"/v1/jobs/{job.id}", json={"tags": {f"u{n}": "" for n in range(13)}})
    assert (full.status_code, full.json()["code"]) == (409, "too_many_tags")
    assert len((await store.get(job.id)).tags) == 20


async def test_labels_outlive_an_extension_a_fork_and_a_backup(
    api: httpx.AsyncClient, store: Store, spec: JobSpec, redis: Redis, tmp_path: Any
) -> None:
    lease = await started(store, spec)
    await patched(api, lease.job_id, name="while it runs", tags={"k": "v"})
    await store.commit(lease, step(0))
    await store.act(lease, Action.FAIL, "test")
    extended = await api.post(f"/v1/jobs/{lease.job_id}/extend", json={"iterations": 1})
    assert extended.json()["name"] == "while it runs"
    fork = (await api.post(f"/v1/jobs/{lease.job_id}/fork", json={"iteration": 0})).json()
    assert (fork["name"], fork["tags"]) == ("while it runs", {"k": "v"})
    await store.cancel(lease.job_id)
    await patched(api, lease.job_id, archived=True, note="kept")
    path, data = tmp_path / "backup.zip", DataFolder(tmp_path)
    await write(redis, data, path)
    await redis.flushall()
    assert await bring_back(redis, store, path, data)
    restored = await store.get(lease.job_id)
    assert (restored.name, restored.note, restored.tags) == ("while it runs", "kept", {"k": "v"})
    assert await listed(api, archived="only") == [lease.job_id]


async def test_archived_jobs_are_listed_when_they_are_asked_for(
    api: httpx.AsyncClient, store: Store, spec: JobSpec, redis: Redis
) -> None:
    ids = [await ended(store, spec) for _ in range(6)]
    for job_id in ids[1:5]:
        await patched(api, job_id, archived=True)
    assert await listed(api) == [ids[5], ids[0]]
    assert await listed(api, limit=1) == [ids[5]]
    assert await listed(api, archived="only", status="cancelled") == ids[4:0:-1]
    assert await listed(api, archived="only", status="failed") == []
    assert await listed(api, archived="include") == ids[::-1]
    counts = await Overview(redis, store, 30.0).counts()
    assert counts == {JobStatus.CANCELLED: 2}
    await store.delete(ids[1])
    again = await api.post(f"/v1/jobs/{ids[2]}/extend", json={"iterations": 1})
    assert again.json()["archived_at"] is None
    assert (await patched(api, ids[3], archived=False))["archived_at"] is None
    assert await listed(api, archived="only") == [ids[4]]
    refused = await api.patch(f"/v1/jobs/{ids[2]}", json={"archived": True})
    assert (refused.status_code, refused.json()["code"]) == (409, "action_refused")
    assert "only a job that has ended" in refused.json()["detail"]


async def test_the_audit_log_has_what_changed_and_nothing_else(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    job_id = await ended(store, spec)
    await patched(api, job_id, name="n", note="é" * 300, tags={"k": "v", "x": None}, archived=True)
    before = (await store.get(job_id)).version
    await patched(api, job_id, name="n", tags={"k": "v"}, archived=True)
    assert (await store.get(job_id)).version == before
    found = (await api.get("/v1/audit", params={"job": job_id})).json()["data"][::-1]
    assert [(e["action"], e["detail"], e["by"]) for e in found[2:]] == [
        ("renamed", "n", "local"),
        ("noted", "é" * 200, "local"),
        ("tagged", "k:v", "local"),
        ("archived", "", "local"),
    ]


@pytest.mark.parametrize(
    ("labels", "path", "word"),
    [
        ({"nam": "x"}, "nam", "not a known field"),
        ({"name": None}, "name", "cannot be null"),
        ({"name": ""}, "name", "at least 1"),
        ({"name": "a\x1b[2J"}, "name", "control characters"),
        ({"note": "a\x07"}, "note", "U+0007"),
        ({"note": "x" * 10_001}, "note", "10000"),
        ({"tags": {"k": 3}}, "tags.k", "text"),
        ({"tags": {"": "v"}}, "tags", "at least 1"),
        ({"archived": "perhaps"}, "archived", "true"),
        ({"archived": None}, "archived", "cannot be null"),
        ({"seed": 3}, "seed", "not a known field"),
    ],
)
async def test_a_bad_label_is_refused_by_its_field(
    api: httpx.AsyncClient,
    store: Store,
    spec: JobSpec,
    labels: dict[str, Any],
    path: str,
    word: str,
) -> None:
    job, _ = await store.create(spec)
    refused = await api.patch(f"/v1/jobs/{job.id}", json=labels)
    assert refused.status_code == 422, refused.text
    (error,) = refused.json()["errors"]
    assert error["path"].startswith(path), error
    assert word in error["message"], error
    assert await store.get(job.id) == job
