"""The images that ours stand on: of a registry, or made of Debian's packages without one."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.images.engine import Host

PYTHON, REDIS = "python:3.11-slim-bookworm", "valkey/valkey:9.1-alpine"
_HERE = Path(__file__).parent / "bases"


@dataclass(frozen=True)
class BaseImages:
    python: str
    redis: str
    origin: str


def base_images(host: Host) -> BaseImages:
    """Pulls both; where that fails, builds images that offer the same to ours."""
    pulled = [host.run([host.docker_path, "pull", "-q", i], check=False) for i in (PYTHON, REDIS)]
    if not any(done.returncode for done in pulled):
        return BaseImages(PYTHON, REDIS, "of Docker Hub")
    images = BaseImages(
        "drmad-test/python:3.11", "drmad-test/valkey:9.1", "made of Debian's packages"
    )
    present = host.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    if "drmad-test/debian:bookworm" not in present:
        _debian(host)
    if images.python not in present:
        _build(host, "Python.Dockerfile", images.python)
    if images.redis not in present:
        from drmad_service.operations.embedded import server_binary

        _build(host, "Valkey.Dockerfile", images.redis, Path(server_binary()))
    return images


def _debian(host: Host) -> None:
    folder = Path(tempfile.mkdtemp(prefix="drmad-debian-", dir="/var/tmp"))
    try:
        root = folder / "root"
        mirror = "http://deb.debian.org/debian"
        host.run(["debootstrap", "--variant=minbase", "bookworm", str(root), mirror])
        shutil.rmtree(root / "var/cache/apt/archives")
        shutil.rmtree(root / "var/lib/apt/lists")
        archive = folder / "root.tar"
        host.run(["tar", "-C", str(root), "-cf", str(archive), "."])
        host.docker("import", str(archive), "drmad-test/debian:bookworm")
    finally:
        shutil.rmtree(folder)


def _build(host: Host, dockerfile: str, image: str, *files: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="drmad-base-") as context:
        for file in files:
            shutil.copy(file, context)
        host.docker("build", "-q", "-f", str(_HERE / dockerfile), "-t", image, context)
