"""Makes the local key of a home. Reading it is the client's: drmad_client/http/local_key.py."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from drmad_client.http import local_key
from drmad_service.errors import ServiceStartError


def ensure(home: Path) -> str:
    """The home's key, made at the first start; only this user may read its file.

    Raises:
        ServiceStartError: the file is there, and holds no key.
    """
    path = local_key.path(home)
    _make(path, "drmad_")
    key = local_key.read(home)
    if key is None:
        raise ServiceStartError(f"{path} holds no key; remove it, the next start makes a new one")
    return key


def ensure_webhook_secret(home: Path) -> Path:
    """The file of what signs the home's notices, made at the first start."""
    path = home / "webhook-secret"
    _make(path, "")
    return path


def _make(path: Path, prefix: str) -> None:
    """Write a secret that only this user may read, if there is none."""
    home = path.parent
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        # Linked in place when it is complete: no reader meets half a key, and of two starts at
        # once one key stays.
        number, draft = tempfile.mkstemp(dir=home, prefix=".key-")  # mode 0600
        try:
            with os.fdopen(number, "w") as file:
                file.write(f"{prefix}{secrets.token_urlsafe(32)}\n")
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            os.unlink(draft)
    path.chmod(0o600)


def from_file(path: Path) -> str:
    """The key in any file, such as a mounted secret.

    Raises:
        ServiceStartError: it cannot be read, or is too short to be safe.
    """
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceStartError(f"cannot read a key from {path}: {error}") from error
    if len(key) < 32 or not key.isprintable():
        raise ServiceStartError(f"{path} must hold one line of at least 32 characters")
    return key
