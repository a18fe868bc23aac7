"""Who made a job, who may change it, and the log of who did what."""

from __future__ import annotations

import httpx
import pytest
from redis.asyncio import Redis

from drmad_client.records.job import JobRecord
from drmad_client.records.service.audit import AuditEntry
from drmad_client.spec.job import JobSpec
from drmad_service.api.auth.api_keys import Access, Scope
from drmad_service.store import Store
from drmad_service.store.layout.state_machine import Action
from tests.service.api.test_tenants import LOCAL_KEY, access, locked
from tests.service.store.test_store import CAPACITY, started, step

__all__ = ["access", "locked"]

pytestmark = pytest.mark.anyio

CHANGES = [
    ("POST", "cancel", None),
    ("POST", "pause", None),
    ("POST", "resume", None),
    ("POST", "extend", {"iterations": 1}),
    ("POST", "validations", {}),
    ("POST", "retrainings", {}),
    ("PATCH", "", {"note": "theirs"}),
    ("DELETE", "", None),
]


async def key_of(access: Access, scope: Scope, tenant: str = "a") -> tuple[str, dict[str, str]]:
    key, text = await access.create(tenant, scope)
    return key.id, {"Authorization": f"Bearer {text}"}


async def submitted(client: httpx.AsyncClient, spec: JobSpec, headers: dict[str, str]) -> JobRecord:
    answer = await client.post("/v1/jobs", json=spec.model_dump(mode="json"), headers=headers)
    assert answer.status_code == 201, answer.text
    return JobRecord.model_validate_json(answer.content)


async def entries(
    client: httpx.AsyncClient, headers: dict[str, str], **params: str
) -> list[AuditEntry]:
    answer = await client.get("/v1/audit", headers=headers, params=params)
    assert answer.status_code == 200, answer.text
    return [AuditEntry.model_validate(entry) for entry in answer.json()["data"]]


async def test_others_of_the_tenant_see_a_job_and_change_it_only_with_the_scope_for_that(
    locked: httpx.AsyncClient, access: Access, spec: JobSpec
) -> None:
    mine, my_key = await key_of(access, Scope.SUBMIT)
    _, other = await key_of(access, Scope.SUBMIT)
    manager_id, manager = await key_of(access, Scope.MANAGE)
    _, stranger = await key_of(access, Scope.MANAGE, "b")
    job = await submitted(locked, spec, my_key)
    assert job.created_by == mine
    path = f"/v1/jobs/{job.id}"
    seen = await locked.get(path, headers=other)
    assert (seen.status_code, seen.json()["created_by"]) == (200, mine)
    for method, action, body in CHANGES:
        url = f"{path}/{action}" if action else path
        refused = await locked.request(method, url, json=body, headers=other)
        assert (refused.status_code, refused.json()["code"]) == (403, "not_owner"), action
        assert mine in refused.json()["detail"]
        hidden = await locked.request(method, url, json=body, headers=stranger)
        assert hidden.status_code == 404, action
    paused = await locked.post(f"{path}/pause", headers=my_key)
    assert paused.json()["transitions"][-1]["by"] == mine
    ended = await locked.post(f"{path}/cancel", headers=manager)
    assert ended.json()["transitions"][-1]["by"] == manager_id
    assert (await locked.delete(path, headers={"Authorization": f"Bearer {LOCAL_KEY}"})).is_success


async def test_job_of_an_earlier_release_has_no_owner_and_is_everybodys_of_the_tenant(
    locked: httpx.AsyncClient, access: Access, spec: JobSpec, store: Store, redis: Redis
) -> None:
    _, key = await key_of(access, Scope.SUBMIT)
    job, _ = await store.create(spec, tenant="a", by="gone")
    await redis.hdel(f"drmad:job:{job.id}", "created_by")
    answer = await locked.post(f"/v1/jobs/{job.id}/cancel", headers=key)
    assert (answer.status_code, answer.json()["created_by"]) == (200, None)


async def test_audit_log_says_who_did_what_also_of_a_job_that_is_gone(
    locked: httpx.AsyncClient, access: Access, spec: JobSpec, store: Store
) -> None:
    mine, my_key = await key_of(access, Scope.SUBMIT)
    manager, manager_key = await key_of(access, Scope.MANAGE)
    _, stranger = await key_of(access, Scope.READ, "b")
    job = await submitted(locked, spec, my_key)
    lease = await store.claim("scheduler_1", 60.0, CAPACITY)
    assert lease is not None
    await store.act(lease, Action.RUN, "started")
    await locked.post(f"/v1/jobs/{job.id}/cancel", headers=manager_key)
    await store.act(lease, Action.YIELD, "cancelled", "cancelled by its user")
    await locked.delete(f"/v1/jobs/{job.id}", headers=my_key)
    await access.revoke(manager, "root@machine")

    found = (await entries(locked, my_key))[::-1]
    assert [(e.action, e.by, e.job_id or e.key_id) for e in found] == [
        ("key_created", "operator", mine),
        ("key_created", "operator", manager),
        ("submitted", mine, job.id),
        ("claimed", "scheduler_1", job.id),
        ("started", "scheduler_1", job.id),
        ("user", manager, job.id),
        ("cancelled", "scheduler_1", job.id),
        ("deleted", mine, job.id),
        ("key_revoked", "root@machine", manager),
    ]
    assert [e.action for e in await entries(locked, stranger)] == ["key_created"]
    assert [e.by for e in await entries(locked, my_key, by=manager)] == [manager]
    of_job = await entries(locked, my_key, job=job.id)
    assert len(of_job) == 6
    page = (await locked.get("/v1/audit?limit=4", headers=my_key)).json()
    rest = await entries(locked, my_key, after=page["next"])
    assert [e["id"] for e in page["data"]] + [e.id for e in rest] == [e.id for e in found[::-1]]
    assert await entries(locked, my_key, after="0000-0") == []
    refused = await locked.get("/v1/audit", headers=my_key, params={"after": "\u0663-0"})
    assert refused.status_code == 422
    every = {"Authorization": f"Bearer {LOCAL_KEY}"}
    assert {e.tenant for e in await entries(locked, every)} == {"a", "b"}


async def test_every_transition_of_a_job_names_its_principal(store: Store, spec: JobSpec) -> None:
    lease = await started(store, spec)
    await store.act(lease, Action.SUCCEED, "iterations")
    job = await store.get(lease.job_id)
    assert [t.by for t in job.transitions] == ["local", *["scheduler"] * 3]
    assert (await store.extend(job, spec, by="key")).transitions[-1].by == "key"


async def test_keys_name_who_created_them(access: Access) -> None:
    await access.create("a", Scope.READ, "for plots", by="ann@laptop")
    (key,) = await access.keys()
    assert (key.created_by, key.note) == ("ann@laptop", "for plots")


async def test_forks_and_extensions_validate_what_they_inherit(
    api: httpx.AsyncClient, store: Store, spec: JobSpec, redis: Redis
) -> None:
    code = f"sha256:{'ab' * 32}"
    await store.put_code("ab" * 32, b"code")
    problem = {"code": code, "entrypoint": "problem:build"}
    own = JobSpec.model_validate(spec.model_dump() | {"problem": problem})
    lease = await started(store, own)
    await store.commit(lease, step(0))
    await store.act(lease, Action.FAIL, "test")
    path = f"/v1/jobs/{lease.job_id}"
    assert (await api.post(f"{path}/fork", json={"iteration": 0})).status_code == 201
    await redis.delete(f"drmad:code:{'ab' * 32}", f"drmad:code:{'ab' * 32}:tenants")
    for action, body in (("fork", {"iteration": 0}), ("extend", {"iterations": 1})):
        refused = await api.post(f"{path}/{action}", json=body)
        assert refused.status_code == 422, refused.text
        assert refused.json()["errors"][0]["path"] == "problem.code"
        assert "not uploaded" in refused.json()["errors"][0]["message"]
