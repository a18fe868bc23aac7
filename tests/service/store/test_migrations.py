"""Jobs that an earlier version stored are read as if this version had stored them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from drmad_client.records.status import JobStatus
from drmad_client.spec.job import JobSpec
from drmad_client.spec.problem import CodeProblem
from drmad_service.operations.embedded import EmbeddedRedis
from drmad_service.operations.orphans import orphans
from drmad_service.store import Store
from drmad_service.store.layout import keys
from drmad_service.store.layout.schema import SCHEMA, agree, version
from drmad_service.store.migrations import initial_weights, rewriting, standard_terms
from drmad_workers.meta.state import STATE_VERSION
from tests.service.homes import SCHEMA_2, unpack

pytestmark = pytest.mark.anyio

Dump = Mapping[bytes, tuple[bytes, int]]


class Killed(Exception):
    """The process ends before its next write."""


@pytest.fixture(scope="module")
def schema_2(tmp_path_factory: pytest.TempPathFactory) -> Dump:
    """Every key of the home of schema 2, opened from its append-only file."""
    server = EmbeddedRedis(unpack(2, tmp_path_factory.mktemp("home")))
    server.start()
    with BlockingRedis.from_url(server.url) as redis:
        found: Any = redis.keys("*")
        client: Any = redis
        dump = {key: (client.dump(key), max(0, client.pttl(key))) for key in found}
    server.stop()
    return dump


@pytest.fixture
async def old(redis: Redis, schema_2: Dump) -> Redis:
    """A Redis as the previous version left it."""
    for key, (value, expiry_ms) in schema_2.items():
        await redis.restore(key, expiry_ms, value)
    return redis


async def contents(redis: Any) -> dict[str, Any]:
    """Every key and its value, comparable; streams with what their readers find out of them."""
    found: dict[str, Any] = {}
    for raw in await redis.keys("*"):
        kind, key = await redis.type(raw), raw.decode()
        if kind == b"stream":
            info = await redis.xinfo_stream(raw)
            numbers = ("last-generated-id", "entries-added", "max-deleted-entry-id", "length")
            found[key] = [await redis.xrange(raw), [info[name] for name in numbers]]
        elif kind == b"hash":
            found[key] = await redis.hgetall(raw)
        elif kind == b"list":
            found[key] = await redis.lrange(raw, 0, -1)
        elif kind == b"zset":
            found[key] = await redis.zrange(raw, 0, -1, withscores=True)
        elif kind == b"set":
            found[key] = await redis.smembers(raw)
        else:
            found[key] = await redis.get(raw)
    return found


async def test_every_job_of_schema_2_is_read(old: Redis, store: Store) -> None:
    before = await contents(old)
    assert await version(old) == (2, True)
    await agree(old)
    assert await version(old) == (SCHEMA, True)
    jobs = {job.id: job for job in (await store.jobs(limit=50)).data}
    assert jobs.keys() == set(SCHEMA_2.values())
    for job_id, job in jobs.items():
        assert (await store.get(job_id)).spec == job.spec
        history = (await store.history(job_id)).data
        assert [record.iteration for record in history] == [
            *range(job.progress.iteration - len(history), job.progress.iteration)
        ]
        stored = [fields[b"record"] for _, fields in before[keys.job(job_id, "history")][0]]
        assert [r.validation_loss for r in history] == [
            json.loads(record)["validation_loss"] for record in stored
        ]
        assert await store.events(job_id)
        for record in history:
            assert await store.vectors(job_id, record.iteration, "state")
            assert await store.vectors(job_id, record.iteration, "hypergradient")
        assert job.hyperparameters
        assert (await store.resume_point(job_id)) is not None
    assert await orphans(old) == []


async def test_fields_of_specs_have_their_present_names(old: Redis, store: Store) -> None:
    await agree(old)
    spec = (await store.get(SCHEMA_2["shortcut"])).spec
    method = spec.hypergradient
    assert method.method == "shortcut"
    assert (method.horizon, method.budget) == (10, 8)
    assert (method.minibatch_subsampling, method.max_stride) == (2, 4)
    assert method.max_adjoint_change == 0.2
    assert (spec.meta.rollback_tolerance, spec.meta.max_rollbacks) == (4.0, 3)
    nodes = (await store.get(SCHEMA_2["nodes"])).spec.hypergradient
    assert nodes.method == "shortcut"
    assert (nodes.interpolation_nodes, nodes.averaging_window) == (3, 2)
    auto = (await store.get(SCHEMA_2["auto"])).spec.hypergradient
    assert auto.method == "auto"
    assert auto.min_cosine == 0.7
    assert (await store.get(SCHEMA_2["async"])).spec.replicas.max_staleness == 3
    assert (await store.get(SCHEMA_2["search"])).start is not None


async def test_reports_of_preflight_and_fidelity_are_kept(old: Redis, store: Store) -> None:
    await agree(old)
    preflight = (await store.get(SCHEMA_2["shortcut"])).preflight
    assert preflight is not None
    assert preflight.hyperparameters == {"sample_weight": [120]}
    assert preflight.proofs == []
    report = await store.fidelity_report(SCHEMA_2["nodes"])
    assert report is not None
    method = report["predictions"][0]["figure"]["method"]
    assert (method["interpolation_nodes"], method["averaging_window"]) == (3, 2)
    assert "knots" not in json.dumps(report)


async def test_rollbacks_are_events_states_and_counts_of_rollbacks(
    old: Redis, store: Store
) -> None:
    rejections = await old.hget(keys.COUNTERS, "rejections")
    await agree(old)
    job_id = SCHEMA_2["rollback"]
    rollbacks = [event for event in await store.events(job_id) if event.type == "rollback"]
    assert (len(rollbacks), rejections) == (4, b"4")
    assert rollbacks[0].data.keys() == {"iteration", "rollback", "message"}
    assert rollbacks[0].data["rollback"] == 1
    assert await old.hget(keys.COUNTERS, "rollbacks") == b"4"
    point = await store.resume_point(job_id)
    assert point is not None
    assert (point.scalars["version"], point.scalars["rollbacks"]) == (STATE_VERSION, 2)
    assert (await store.get(job_id)).status is JobStatus.FAILED


async def test_choices_of_auto_have_their_present_names(old: Redis, store: Store) -> None:
    await agree(old)
    for name in ("auto", "async", "search", "diverging", "paused"):
        choices = (await store.fidelity(SCHEMA_2[name]))["choices"]
        events = await store.events(SCHEMA_2[name])
        records = [e.data for e in events if e.type == "iteration" and e.data["choice"]]
        assert len(records) == len(choices) > 0
        for choice in [*choices, *(record["choice"] for record in records)]:
            assert {"last_probe", "next_probe", "probes"} <= choice.keys()
            assert not {"looked", "due", "figures"} & choice.keys()
        point = await store.resume_point(SCHEMA_2[name])
        assert point is not None
        assert point.scalars["choice"]["next_probe"] >= point.scalars["choice"]["last_probe"]


async def test_migration_that_was_killed_between_two_writes_is_completed(
    redis: Redis, schema_2: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = rewriting.write
    left = 10**9

    async def counting(*arguments: Any) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        await write(*arguments)

    monkeypatch.setattr(rewriting, "write", counting)
    monkeypatch.setattr(standard_terms, "write", counting)
    monkeypatch.setattr(rewriting, "_ENTRIES", 2)  # several batches for each stream

    async def load() -> None:
        await redis.flushall()
        for key, (value, _) in schema_2.items():
            await redis.restore(key, 0, value)

    async def migrate() -> None:
        await redis.set(keys.SCHEMA, standard_terms.MARKER)
        await standard_terms.migrate(redis)

    await load()
    await migrate()
    whole = await contents(redis)
    writes = 10**9 - left
    assert writes > 50
    for killed_after in range(0, writes, 7):
        await load()
        left = killed_after
        with pytest.raises(Killed):
            await migrate()
        left = 10**9
        await migrate()
        found = await contents(redis)
        copies = [key for key in found if ":copy_" in key]
        for key in copies:
            assert await redis.ttl(key) > 0, "an unfinished copy expires"
        assert {key: found[key] for key in found if key not in copies} == whole


async def test_repeated_migration_writes_nothing(old: Redis) -> None:
    await agree(old)
    before = await contents(old)
    await old.set(keys.SCHEMA, standard_terms.MARKER)
    await old.config_resetstat()
    await standard_terms.migrate(old)
    commands = await old.info("commandstats")
    assert not {"cmdstat_hset", "cmdstat_xadd", "cmdstat_rename"} & commands.keys()
    after = await contents(old)
    assert after | {keys.SCHEMA: str(SCHEMA).encode()} == before


async def test_process_that_was_frozen_in_a_migration_writes_nothing_after_its_end(
    old: Redis,
) -> None:
    before = await contents(old)
    await old.set(keys.SCHEMA, 3)
    with pytest.raises(rewriting.MigrationEnded, match="must be 2-3, got b'3'"):
        await standard_terms.migrate(old)
    assert await contents(old) == before | {keys.SCHEMA: b"3"}


async def test_code_of_schema_3_draws_its_weights_again_as_it_did(
    redis: Redis, store: Store, body: dict[str, Any]
) -> None:
    code: dict[str, Any] = {"entrypoint": "mine:build", "code": "sha256:" + "ab" * 32}
    own = (await store.create(JobSpec.model_validate(body | {"problem": code})))[0]
    catalog = (await store.create(JobSpec.model_validate(body)))[0]
    for job in (own, catalog):
        spec = job.spec.model_dump(mode="json")
        spec["problem"] = {
            name: value
            for name, value in spec["problem"].items()
            if name not in ("weights", "initialize")
        }
        await redis.hset(keys.job(job.id), "spec", json.dumps(spec))
    await redis.set(keys.SCHEMA, 3)
    await agree(redis)
    assert (await store.get(own.id)).spec.problem == CodeProblem(**code, initialize="reset")
    assert (await store.get(catalog.id)).spec == catalog.spec
    again = (await store.create(JobSpec.model_validate(body | {"problem": code})))[0]
    await redis.set(keys.SCHEMA, initial_weights.MARKER)
    await initial_weights.migrate(redis)
    assert (await store.get(again.id)).spec.problem == CodeProblem(**code)
