"""Secrets of the service in files: the local key and the webhook secret of a home.

The client reads the local key (drmad_client/http/local_key.py); the service creates it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from drmad_client.http import local_key
from drmad_service.errors import ServiceStartError

MIN_CHARACTERS = 32


def ensure_local_key(home: Path) -> str:
    """The home's key, created at the first start; only this user may read its file.

    Raises:
        ServiceStartError: the file exists, and holds no key.
    """
    path = local_key.path(home)
    _ensure(path, "drmad_")
    key = local_key.read(home)
    if key is None:
        raise ServiceStartError(
            f"{path} holds no key; remove the file, and the next start creates a new one"
        )
    return key


def ensure_webhook_secret(home: Path) -> Path:
    """The file of the secret that signs the home's notices, created at the first start."""
    path = home / "webhook-secret"
    _ensure(path, "")
    return path


def keep_redis_url(home: Path, url: str) -> Path:
    """The file of the URL of Redis, which may hold a password, for the processes of the home."""
    path = home / "redis-url"
    number, draft = tempfile.mkstemp(dir=home, prefix=".url-")  # mode 0600
    with os.fdopen(number, "w", encoding="utf-8") as file:
        file.write(f"{url}\n")
    os.replace(draft, path)
    return path


def read_secret(path: Path) -> str:
    """The secret in a file of the operator's, such as a mounted one.

    Raises:
        ServiceStartError: the file cannot be read, or its secret is too short to be safe.
    """
    try:
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceStartError(f"cannot read a secret from {path}: {error}") from error
    if len(secret) < MIN_CHARACTERS or not secret.isprintable():
        raise ServiceStartError(
            f"{path} must hold one line of at least {MIN_CHARACTERS} printable characters, got "
            f"{len(secret)} characters"
        )
    return secret


def _ensure(path: Path, prefix: str) -> None:
    """Creates a random secret that only this user may read, unless the file exists."""
    home = path.parent
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        # A complete file is linked into place: no reader finds half a secret, and of two
        # concurrent starts one secret remains.
        number, draft = tempfile.mkstemp(dir=home, prefix=".key-")  # mode 0600
        try:
            with os.fdopen(number, "w") as file:
                file.write(f"{prefix}{secrets.token_urlsafe(32)}\n")
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            os.unlink(draft)
    path.chmod(0o600)
