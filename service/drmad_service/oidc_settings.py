"""The provider of OpenID Connect by which people sign in, as settings of the API."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from drmad_service.flags import setting

_GROUP = re.compile(r"(.+)=([a-z0-9][a-z0-9_-]{0,62}):(read|submit|manage|admin)")


def parts_of(text: str) -> tuple[str, str, str]:
    """Group, tenant and scope of GROUP=TENANT:SCOPE."""
    match = _GROUP.fullmatch(text)
    if match is None:
        raise ValueError(
            "a group must be GROUP=TENANT:SCOPE with the scope read, submit, manage or admin, "
            f"such as ml-team=vision:submit, got {text!r}"
        )
    return match[1], match[2], match[3]


@dataclass(frozen=True)
class OidcSettings:
    """The provider by which people sign in; without an issuer they do with keys alone."""

    issuer: str = setting(
        "", "Issuer of OpenID Connect by which people sign in, such as https://login.example.com."
    )
    client_id: str = setting("", "Id under which the issuer knows this service.")
    client_secret: str = Field(default="", repr=False)
    groups: tuple[str, ...] = setting(
        (),
        "What the members of a group may do, as GROUP=TENANT:SCOPE; may be repeated, and the first "
        "one that fits a user counts.",
        flag="group",
    )
    groups_claim: str = setting("groups", "Claim of the ID token that lists a user's groups.")
    request_scopes: str = setting(
        "openid profile email", "Scopes requested of the issuer, separated by spaces."
    )
    session_s: int = setting(
        12 * 3600,
        "Time after which a session of a user whom the issuer knows expires, in seconds: groups "
        "are read at sign-in.",
        60,
    )

    @model_validator(mode="after")
    def _complete(self) -> OidcSettings:
        if not self.issuer:
            return self
        parts = urlsplit(self.issuer)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost"):
            raise ValueError(f"the issuer must begin with https://, got {self.issuer!r}")
        if not (self.client_id and self.groups):
            raise ValueError("an issuer needs --oidc-client-id and at least one --oidc-group")
        for text in self.groups:
            parts_of(text)
        return self
