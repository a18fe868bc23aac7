"""Sign-in by OpenID Connect: whom a provider vouches for, and what their groups may do.

The flow is the authorization code with PKCE [RFC7636]. The ID token is checked as OpenID Connect
Core 3.1.3.7 asks: signature, issuer, audience, times and nonce.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx

from drmad_client.errors import DrmadError
from drmad_service.api.auth.api_keys import Grant, Identity, Scope
from drmad_service.oidc_settings import OidcSettings, parts_of

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
"""Signatures by a key pair: with a shared secret, whoever can check a token could make one."""
_DISCOVERY_S = 3600.0
_TIMEOUT_S = 10.0
_LEEWAY_S = 60


class ProviderError(DrmadError):
    """The provider does not answer as OpenID Connect says, or its token is not to be trusted."""


class NoGroup(DrmadError):
    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} signed in, but is in no group that may use drmad; ask the operator to name "
            "one of your groups in --oidc-group"
        )


def _grant(text: str) -> Grant:
    group, tenant, scope = parts_of(text)
    return Grant(group, tenant, Scope[scope.upper()])


@dataclass(frozen=True)
class Pending:
    """A sign-in that has begun: what the browser keeps until it comes back from the provider."""

    state: str
    nonce: str
    verifier: str
    next: str


class Provider:
    """One issuer: its endpoints and keys are read when they are needed."""

    def __init__(
        self,
        settings: OidcSettings,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._transport = transport
        self._document: dict[str, Any] = {}
        self._jwks: Any = {}
        self._read_at = 0.0

    @property
    def host(self) -> str:
        return urlsplit(self._settings.issuer).netloc

    @property
    def session_s(self) -> int:
        return self._settings.session_s

    async def begin(self, redirect_uri: str, next_page: str) -> tuple[str, Pending]:
        """The provider's address to which the browser is sent, and what it keeps meanwhile.

        Raises:
            ProviderError: the provider cannot be reached, or is not the issuer.
        """
        document = await self._discovered()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
        query = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": self._settings.request_scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge.decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        endpoint = document["authorization_endpoint"]
        url = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"
        return url, Pending(state, nonce, verifier, next_page)

    async def finish(self, code: str, redirect_uri: str, pending: Pending) -> Identity:
        """The user for whom the provider gave `code`.

        Raises:
            ProviderError: the provider refuses the code, or its token is not valid.
            NoGroup: the user is in none of the groups that may use the service.
        """
        document = await self._discovered()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": self._settings.client_id,
            "code_verifier": pending.verifier,
        }
        secret = self._settings.client_secret
        named = quote_plus(self._settings.client_id)
        auth = httpx.BasicAuth(named, quote_plus(secret)) if secret else httpx.Auth()
        try:
            async with self._client() as client:
                answer = await client.post(document["token_endpoint"], data=form, auth=auth)
                tokens = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ProviderError(f"{self.host} does not answer: {error!r}; try again") from error
        if not (answer.is_success and isinstance(tokens, dict) and "id_token" in tokens):
            why = tokens.get("error", "no token") if isinstance(tokens, dict) else "no token"
            raise ProviderError(f"{self.host} refused the sign-in: {str(why)[:200]}; try again")
        claims = await self._claims(str(tokens["id_token"]), pending.nonce)
        name = str(claims.get("email") or claims.get("preferred_username") or claims["sub"])[:200]
        groups = claims.get(self._settings.groups_claim) or []
        names = {groups} if isinstance(groups, str) else set(map(str, groups))
        for grant in map(_grant, self._settings.groups):
            if grant.group in names:
                return Identity(self._settings.issuer, claims["sub"], name, grant)
        raise NoGroup(name)

    async def _claims(self, token: str, nonce: str) -> dict[str, Any]:
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        registry = jwt.JWTClaimsRegistry(
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": self._settings.issuer},
            aud={"essential": True, "value": self._settings.client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            try:
                decoded = jwt.decode(token, KeySet.import_key_set(self._jwks), ALGORITHMS)
            except (JoseError, ValueError):  # signed by a newer key, perhaps
                await self._read()
                decoded = jwt.decode(token, KeySet.import_key_set(self._jwks), ALGORITHMS)
            registry.validate(decoded.claims)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise ProviderError(
                f"the token of {self.host} is not valid ({error}); try again"
            ) from error
        claims: dict[str, Any] = decoded.claims
        audiences = claims["aud"]
        several = isinstance(audiences, list) and len(audiences) > 1
        if several and claims.get("azp") != self._settings.client_id:
            raise ProviderError(f"the token of {self.host} is one for another service")
        if not isinstance(claims["sub"], str) or not re.fullmatch(r".{1,255}", claims["sub"]):
            raise ProviderError(f"the token of {self.host} names no user")
        return claims

    async def _discovered(self) -> dict[str, Any]:
        if not self._document or self._clock() - self._read_at > _DISCOVERY_S:
            await self._read()
        return self._document

    async def _read(self) -> None:
        issuer = self._settings.issuer
        url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            async with self._client() as client:
                document = (await client.get(url)).raise_for_status().json()
                jwks = (await client.get(document["jwks_uri"])).raise_for_status().json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise ProviderError(
                f"{self.host} does not answer as an issuer of OpenID Connect: {url} gave "
                f"{error!r}; sign in with a key meanwhile"
            ) from error
        if document.get("issuer") != issuer:
            raise ProviderError(
                f"--oidc-issuer must be {document.get('issuer')!r}, as {url} says, got {issuer!r}"
            )
        self._document, self._jwks, self._read_at = document, jwks, self._clock()

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=_TIMEOUT_S, transport=self._transport)
