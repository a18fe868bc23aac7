"""The address of the service, the key that it is sent, and the options of the httpx client."""

from __future__ import annotations

import os
from typing import Any

import httpx

from drmad_client.errors import ConnectionFailed, UsageError
from drmad_client.http import local_key
from drmad_client.version import __version__

DEFAULT_URL = "http://127.0.0.1:8080"


class BadAddress(ConnectionFailed, UsageError):
    """The URL or the key cannot be those of a service."""


def find_base_url(given: str | None) -> str:
    """The URL that was given, else the one in DRMAD_URL, else that of this machine."""
    return (given or os.environ.get("DRMAD_URL") or DEFAULT_URL).rstrip("/")


def client_options(base_url: str, api_key: str | None) -> dict[str, Any]:
    """The arguments that httpx's synchronous and asynchronous client both take.

    Raises:
        BadAddress: `base_url` is no HTTP URL, or the key cannot be a key.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise BadAddress(f"the URL must be like {DEFAULT_URL}, got {base_url!r}")
    headers = {"User-Agent": f"drmad/{__version__}", "Accept": "application/json"}
    if key := api_key or os.environ.get("DRMAD_API_KEY") or local_key.find(url.host):
        if not key.strip().isascii() or not key.strip().isprintable():
            raise BadAddress(
                "the key of the service must be printable ASCII, and this one is not: copy it "
                "again to DRMAD_API_KEY, as `drmad keys create` printed it"
            )
        headers["Authorization"] = f"Bearer {key.strip()}"
    # A proxy that the environment names cannot reach the loopback interface of this machine.
    is_local = url.host in local_key.LOOPBACK
    return {"base_url": url, "headers": headers, "trust_env": not is_local}
