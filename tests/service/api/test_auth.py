from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from drmad_client.errors import DrmadError
from drmad_service.api.app import create_app
from drmad_service.api.auth import api_keys
from drmad_service.operations.home_secrets import ensure_local_key, read_secret
from drmad_service.settings import ApiSettings
from tests.service.api.test_api import problem

pytestmark = pytest.mark.anyio

KEY = "drmad_" + "k" * 43
URL = "http://127.0.0.1:8080"
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
async def locked(redis: Redis, redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """The application with a local key."""
    app = create_app(
        ApiSettings(redis_url=redis_url, local_key=KEY, allowed_hosts=("drmad.example",))
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=URL) as client,
    ):
        yield client


async def signed_in(client: httpx.AsyncClient) -> httpx.AsyncClient:
    response = await client.post("/sign-in", json={"key": KEY}, headers={"Origin": URL})
    assert response.status_code == 204
    return client


async def test_without_a_key_only_what_opens_the_door_answers(locked: httpx.AsyncClient) -> None:
    for path in ("/v1/jobs", "/v1/catalog", "/v1/jobs/job_none", "/v1/jobs/job_none/events"):
        refused = await locked.get(path)
        assert "Authorization: Bearer" in problem(refused, 401, "not_signed_in").detail
        assert refused.headers["www-authenticate"] == "Bearer"
    for path in ("/healthz", "/readyz"):
        assert (await locked.get(path)).is_success


@pytest.mark.parametrize("header", ["Bearer ", f"Bearer {KEY}x", f"Basic {KEY}", KEY, "Bearer é"])
async def test_other_keys_are_refused(locked: httpx.AsyncClient, header: str) -> None:
    headers = {b"Authorization": header.encode("latin-1")}
    problem(await locked.get("/v1/jobs", headers=headers), 401, "not_signed_in")
    problem(await locked.post("/sign-in", json={"key": header[7:]}), 401, "sign_in_failed")


async def test_the_key_opens_everything(locked: httpx.AsyncClient, body: dict[str, Any]) -> None:
    created = await locked.post("/v1/jobs", json=body, headers=BEARER)
    assert created.status_code == 201
    assert len((await locked.get("/v1/jobs", headers=BEARER)).json()["data"]) == 1


async def test_a_browser_exchanges_the_key_for_a_cookie_that_scripts_cannot_read(
    locked: httpx.AsyncClient, body: dict[str, Any], redis: Redis
) -> None:
    await signed_in(locked)
    (cookie,) = locked.cookies.jar
    assert cookie.name == "drmad_session_8080"
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "strict"
    assert (await locked.get("/v1/jobs")).is_success
    assert (await locked.post("/v1/jobs", json=body, headers={"Origin": URL})).status_code == 201
    kept = [await redis.get(name) for name in await redis.keys("drmad:session:*")]
    assert kept == [f"local {api_keys.digest(KEY)}".encode()]  # neither the key nor the token
    assert cookie.value is not None
    assert cookie.value not in str(await redis.keys("*"))
    response = await locked.post("/sign-out")
    assert response.status_code == 204
    locked.cookies.set(cookie.name, cookie.value)
    problem(await locked.get("/v1/jobs"), 401, "not_signed_in")


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", "http://127.0.0.1:9999", "http://127.0.0.1"],
)
async def test_a_page_of_another_site_changes_nothing_with_the_cookie(
    locked: httpx.AsyncClient, body: dict[str, Any], origin: str | None
) -> None:
    await signed_in(locked)
    headers = {"Origin": origin} if origin else {}
    problem(await locked.post("/v1/jobs", json=body, headers=headers), 403, "cross_site")
    problem(await locked.delete("/v1/jobs/job_none", headers=headers), 403, "cross_site")
    if origin:
        problem(
            await locked.post("/sign-in", json={"key": KEY}, headers=headers), 403, "cross_site"
        )
    assert (await locked.get("/v1/jobs")).json()["data"] == []


async def test_without_any_key_a_page_of_another_site_changes_nothing_either(
    api: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    headers = {"Origin": "http://evil.example"}
    problem(await api.post("/v1/jobs", json=body, headers=headers), 403, "cross_site")
    assert (await api.post("/v1/jobs", json=body)).status_code == 201


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example"])
async def test_a_name_that_was_pointed_at_us_is_not_answered(
    locked: httpx.AsyncClient, host: str
) -> None:
    refused = await locked.get("/v1/jobs", headers=BEARER | {"Host": host})
    assert "DRMAD_ALLOWED_HOSTS" in problem(refused, 421, "unknown_host").detail
    assert (await locked.get("/healthz", headers={"Host": host})).is_success


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.2:1", "[::1]:8080", "[::1]"]
)
async def test_loopback_and_allowed_names_are_answered(
    locked: httpx.AsyncClient, host: str
) -> None:
    for name in (host, "drmad.example", "drmad.example:443"):
        assert (await locked.get("/v1/jobs", headers=BEARER | {"Host": name})).is_success


async def test_a_link_signs_in_once(locked: httpx.AsyncClient) -> None:
    ticket = api_keys.issue_ticket(KEY)
    assert KEY not in ticket
    assert (await locked.post("/sign-in", json={"ticket": ticket})).status_code == 204
    assert (await locked.get("/v1/jobs")).is_success
    again = await locked.post("/sign-in", json={"ticket": ticket})
    assert "drmad open" in problem(again, 401, "sign_in_failed").detail


async def test_a_link_that_is_old_or_forged_does_not_sign_in(
    locked: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires, _, signature = api_keys.issue_ticket(KEY).partition(".")
    forged = [
        api_keys.issue_ticket(KEY + "x"),
        f"{int(expires) + 1}.{signature}",
        f"{expires}.",
        ".",
        "²." + signature,
        "9" * 200,
    ]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - api_keys.TICKET_S - 5)
    forged.append(api_keys.issue_ticket(KEY))
    forged.append(f"{expires}.{'é' * 64}")
    monkeypatch.undo()
    for ticket in forged:
        problem(await locked.post("/sign-in", json={"ticket": ticket}), 401, "sign_in_failed")


async def test_the_key_is_in_no_error_and_no_repr(locked: httpx.AsyncClient) -> None:
    assert KEY not in repr(ApiSettings(redis_url="", local_key=KEY))
    answers = [
        await locked.post("/sign-in", json={"key": KEY, "more": 1}),
        await locked.post("/sign-in", json={"key": KEY * 9}),
        await locked.post("/sign-in", content=f'{{"key": "{KEY}'),
        await locked.get("/v1/jobs", headers={"Authorization": f"Basic {KEY}"}),
    ]
    assert [answer.is_error for answer in answers] == [True] * 4
    assert KEY not in "".join(answer.text for answer in answers)


def test_the_local_key_is_made_once_and_only_its_user_reads_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    key = ensure_local_key(home)
    path = home / "key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in home.iterdir()] == ["key"]
    path.chmod(0o644)
    assert ensure_local_key(home) == key == read_secret(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert ensure_local_key(tmp_path / "other") != key


def test_an_unusable_key_file_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(DrmadError, match="cannot read a secret"):
        read_secret(path)
    path.write_text("short")
    with pytest.raises(DrmadError, match="32 printable characters"):
        read_secret(path)
    path.write_text("")
    with pytest.raises(DrmadError, match="remove the file"):
        ensure_local_key(tmp_path)
