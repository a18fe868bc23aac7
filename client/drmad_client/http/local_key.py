"""The key that `drmad up` keeps in its home, so that programs of the same user need no sign-in."""

from __future__ import annotations

import os
from pathlib import Path

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def path(home: Path) -> Path:
    return home / "key"


def find(host: str) -> str | None:
    """The local key, for a service on this machine; None for any other, or without a key."""
    if host not in LOOPBACK:
        return None
    home = os.environ.get("DRMAD_HOME")
    return read(Path(home).expanduser() if home else Path.home() / ".drmad")


def read(home: Path) -> str | None:
    try:
        return path(home).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
