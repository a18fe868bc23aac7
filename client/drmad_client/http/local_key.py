"""The key that `drmad up` keeps in its home folder, so the user's own programs need no sign-in."""

from __future__ import annotations

import os
from pathlib import Path

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def path(home: Path) -> Path:
    return home / "key"


def find(host: str) -> str | None:
    """The local key if `host` is this machine and a key exists, else None."""
    if host not in LOOPBACK:
        return None
    home = os.environ.get("DRMAD_HOME")
    try:
        return read(Path(home).expanduser() if home else Path.home() / ".drmad")
    except RuntimeError:  # the user has no home
        return None


def read(home: Path) -> str | None:
    try:
        return path(home).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
