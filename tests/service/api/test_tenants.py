from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from redis.asyncio import Redis
from typer.testing import CliRunner

from drmad_client.errors import DrmadError
from drmad_client.records.job import JobRecord
from drmad_client.spec.job import JobSpec
from drmad_service.api.app import create_app
from drmad_service.api.auth import api_keys as access_module
from drmad_service.api.auth.api_keys import Access, Scope
from drmad_service.api.auth.scopes import SCOPES
from drmad_service.errors import KeyNotFound
from drmad_service.operations import key_commands
from drmad_service.operations.orphans import orphans
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from drmad_service.store.layout import keys
from tests.service.api.test_api import finished, problem

pytestmark = pytest.mark.anyio

LOCAL_KEY = "drmad_" + "k" * 43


@pytest.fixture
async def access(redis: Redis) -> Access:
    return Access(redis, LOCAL_KEY)


@pytest.fixture
async def locked(redis: Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The application of several tenants."""
    settings = ApiSettings(
        redis_url, data_dir=tmp_path / "data", local_key=LOCAL_KEY, most_queued=3
    )
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1"
        ) as client,
    ):
        yield client


async def bearer(access: Access, tenant: str, scope: Scope = Scope.SUBMIT) -> dict[str, str]:
    return {"Authorization": f"Bearer {(await access.create(tenant, scope))[1]}"}


def routes() -> Iterator[tuple[str, str]]:
    app = create_app(ApiSettings(redis_url="unix:///nowhere"))
    for context in iter_route_contexts(app.routes):
        for method in context.methods or ():
            yield method, str(context.path)


ROUTES = sorted(set(routes()))


def address(path: str, job_id: str = "job_none") -> str:
    """A path with its parameters filled in."""
    values = {"job_id": job_id, "name": "losses", "file": "job.yaml", "sha256": "0" * 64}
    return re.sub(r"{(\w+)(:path)?}", lambda m: values.get(m[1], "x"), path)


def test_every_route_has_its_scope_and_the_table_names_no_other() -> None:
    assert set(ROUTES) == set(SCOPES)


async def test_every_route_asks_for_its_scope(locked: httpx.AsyncClient, access: Access) -> None:
    headers = {scope: await bearer(access, "a", scope) for scope in Scope}
    for (method, path), needed in SCOPES.items():
        if needed is None:
            continue
        refused = await locked.request(method, address(path))
        # A page leads to the sign-in.
        assert refused.status_code in (401, 303), (method, path)
        for scope in Scope:
            if scope < needed:
                answer = await locked.request(method, address(path), headers=headers[scope])
                assert answer.status_code == 403, (method, path)
                word = f"must be at least {needed.name.lower()}"
                assert method == "HEAD" or word in answer.text, (method, path)


async def test_a_job_of_another_tenant_does_not_exist(
    locked: httpx.AsyncClient, access: Access, store: Store, spec: JobSpec
) -> None:
    job = (await store.create(spec, tenant="a"))[0]
    theirs = await bearer(access, "b", Scope.SUBMIT)
    tried = [(method, path) for method, path in ROUTES if "{job_id}" in path]
    assert len(tried) > 15
    for method, path in tried:
        real = await locked.request(method, address(path, job.id), headers=theirs)
        none = await locked.request(method, address(path, "job_none"), headers=theirs)
        assert real.status_code == none.status_code == 404, (method, path)
        assert real.text.replace(job.id, "job_none") == none.text, (method, path)
    assert job == await store.get(job.id)


async def test_a_tenant_sees_its_own_jobs_alone_and_an_admin_all(
    locked: httpx.AsyncClient, access: Access, body: dict[str, Any]
) -> None:
    of_a, of_b = await bearer(access, "a"), await bearer(access, "b")
    admin = await bearer(access, "c", Scope.ADMIN)
    mine = JobRecord.model_validate((await locked.post("/v1/jobs", json=body, headers=of_a)).json())
    theirs = JobRecord.model_validate(
        (await locked.post("/v1/jobs", json=body | {"name": "secret"}, headers=of_b)).json()
    )
    assert (mine.tenant, theirs.tenant) == ("a", "b")
    for headers, seen in ((of_a, {mine.id}), (of_b, {theirs.id}), (admin, {mine.id, theirs.id})):
        for query in ("", "?status=queued"):
            listed = (await locked.get(f"/v1/jobs{query}", headers=headers)).json()["data"]
            assert {job["id"] for job in listed} == seen
        page = (await locked.get("/?q=sec", headers=headers)).text
        assert (theirs.id in page) == (theirs.id in seen)
    cluster = (await locked.get("/v1/cluster", headers=of_a)).json()["queue"]
    assert [(p["id"], p["name"], p["tenant"]) for p in cluster] == [
        (mine.id, "digits", "a"),
        (None, "", ""),
    ]
    assert cluster[1]["cpus"] == 1.0  # the load of others is seen, and no more
    page = (await locked.get("/cluster", headers=of_a)).text
    assert "job of another tenant" in page
    assert "secret" not in page
    assert "secret" in (await locked.get("/cluster", headers=admin)).text


async def test_ids_in_queries_and_bodies_are_the_tenants_own(
    locked: httpx.AsyncClient, access: Access, store: Store, spec: JobSpec
) -> None:
    job = (await store.create(spec, tenant="a"))[0]
    of_b = await bearer(access, "b")
    assert (await locked.get(f"/compare?job={job.id}", headers=of_b)).status_code == 404
    assert (await locked.get(f"/new?like={job.id}", headers=of_b)).status_code == 404
    draft = {"job": spec.model_dump(mode="json"), "fork_of": job.id}
    problem(await locked.post("/new/check", json=draft, headers=of_b), 404, "job_not_found")
    # A cursor is a place in one's own list, whoever it was made for.
    listed = await locked.get("/v1/jobs?after=job_7ZZZZZZZZZZZZZZZZZZZZZZZZZ", headers=of_b)
    assert listed.json()["data"] == []


async def test_code_is_the_tenants_own(
    locked: httpx.AsyncClient, access: Access, store: Store, body: dict[str, Any]
) -> None:
    of_a, of_b = await bearer(access, "a"), await bearer(access, "b")
    sha256 = hashlib.sha256(b"archive").hexdigest()
    await store.put_code(sha256, b"archive", tenant="a")
    path = f"/v1/code/{sha256}"
    assert (await locked.head(path, headers=of_a)).status_code == 204
    assert (await locked.head(path, headers=of_b)).status_code == 404
    problem(await locked.get(path, headers=of_b), 404, "result_not_found")
    assert (await locked.get(path, headers=of_a)).content == b"archive"
    body["problem"] = {"entrypoint": "m:build", "code": f"sha256:{sha256}"}
    refused = await locked.post("/v1/jobs", json=body, headers=of_b)
    assert problem(refused, 422, "invalid_fields").errors[0].path == "problem.code"
    assert (await locked.post("/v1/jobs", json=body, headers=of_a)).status_code == 201
    assert await store.put_code(sha256, b"archive", tenant="b")  # new to b
    assert (await locked.head(path, headers=of_b)).status_code == 204


async def test_a_tenant_has_so_many_jobs_waiting(
    locked: httpx.AsyncClient, access: Access, body: dict[str, Any]
) -> None:
    of_a, of_b = await bearer(access, "a"), await bearer(access, "b")
    key = {"Idempotency-Key": "one"}
    first = await locked.post("/v1/jobs", json=body, headers=of_a | key)
    others = [await locked.post("/v1/jobs", json=body, headers=of_a) for _ in range(2)]
    await locked.post(f"/v1/jobs/{others[0].json()['id']}/pause", headers=of_a)
    refused = await locked.post("/v1/jobs", json=body, headers=of_a)
    assert "at most 3 are allowed" in problem(refused, 429, "too_many_queued").detail
    assert int(refused.headers["retry-after"]) > 0
    again = await locked.post("/v1/jobs", json=body, headers=of_a | key)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert (await locked.post("/v1/jobs", json=body, headers=of_b)).status_code == 201
    await locked.post(f"/v1/jobs/{first.json()['id']}/cancel", headers=of_a)
    assert (await locked.post("/v1/jobs", json=body, headers=of_a)).status_code == 201


async def test_a_revoked_key_opens_nothing_at_once_nor_do_its_sessions(
    locked: httpx.AsyncClient, access: Access, redis: Redis
) -> None:
    made, text = await access.create("a", Scope.READ, "for a test")
    headers = {"Authorization": f"Bearer {text}"}
    assert (await locked.get("/v1/jobs", headers=headers)).is_success
    assert (await locked.post("/sign-in", json={"key": text})).status_code == 204
    assert (await locked.get("/v1/jobs")).is_success
    (shown,) = await access.keys()
    assert shown.used_at is not None
    assert (shown.id, shown.tenant, shown.scope, shown.note) == (
        made.id, "a", Scope.READ, "for a test",
    )  # fmt: skip
    secret = text.split("_", 2)[2]
    kept = [await redis.hgetall(name) for name in await redis.keys("drmad:key:*")]
    assert secret not in str(kept) + str(await redis.keys("*"))
    await access.revoke(made.id)
    problem(await locked.get("/v1/jobs", headers=headers), 401, "not_signed_in")
    locked.cookies.clear()
    problem(await locked.get("/v1/jobs"), 401, "not_signed_in")
    problem(await locked.post("/sign-in", json={"key": text}), 401, "sign_in_failed")
    with pytest.raises(KeyNotFound):
        await access.revoke(made.id)


@pytest.mark.parametrize("forged", ["{id}", "drmad_{id}_" + "x" * 43, "drmad_local_" + "x" * 43])
async def test_the_id_of_a_key_opens_nothing(
    locked: httpx.AsyncClient, access: Access, forged: str
) -> None:
    made, _ = await access.create("a", Scope.ADMIN)
    headers = {"Authorization": "Bearer " + forged.format(id=made.id)}
    problem(await locked.get("/v1/jobs", headers=headers), 401, "not_signed_in")


async def test_where_keys_exist_nobody_comes_in_without_one(redis: Redis) -> None:
    assert await Access(redis).is_open()
    assert not await Access(redis, open_without_keys=False).is_open()
    made, _ = await Access(redis).create("a", Scope.READ)
    assert not await Access(redis).is_open()
    await Access(redis).revoke(made.id)
    assert await Access(redis).is_open()


async def test_a_key_above_its_rate_gets_a_time_to_retry(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ApiSettings(
        redis_url=redis_url, local_key=LOCAL_KEY, requests_per_s=0.01, request_burst=3
    )
    app = create_app(settings)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        made, text = await Access(redis).create("a", Scope.READ)
        headers = {"Authorization": f"Bearer {text}"}
        other = await bearer(Access(redis), "a", Scope.READ)
        answers = await asyncio.gather(
            *(client.get("/v1/catalog", headers=headers) for _ in range(6))
        )
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 3
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert "0.01 requests per second" in problem(refused, 429, "too_many_requests").detail
        assert 1 <= int(refused.headers["retry-after"]) <= 100
        assert (await client.get("/", headers=headers)).status_code == 429
        # Whoever knows the id alone spends nothing of it, nor does another key of the tenant.
        assert (await client.get("/v1/catalog", headers=other)).is_success
        forged = {"Authorization": f"Bearer drmad_{made.id}_{'x' * 43}"}
        before = await redis.hgetall(keys.bucket(made.id))
        assert (await client.get("/v1/catalog", headers=forged)).status_code == 401
        assert await redis.hgetall(keys.bucket(made.id)) == before
        # A minute and two thirds later there is one more.
        kept = {name.decode(): float(value) for name, value in dict[Any, Any](before).items()}
        await redis.hset(keys.bucket(made.id), "at", str(kept["at"] - 101_000))
        assert (await client.get("/v1/catalog", headers=headers)).is_success
        assert (await client.get("/v1/catalog", headers=headers)).status_code == 429
        # A clock set back by an hour keeps nobody out for that hour.
        await redis.hset(keys.bucket(made.id), "at", str(kept["at"] + 3_600_000))
        assert (await client.get("/v1/catalog", headers=headers)).status_code == 429
        now = float((await redis.hgetall(keys.bucket(made.id)))[b"at"])
        assert now < kept["at"] + 3_600_000
        await redis.hset(keys.bucket(made.id), "at", str(now - 101_000))
        assert (await client.get("/v1/catalog", headers=headers)).is_success
        local = {"Authorization": f"Bearer {LOCAL_KEY}"}
        assert (await client.get("/v1/catalog", headers=local)).is_success


async def test_who_may_only_read_finds_no_buttons(
    locked: httpx.AsyncClient, access: Access, store: Store, spec: JobSpec
) -> None:
    lease = await finished(store, spec)
    reader = await bearer(access, "local", Scope.READ)
    submitter = await bearer(access, "local", Scope.SUBMIT)
    manager = await bearer(access, "local", Scope.MANAGE)
    for headers, may_submit, may_change in (
        (reader, False, False),
        (submitter, True, False),  # the job is another's
        (manager, True, True),
    ):
        page = (await locked.get(f"/jobs/{lease.job_id}", headers=headers)).text
        assert (">Fork</a>" in page) == may_submit
        assert ('data-dialog="delete"' in page) == may_change
        assert ('href="/new"' in page) == may_submit
        assert "history.csv" in page
    refused = await locked.get("/new", headers=reader)
    assert refused.status_code == 403
    assert "must be at least submit, got read" in refused.text


@pytest.mark.parametrize("tenant", ["", "A", "a b", "a:b", "-a", "x" * 64, "é"])
async def test_tenant_has_a_plain_name(access: Access, tenant: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        await access.create(tenant, Scope.READ)


def test_keys_are_made_listed_and_revoked_on_the_command_line(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRMAD_REDIS_URL", redis_url)
    monkeypatch.setenv("COLUMNS", "200")
    run = CliRunner().invoke
    made = run(key_commands.keys_app, ["create", "--tenant", "vision", "--note", "[red]ci"])
    text = made.stdout.strip()
    assert access_module._KEY.fullmatch(text)
    key_id = text.split("_")[1]
    listed = run(key_commands.keys_app, ["list"]).stdout
    assert all(word in listed for word in (key_id, "vision", "submit", "never", "[red]ci"))
    assert text.split("_", 2)[2] not in listed
    assert key_id in run(key_commands.keys_app, ["revoke", key_id]).stdout
    assert key_id not in run(key_commands.keys_app, ["list"]).stdout
    again = run(key_commands.keys_app, ["revoke", key_id])
    assert isinstance(again.exception, KeyNotFound)
    bad = run(key_commands.keys_app, ["create", "--tenant", "A B"])
    assert isinstance(bad.exception, DrmadError)


def test_service_listens_to_others_only_when_there_is_a_key(redis_url: str) -> None:
    def refuse(host: str, has_key: bool = False) -> None:
        key_commands.refuse_unguarded(host, redis_url, has_key)

    asyncio.run(_flushed(redis_url))
    for host in ("127.0.0.1", "127.0.0.9", "::1", "localhost"):
        refuse(host)
    for host in ("0.0.0.0", "::", "10.0.0.1", "drmad.example", ""):
        refuse(host, has_key=True)
        with pytest.raises(DrmadError, match="drmad keys create --tenant"):
            refuse(host)
    CliRunner().invoke(key_commands.keys_app, ["create", "--tenant", "a", "--redis-url", redis_url])
    refuse("0.0.0.0")


async def _flushed(redis_url: str) -> None:
    from drmad_service.store.access.connection import connect

    async with connect(redis_url) as redis:
        await redis.flushall()


async def test_key_expires_with_its_sessions(
    access: Access, locked: httpx.AsyncClient, redis: Redis, store: Store
) -> None:
    key, text = await access.create("vision", Scope.READ, expires_s=3600)
    client: Any = redis
    assert key.expires_at is not None
    assert 3500 < (key.expires_at - key.created_at).total_seconds() <= 3600
    assert 3500 < await client.ttl(keys.key(key.id)) <= 3600
    assert (await access.keys())[0].expires_at == key.expires_at
    session = await access.open_session(text)
    assert session is not None
    assert await access.of_session(session) is not None
    await client.pexpireat(keys.key(key.id), 1)
    assert await access.of_key(text) is None
    assert await access.of_session(session) is None
    assert await access.keys() == []
    refused = await locked.get("/v1/jobs", headers={"Authorization": f"Bearer {text}"})
    problem(refused, 401, "not_signed_in")
    assert await orphans(redis) == []
    entries = [(entry.action, entry.by) for entry in (await store.audit()).data]
    assert entries == [("session_opened", key.id), ("key_created", "operator")]
    await access.close_session(session)
    assert (await store.audit()).data[0].action == "session_closed"
