"""What somebody hostile would try, and what becomes of it.

attack                                          tried by
another tenant's job, by id, on every route     test_tenants.py
another tenant's code or data, by digest        test_tenants.py, here
a key of lower scope, on every route            test_tenants.py
a key that was guessed, revoked, or is an id    test_tenants.py, test_auth.py
a forged cursor or event id                     here
paths and bombs in archives                     here, test_code_archive.py, test_fuzzing.py
small files that take much to parse             test_file_bombs.py
huge numbers, deep nesting in JSON and YAML     here, test_fuzzing.py
headers injected through a name or a URL        here
markup in every string that is shown            here
inside addresses through the webhook            test_webhooks.py
a page of another site, a name pointed at us    test_auth.py, here
slow-loris: headers, bodies, readers            test_limits.py
streams without end                             test_limits.py
more requests, more jobs than one may           test_tenants.py
pickle in what is stored or sent                test_no_pickle.py
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from redis.asyncio import Redis

from drmad_client.records.events import Event
from drmad_client.records.job import JobError
from drmad_client.spec.job import JobSpec
from drmad_service.api.app import create_app
from drmad_service.api.auth.api_keys import Access, Scope
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from drmad_service.store.layout.state_machine import Action
from tests.service.api.test_api import finished, problem
from tests.service.store.test_store import CAPACITY

pytestmark = pytest.mark.anyio

KEY = "drmad_" + "k" * 43
HOST = "127.0.0.1:8080"
BEARER = {"Authorization": f"Bearer {KEY}"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def target(redis: Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The application, called by whoever holds the local key."""
    app = create_app(ApiSettings(redis_url=redis_url, local_key=KEY, data_dir=tmp_path))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url=f"http://{HOST}", headers=BEARER
        ) as client,
    ):
        yield client


def test_every_file_that_the_table_names_is_there() -> None:
    tests = Path(__file__).parents[2]
    for name in re.findall(r"\b(\w+\.py)\b", __doc__ or ""):
        assert any(tests.rglob(name)), name


@pytest.mark.parametrize(
    "cursor",
    ["+", "-", "(", "[", "job_zzz\x00", "' OR 1=1", "../..", "💥", "(job_", "[job_zzz", "9" * 64],
)
async def test_a_forged_cursor_shows_no_more_than_ones_own(
    target: httpx.AsyncClient, redis: Redis, store: Store, spec: JobSpec, cursor: str
) -> None:
    theirs, _ = await store.create(spec, tenant="b")
    ours, _ = await store.create(spec, tenant="a")
    key = {"Authorization": f"Bearer {(await Access(redis).create('a', Scope.READ))[1]}"}
    listed = await target.get("/v1/jobs", params={"after": cursor}, headers=key)
    assert listed.status_code in (200, 422)
    assert theirs.id not in listed.text
    for path, name in (("logs", "after"), ("events", "after"), ("history", "after")):
        answer = await target.get(
            f"/v1/jobs/{ours.id}/{path}", params={name: cursor or "x"}, headers=key
        )
        assert answer.status_code in (400, 422)
    for page in ("/", "/compare"):
        shown = await target.get(page, params={"after": cursor, "job": cursor}, headers=key)
        assert shown.status_code in (200, 404, 422)
        assert theirs.id not in shown.text


def _zipped(*entries: tuple[str, bytes, int]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


FILE = stat.S_IFREG | 0o644


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (_zipped(("../../etc/cron.d/x", b"x", FILE)), "paths of an archive must lie inside"),
        (_zipped(("/etc/passwd", b"x", FILE)), "paths of an archive must lie inside"),
        (_zipped(("a\\..\\b", b"x", FILE)), "paths of an archive must lie inside"),
        (_zipped(("link", b"/etc/passwd", stat.S_IFLNK | 0o777)), "link or a device"),
        (
            _zipped(*((f"{n}.bin", bytes(60 << 20), FILE) for n in range(9))),
            "bytes unpacked, they take",
        ),
        (
            _zipped(*((f"{n}", b"", FILE) for n in range(10_001))),
            "at most 10000 files, it holds 10001",
        ),
        (b"PK\x03\x04" + bytes(100), "must be a zip"),
    ],
    ids=["traversal", "absolute", "backslash", "link", "bomb", "many", "damaged"],
)
async def test_a_hostile_archive_is_refused_before_it_is_kept(
    target: httpx.AsyncClient, redis: Redis, archive: bytes, words: str
) -> None:
    name = hashlib.sha256(archive).hexdigest()
    details = problem(await target.put(f"/v1/code/{name}", content=archive), 422, "invalid_fields")
    assert words in details.errors[0].message
    assert (await target.head(f"/v1/code/{name}")).status_code == 404
    assert not await redis.keys("drmad:code*")


async def test_an_archive_is_what_its_digest_says(target: httpx.AsyncClient) -> None:
    archive = _zipped(("a.py", b"x", FILE))
    other = hashlib.sha256(b"another tenant's").hexdigest()
    details = problem(await target.put(f"/v1/code/{other}", content=archive), 422, "invalid_fields")
    assert "sha256" in details.errors[0].message


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"problem": ' + b'{"options": ' * 5000 + b"1" + b"}" * 5001,
        b'{"seed": ' + b"9" * 100_000 + b"}",
        b'{"timeout_s": 1e999}',
        b'{"timeout_s": NaN}',
        b'{"seed": -Infinity}',
        b'{"name": "\\ud800"}',
        b'{"name": "\x00"}',
        b"\xff\xfe{}",
    ],
)
async def test_monstrous_json_is_a_problem_of_its_sender(
    target: httpx.AsyncClient, content: bytes
) -> None:
    for path in ("/v1/jobs", "/v1/jobs?validate_only=true", "/sign-in", "/new/check"):
        answer = await target.post(
            path, content=content, headers=JSON | {"Origin": f"http://{HOST}"}
        )
        assert answer.status_code in (400, 422) or path == "/new/check", (path, answer.text)
        assert answer.status_code < 500, (path, answer.text)


async def test_options_that_json_cannot_hold_are_refused_or_kept_whole(
    target: httpx.AsyncClient, store: Store
) -> None:
    """`options` are the user's own: any JSON, so the one place for hostile values."""
    archive = _zipped(("m.py", b"x", FILE))
    await store.put_code(digest := hashlib.sha256(archive).hexdigest(), archive)
    deep, long = "[" * 60 + "]" * 60, '"' + "x" * 9000 + '"'
    for value in ("1e999", "NaN", '"\\ud800"', "9" * 400, deep, long):
        text = (
            f'{{"problem": {{"entrypoint": "m:f", "code": "sha256:{digest}", '
            f'"options": {{"x": {value}}}}}, '
            '"hyperparameters": [{"kind": "tensor", "name": "x"}]}'
        )
        answer = await target.post("/v1/jobs", content=text.encode(), headers=JSON)
        assert answer.status_code in (201, 400, 422), (value[:20], answer.text[:300])
        if answer.status_code == 201:
            job = answer.json()["id"]
            for path in (f"/v1/jobs/{job}", f"/jobs/{job}", "/v1/jobs", "/", f"/new?like={job}"):
                assert (await target.get(path)).status_code == 200, (value[:20], path)


@pytest.mark.parametrize("evil", ["x\r\nSet-Cookie: a=b", "x\nX-Evil: 1", "x\r\n\r\n<html>"])
async def test_no_header_is_injected(
    target: httpx.AsyncClient, store: Store, spec: JobSpec, body: dict[str, Any], evil: str
) -> None:
    """Names are refused, those of earlier releases come in bodies alone, addresses encoded."""
    created = await target.post("/v1/jobs", json=body | {"name": evil, "tags": {evil: evil}})
    assert created.status_code == 422
    hostile = spec.model_copy(update={"name": evil, "tags": {evil: evil}})
    job = (await store.create(hostile))[0].id
    answers = [
        created,
        await target.get(f"/jobs/{job}/download/job.yaml"),
        await target.get(f"/v1/jobs/{job}"),
        await target.get("/", params={"tag": evil, "q": evil}),
        await target.get("/jobs/" + quote(evil)),
        await target.get("/sign-in", params={"next": evil}),
        await target.get("/v1/jobs", headers={"Authorization": "none"}, params={"after": evil}),
    ]
    async with httpx.AsyncClient(
        transport=target._transport, base_url=f"http://{HOST}"
    ) as stranger:
        answers.append(await stranger.get("/", params={"next": evil}))
    for answer in answers:
        assert "set-cookie" not in answer.headers
        assert "x-evil" not in answer.headers
        assert not any(c in value for value in answer.headers.values() for c in "\r\n")


MARKUP = "\"><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}</textarea>'`"


async def test_markup_is_shown_as_text_wherever_a_string_is_shown(
    target: httpx.AsyncClient, store: Store, spec: JobSpec, body: dict[str, Any]
) -> None:
    hostile = spec.model_copy(update={"name": MARKUP, "tags": {MARKUP[:64]: MARKUP}})
    ended = (await finished(store, hostile)).job_id
    failed, _ = await store.create(hostile)
    await store.cancel(failed.id)
    running, _ = await store.create(hostile.model_copy(update={"priority": 9}))
    lease = await store.claim("here", 60.0, CAPACITY)
    assert lease is not None
    await store.warn(lease, "replica_lost", MARKUP)
    await store.log(lease, 0, [MARKUP])
    error = JobError(code=MARKUP, message=MARKUP, traceback=MARKUP)
    await store.act(lease, Action.FAIL, MARKUP, MARKUP, error)
    waiting, _ = await store.create(hostile)
    pages = [
        "/",
        f"/?q={'<script>'}",
        f"/?tag={MARKUP[:64]}:{MARKUP}",
        "/cluster",
        f"/compare?job={ended}&job={running.id}",
        *(f"/jobs/{job}" for job in (ended, failed.id, running.id, waiting.id)),
        f"/jobs/{ended}/fork",
        f"/new?like={ended}",
        "/jobs/<script>alert(1)</script>",
        "/sign-in?next=<script>alert(1)</script>",
    ]
    shown = 0
    for path in pages:
        page = await target.get(path)
        shown += "alert(1)" in page.text
        assert page.headers["x-content-type-options"] == "nosniff", path
        if page.headers["content-type"] == "application/problem+json":
            continue  # no page at all
        assert "<script>alert" not in page.text, path
        assert "<img src=x" not in page.text, path
        assert "onerror=alert(1)&gt;49" not in page.text, path  # nor is it a template
        assert "script-src 'self'" in page.headers["content-security-policy"], path
    assert shown >= 8
    for path in (
        f"/v1/jobs/{ended}",
        f"/v1/jobs/{running.id}/logs",
        "/v1/cluster",
        "/v1/nothing<b>",
    ):
        answer = await target.get(path)
        assert answer.headers["content-type"].split(";")[0].endswith("json"), path


async def test_a_link_into_the_sign_in_leads_nowhere_else(target: httpx.AsyncClient) -> None:
    """The sign-in accepts as `next` a path of the service alone, and its script refuses others."""
    script = (
        Path(create_app.__code__.co_filename).parents[1] / "dashboard" / "static" / "sign_in.js"
    )
    assert script.is_file()
    text = script.read_text()
    assert "next" in text
    assert re.search(r"startsWith\(|new URL\(", text), (
        "`next` must be checked before it is followed"
    )


async def test_of_two_hosts_none_is_taken(target: httpx.AsyncClient) -> None:
    for second in ("evil.example", HOST):
        headers = [("Host", HOST), ("Host", second)]
        answer = await target.get("/v1/jobs", headers=headers)
        assert answer.status_code == 400
        assert "Host" in answer.json()["detail"]


async def test_a_page_of_another_site_cannot_read_or_frame_ours(target: httpx.AsyncClient) -> None:
    evil = {"Origin": "https://evil.example"}
    for path in ("/v1/jobs", "/", "/sign-in", "/openapi.json"):
        answer = await target.get(path, headers=evil)
        assert "access-control-allow-origin" not in answer.headers
    preflight = await target.options(
        "/v1/jobs", headers=evil | {"Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 405
    assert "frame-ancestors 'none'" in (await target.get("/")).headers["content-security-policy"]


async def test_events_cannot_be_forged_through_what_a_job_says(
    target: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    """A newline in a message begins no event of its own."""
    await store.create(spec)
    lease = await store.claim("here", 60.0, CAPACITY)
    assert lease is not None
    forged = 'x\n\nevent: status\ndata: {"status": "succeeded"}\n\n'
    await store.warn(lease, "replica_lost", forged)
    await store.act(lease, Action.FAIL, "worker_error", forged)
    stream = (await target.get(f"/v1/jobs/{lease.job_id}/events")).text
    events = [
        Event.model_validate(json.loads(line.removeprefix("data: ")))
        for line in stream.splitlines()
        if line.startswith("data: ")
    ]
    assert all(event.data.get("status") != "succeeded" for event in events)
    assert events[-1].data["message"] == forged
