"""Sign-in by a provider of OpenID Connect: a real one on loopback, which can also be malicious."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import RSAKey
from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from drmad_service.api.app import create_app
from drmad_service.api.auth.api_keys import Access, Scope
from drmad_service.api.auth.oidc import Provider
from drmad_service.oidc_settings import OidcSettings
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from drmad_service.store.layout import keys
from tests.service.issuer import CLIENT, ISSUER, SECRET, Issuer

pytestmark = pytest.mark.anyio

URL = "https://drmad.example"


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def root_path() -> str:
    return ""


@pytest.fixture
async def browser(
    redis: Redis, redis_url: str, issuer: Issuer, root_path: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A browser at the service, which keeps cookies."""
    oidc = OidcSettings(
        issuer=ISSUER,
        client_id=CLIENT,
        client_secret=SECRET,
        groups=("ml=vision:submit", "boss=vision:manage"),
    )
    app = create_app(
        ApiSettings(
            redis_url=redis_url,
            oidc=oidc,
            allowed_hosts=("drmad.example",),
            open_without_keys=False,
            root_path=root_path,
            failed_key_delay_s=0.0,
        )
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=URL) as client,
    ):
        app.state.provider = Provider(oidc, transport=issuer.transport)
        yield client


async def at_provider(browser: httpx.AsyncClient, issuer: Issuer, next_page: str = "/") -> str:
    """Begins a sign-in; returns the address to which the provider sends the browser back."""
    begun = await browser.get("/sign-in/oidc", params={"next": next_page})
    assert begun.status_code == 303, begun.text
    async with httpx.AsyncClient(transport=issuer.transport) as outside:
        agreed = await outside.get(begun.headers["location"])
    return str(agreed.headers["location"])


async def sign_in(browser: httpx.AsyncClient, issuer: Issuer) -> httpx.Response:
    return await browser.get(await at_provider(browser, issuer))


async def test_member_of_a_group_signs_in_for_its_tenant(
    browser: httpx.AsyncClient, issuer: Issuer, redis: Redis, store: Store, body: dict[str, Any]
) -> None:
    assert (await browser.get("/v1/jobs")).status_code == 401
    assert "Sign in with login.example.com" in (await browser.get("/sign-in")).text
    back = await at_provider(browser, issuer, "/jobs?tag=a")
    answer = await browser.get(back)
    assert answer.status_code == 200
    assert 'content="0; url=/jobs?tag=a"' in answer.text
    cookies = answer.headers.get_list("set-cookie")
    (session,) = [c for c in cookies if c.startswith("drmad_session=")]
    assert {"HttpOnly", "SameSite=strict", "Secure"} <= {
        part.strip() for part in session.split(";")
    }
    created = await browser.post("/v1/jobs", json=body, headers={"Origin": URL})
    assert created.status_code == 201, created.text
    job = created.json()
    assert job["tenant"] == "vision"
    (key,) = await Access(redis).keys()
    assert (key.tenant, key.scope, key.note) == ("vision", Scope.SUBMIT, "ann@example.com")
    assert key.created_by == ISSUER
    entries = (await store.audit()).data
    assert [(e.action, e.by) for e in reversed(entries)] == [
        ("session_opened", key.id),
        ("submitted", key.id),
    ]
    assert "ann@example.com" in entries[-1].detail
    out = await browser.post("/sign-out", headers={"Origin": URL})
    assert out.status_code == 204
    assert (await browser.get("/v1/jobs")).status_code == 401
    assert (await store.audit()).data[0].action == "session_closed"


async def test_groups_are_read_at_each_sign_in_and_a_user_stays_the_same(
    browser: httpx.AsyncClient, issuer: Issuer, redis: Redis
) -> None:
    await sign_in(browser, issuer)
    (before,) = await Access(redis).keys()
    first = dict(browser.cookies)
    issuer.claims["groups"] = ["other", "boss"]
    await sign_in(browser, issuer)
    (after,) = await Access(redis).keys()
    assert (after.id, after.scope) == (before.id, Scope.MANAGE)
    assert dict(browser.cookies) != first
    headers = {"Cookie": f"drmad_session={first['drmad_session']}"}
    browser.cookies.clear()
    assert (await browser.get("/v1/jobs", headers=headers)).is_success  # the first session lives
    await Access(redis).revoke(after.id)
    assert (await browser.get("/v1/jobs", headers=headers)).status_code == 401


async def test_session_and_record_expire_together(
    browser: httpx.AsyncClient, issuer: Issuer, redis: Redis
) -> None:
    await sign_in(browser, issuer)
    (key,) = await Access(redis).keys()
    client: Any = redis
    left_s = await client.pttl(keys.key(key.id)) / 1000
    assert 12 * 3600 - 600 < left_s <= 12 * 3600
    await client.pexpire(keys.key(key.id), 1)
    while await client.exists(keys.key(key.id)):
        pass
    assert (await browser.get("/v1/jobs")).status_code == 401
    assert await Access(redis).keys() == []


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"iss": "https://evil.example"}, "iss"),
        ({"aud": "another"}, "aud"),
        ({"aud": [CLIENT, "another"]}, "another service"),
        ({"exp": int(time.time()) - 600}, "expired"),
        ({"exp": None}, "exp"),
        ({"nonce": "replayed"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub|no user"),
    ],
)
async def test_token_that_is_not_for_this_sign_in_opens_no_session(
    browser: httpx.AsyncClient, issuer: Issuer, other: dict[str, Any], told: str
) -> None:
    issuer.other = other
    refused = await sign_in(browser, issuer)
    assert refused.status_code == 401
    assert any(word in refused.text for word in told.split("|")), refused.text
    assert (await browser.get("/v1/jobs")).status_code == 401


async def test_signature_must_be_one_of_the_issuers_keys(
    browser: httpx.AsyncClient, issuer: Issuer
) -> None:
    await sign_in(browser, issuer)
    browser.cookies.clear()
    issuer.key = RSAKey.generate_key(2048, parameters={"kid": "one"})
    assert (await sign_in(browser, issuer)).status_code == 200  # the issuer has changed its key

    published = issuer.key.as_dict(private=False)

    async def stale(_: Request) -> Response:
        return JSONResponse({"keys": [published]})

    browser.cookies.clear()
    issuer.serve("/jwks", stale)
    issuer.key = RSAKey.generate_key(2048, parameters={"kid": "one"})  # an attacker's
    refused = await sign_in(browser, issuer)
    assert (refused.status_code, "is not valid" in refused.text) == (401, True)
    assert (await browser.get("/v1/jobs")).status_code == 401


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
async def test_token_without_a_key_pair_is_refused(
    browser: httpx.AsyncClient, issuer: Issuer, algorithm: str
) -> None:
    """HS256 with the public key, or the secret of the client, as its secret; and no signature."""

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    async def token(request: Request) -> Response:
        query = issuer.codes.popitem()[1]
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": CLIENT, "sub": "u1", "iat": now, "exp": now + 300}
        claims |= {"nonce": query["nonce"], "groups": ["boss"]}
        header = {"alg": algorithm, "kid": "one"}
        unsigned = f"{part(header)}.{part(claims)}"
        return JSONResponse(
            {"access_token": "a", "token_type": "Bearer", "id_token": f"{unsigned}."}
        )

    issuer.serve("/token", token)
    assert (await sign_in(browser, issuer)).status_code == 401
    assert (await browser.get("/v1/jobs")).status_code == 401


async def test_answer_belongs_to_the_browser_that_began(
    browser: httpx.AsyncClient, issuer: Issuer
) -> None:
    back = await at_provider(browser, issuer)
    kept = dict(browser.cookies)
    browser.cookies.clear()
    elsewhere = await browser.get(back)  # an attacker's link, in the browser of a victim
    assert (elsewhere.status_code, "another browser" in elsewhere.text) == (400, True)
    other = await at_provider(browser, issuer)
    wrong = back.replace(
        parse_qs(urlsplit(back).query)["state"][0], parse_qs(urlsplit(other).query)["state"][0]
    )
    for name, value in kept.items():
        browser.cookies.set(name, value, path="/sign-in/oidc")
    assert (await browser.get(wrong)).status_code in (400, 401)
    assert (await browser.get("/v1/jobs")).status_code == 401


async def test_code_is_good_once(browser: httpx.AsyncClient, issuer: Issuer) -> None:
    back = await at_provider(browser, issuer)
    begun = dict(browser.cookies)
    assert (await browser.get(back)).status_code == 200
    browser.cookies.clear()
    for name, value in begun.items():
        browser.cookies.set(name, value)
    again = await browser.get(back)
    assert (again.status_code, "refused the sign-in" in again.text) == (401, True)


async def test_user_in_no_group_is_told_so(browser: httpx.AsyncClient, issuer: Issuer) -> None:
    for groups in (["others"], [], None):
        issuer.claims["groups"] = groups
        refused = await sign_in(browser, issuer)
        assert refused.status_code == 403
        assert "ann@example.com signed in, but is in no group" in refused.text
    assert (await browser.get("/v1/jobs")).status_code == 401


@pytest.mark.parametrize("root_path", ["/tuning"])
async def test_service_below_a_path_is_where_the_provider_sends_back_to(
    browser: httpx.AsyncClient, issuer: Issuer
) -> None:
    browser.base_url = httpx.URL(f"{URL}/tuning")
    back = await at_provider(browser, issuer, "/tuning/jobs?tag=a")
    assert back.startswith(f"{URL}/tuning/sign-in/oidc/callback?")
    answer = await browser.get(back)
    assert 'content="0; url=/tuning/jobs?tag=a"' in answer.text
    assert (await browser.get("/v1/jobs")).is_success


@pytest.mark.parametrize("page", ["https://evil.example", "//evil.example", "/\\evil.example", "x"])
async def test_no_other_site_is_opened_after_the_sign_in(
    browser: httpx.AsyncClient, issuer: Issuer, page: str
) -> None:
    answer = await browser.get(await at_provider(browser, issuer, page))
    assert 'content="0; url=/"' in answer.text
    assert "evil" not in answer.text


async def test_provider_that_is_away_leaves_keys_to_sign_in_with(
    browser: httpx.AsyncClient, issuer: Issuer, redis: Redis
) -> None:
    issuer.routes.clear()
    away = await browser.get("/sign-in/oidc")
    assert (away.status_code, "sign in with a key meanwhile" in away.text) == (502, True)
    _, text = await Access(redis).create("vision", Scope.READ)
    opened = await browser.post("/sign-in", json={"key": text}, headers={"Origin": URL})
    assert opened.status_code == 204


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"issuer": "http://login.example.com"}, "https://"),
        ({"client_id": ""}, "oidc-client-id"),
        ({"groups": ()}, "oidc-group"),
        ({"groups": ("ml=vision:owner",)}, "GROUP=TENANT:SCOPE"),
        ({"groups": ("ml=Vision:read",)}, "GROUP=TENANT:SCOPE"),
        ({"groups": ("=vision:read",)}, "GROUP=TENANT:SCOPE"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any], told: str) -> None:
    right: dict[str, Any] = {"issuer": ISSUER, "client_id": CLIENT, "groups": ("ml=vision:submit",)}
    assert OidcSettings(**right).issuer == ISSUER
    with pytest.raises(ValueError, match=told):
        OidcSettings(**{**right, **wrong})
