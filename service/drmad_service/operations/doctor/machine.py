"""Examines this machine: versions, disks, data roots, the port of the API."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

import httpx

from drmad_client import __version__
from drmad_client.http import local_key
from drmad_service.operations.doctor.finding import Finding, Level
from drmad_service.ray_driver.confinement import is_available

MIN_DISK_BYTES = 2 << 30
MIN_SHARED_MEMORY_BYTES = 256 << 20


def versions() -> Iterator[Finding]:
    """Versions of Python, of drmad and of the packages that the service needs."""
    yield Finding("python", "ok", platform.python_version())
    yield Finding("drmad", "ok", __version__)
    for name, extra in (("ray", "service"), ("redis", "service"), ("torch", "workers")):
        try:
            yield Finding(name, "ok", installed(name))
        except PackageNotFoundError:
            processes = "workers" if name == "torch" else "schedulers"
            advice = (
                f'the {processes} need it; install it with: pip install ".[{extra}]" in the clone'
            )
            yield Finding(name, "warning", "not installed", advice)


def has_ray() -> bool:
    """Whether this machine could start Ray."""
    return importlib.util.find_spec("ray") is not None


def confinement() -> Finding:
    """Whether user code is kept from the files of the user who starts the service."""
    if is_available():
        return Finding("Landlock", "ok", "user code is kept from the home and other processes")
    advice = "use Linux 6.2 or newer, or start drmad as root with --worker-user"
    message = "not available: user code can read what this user can, the keys of the home too"
    return Finding("Landlock", "warning", message, advice)


def home_disk(home: Path) -> Iterator[Finding]:
    """Free space for Redis's append-only file."""
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    advice = "free space, or choose another --home"
    yield _free_space("disk of the home", existing, MIN_DISK_BYTES, advice)


def ray_disks() -> Iterator[Finding]:
    """Free space for a Ray that this machine starts."""
    advice = "free space: Ray spills objects there"
    yield _free_space("disk of Ray", Path("/tmp"), MIN_DISK_BYTES, advice)
    if (shared := Path("/dev/shm")).exists():
        advice = "free space; in a container, raise shm_size"
        yield _free_space("shared memory", shared, MIN_SHARED_MEMORY_BYTES, advice)


def local_key_mode(home: Path) -> Iterator[Finding]:
    """The key file of the home must be readable by its owner alone."""
    if (key := local_key.path(home)).exists() and key.stat().st_mode & 0o077:
        yield Finding("local key", "error", f"other users can read {key}", f"chmod 600 {key}")


def data_roots(roots: Iterable[Path], on_this_machine: bool = True) -> Iterator[Finding]:
    """The folders that jobs may read.

    Args:
        on_this_machine: the workers run here; otherwise the folders are on theirs.
    """
    for root in roots:
        if not on_this_machine:
            yield Finding("data root", "ok", f"{root}, on the workers")
        elif not root.is_dir():
            advice = "create it, or remove it from --data-root"
            yield Finding("data root", "error", f"{root} is not a folder", advice)
        elif not os.access(root, os.R_OK | os.X_OK):
            yield Finding("data root", "error", f"{root} cannot be read", f"chmod o+rx {root}")
        else:
            yield Finding("data root", "ok", str(root))


def port(number: int) -> Finding:
    """Whether the port is free, or serves this service's API."""
    subject = f"port {number}"
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", number))
        except OSError:
            pass
        else:
            return Finding(subject, "ok", "free")
    try:
        response = httpx.get(f"http://127.0.0.1:{number}/readyz", timeout=5.0)
        body = response.json()
    except (httpx.HTTPError, ValueError):
        body = None
    if isinstance(body, dict) and body.get("status") == "ready":
        return Finding(subject, "ok", "drmad answers there")
    if isinstance(body, dict) and "code" in body:
        return Finding(
            subject, "error", f"drmad is not ready: {body.get('detail')}", "see the advice on Redis"
        )
    return Finding(subject, "error", "in use by another program", "choose another --port")


def _free_space(subject: str, folder: Path, least: int, advice: str) -> Finding:
    free = shutil.disk_usage(folder).free
    message = f"{free / 2**30:.1f} GiB free in {folder}"
    level: Level = "ok" if free >= least else "error"
    return Finding(subject, level, message, "" if level == "ok" else advice)
