"""A provider of OpenID Connect for tests, on loopback or without a socket; it can be malicious."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from typing import Any
from urllib.parse import parse_qsl

import httpx
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

ISSUER, CLIENT, SECRET = "https://login.example.com", "drmad", "s" * 40


class Issuer:
    """A provider with one user, who always agrees."""

    def __init__(self, url: str = ISSUER) -> None:
        self.url = url
        self.key = RSAKey.generate_key(2048, parameters={"kid": "one"})
        self.claims: dict[str, Any] = {"sub": "u1", "email": "ann@example.com", "groups": ["ml"]}
        self.other: dict[str, Any] = {}
        """Claims that take the place of the right ones; None removes one."""
        self.header: dict[str, Any] = {"alg": "RS256", "kid": "one"}
        self.codes: dict[str, dict[str, str]] = {}
        self.routes = [
            Route("/.well-known/openid-configuration", self._document),
            Route("/authorize", self._authorize),
            Route("/token", self._token, methods=["POST"]),
            Route("/jwks", self._jwks),
        ]
        self.transport = httpx.ASGITransport(app=self.app)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await Starlette(routes=self.routes)(scope, receive, send)

    def serve(self, path: str, endpoint: Any) -> None:
        """Answers otherwise there from now on."""
        self.routes = [route for route in self.routes if route.path != path]
        self.routes.append(Route(path, endpoint, methods=["GET", "POST"]))

    async def _document(self, _: Request) -> Response:
        parts = {"authorization": "authorize", "token": "token"}
        document = {f"{name}_endpoint": f"{self.url}/{path}" for name, path in parts.items()}
        return JSONResponse({"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **document})

    async def _jwks(self, _: Request) -> Response:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    async def _authorize(self, request: Request) -> Response:
        query = dict(request.query_params)
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return RedirectResponse(f"{query['redirect_uri']}?code={code}&state={query['state']}", 302)

    async def _token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        query = self.codes.pop(str(form.get("code")), None)
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
        claims = {"iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 300}
        claims |= {"nonce": query["nonce"], **self.claims, **self.other}
        claims = {name: value for name, value in claims.items() if value is not None}
        token = jwt.encode(self.header, claims, self.key, algorithms=[self.header["alg"]])
        return JSONResponse({"access_token": "a", "token_type": "Bearer", "id_token": token})
