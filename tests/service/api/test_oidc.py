"""Sign-in by a provider of OpenID Connect: a real one on loopback, which can also be malicious."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from drmad_service.api.app import create_app
from drmad_service.api.auth.api_keys import Access, Scope
from drmad_service.api.auth.oidc import OidcSettings, Provider
from drmad_service.settings import ApiSettings
from drmad_service.store import Store
from drmad_service.store.layout import keys

pytestmark = pytest.mark.anyio

ISSUER, CLIENT, SECRET = "https://login.example.com", "drmad", "s" * 40
URL = "https://drmad.example"


class Issuer:
    """A provider with one user, who always agrees."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, parameters={"kid": "one"})
        self.claims: dict[str, Any] = {"sub": "u1", "email": "ann@example.com", "groups": ["ml"]}
        self.other: dict[str, Any] = {}
        """Claims that take the place of the right ones; None removes one."""
        self.header: dict[str, Any] = {"alg": "RS256", "kid": "one"}
        self._codes: dict[str, dict[str, str]] = {}
        self.routes = [
            Route("/.well-known/openid-configuration", self._document),
            Route("/authorize", self._authorize),
            Route("/token", self._token, methods=["POST"]),
            Route("/jwks", self._jwks),
        ]
        self.transport = httpx.ASGITransport(app=self._route)

    async def _route(self, scope: Any, receive: Any, send: Any) -> None:
        await Starlette(routes=self.routes)(scope, receive, send)

    def serve(self, path: str, endpoint: Any) -> None:
        """Answers otherwise there from now on."""
        self.routes = [route for route in self.routes if route.path != path]
        self.routes.append(Route(path, endpoint, methods=["GET", "POST"]))

    async def _document(self, _: Request) -> Response:
        parts = {"authorization": "authorize", "token": "token"}
        document = {f"{name}_endpoint": f"{ISSUER}/{path}" for name, path in parts.items()}
        return JSONResponse({"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks", **document})

    async def _jwks(self, _: Request) -> Response:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    async def _authorize(self, request: Request) -> Response:
        query = dict(request.query_params)
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self._codes[code] = query
        return RedirectResponse(f"{query['redirect_uri']}?code={code}&state={query['state']}", 302)

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        query = self._codes.pop(str(form.get("code")), None)
        verifier = str(form.get("code_verifier"))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
        credentials = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        allowed = request.headers.get("authorization") == f"Basic {credentials}"
        if (
            query is None
            or not allowed
            or challenge.decode().rstrip("=") != query["code_challenge"]
            or form.get("redirect_uri") != query["redirect_uri"]
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": CLIENT, "iat": now, "exp": now + 300}
        claims |= {"nonce": query["nonce"], **self.claims, **self.other}
        claims = {name: value for name, value in claims.items() if value is not None}
        token = jwt.encode(self.header, claims, self.key, algorithms=[self.header["alg"]])
        return JSONResponse({"access_token": "a", "token_type": "Bearer", "id_token": token})


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
async def browser(redis: Redis, redis_url: str, issuer: Issuer) -> AsyncIterator[httpx.AsyncClient]:
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
        query = issuer._codes.popitem()[1]
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
    assert OidcSettings(**right).grants[0].scope is Scope.SUBMIT
    with pytest.raises(ValueError, match=told):
        OidcSettings(**{**right, **wrong})
