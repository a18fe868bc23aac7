"""What a build on this machine needs: pip's settings, certificates, and torch's index."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PORT = 38911
"""The same in every run: an address that changes would undo the build's cache."""
_IN_BUILD = "/run/secrets/ca-certificates"


@dataclass(frozen=True)
class PackageIndex:
    """Files for the secrets of the build, and where torch comes from."""

    pip_configuration: Path
    certificates: Path
    torch_index: str


@contextlib.contextmanager
def package_index(address: str) -> Iterator[PackageIndex]:
    """pip's settings of this machine, for a build; torch from a folder without its index.

    Args:
        address: of this machine, for containers.
    """
    settings = _pip_settings()
    with (
        tempfile.TemporaryDirectory(prefix="drmad-index-") as name,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        torch_index, trusted = TORCH_INDEX, []
        if not _is_reached(TORCH_INDEX):
            wheel = _wheel("torch", settings.get("find-links", ""))
            port = stack.enter_context(_served(folder / "served", wheel, address))
            torch_index, trusted = f"http://{address}:{port}/simple", [address]
        lines = ["[global]", f"cert = {_IN_BUILD}"]
        if "index-url" in settings:
            lines.append(f"index-url = {settings['index-url']}")
        lines += [f"trusted-host = {host}" for host in trusted]
        pip_configuration = folder / "pip.conf"
        pip_configuration.write_text("\n".join(lines) + "\n")
        yield PackageIndex(pip_configuration, CERTIFICATES, torch_index)


def _pip_settings() -> dict[str, str]:
    """Settings of pip as it sees them, the last of a name alone."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^[^.\n]*\.([\w-]+)='(.*)'$", listed, re.M))


def _is_reached(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/torch/", timeout=20).close()
    except OSError:
        return False
    return True


def _wheel(package: str, folders: str) -> Path:
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    found = [p for f in folders.split() for p in Path(f).glob(f"{package}-*-{version}-*.whl")]
    if not found:
        raise FileNotFoundError(
            f"no {package} wheel: {TORCH_INDEX} is not reached, and pip's find-links has none"
        )
    return max(found)


@contextlib.contextmanager
def _served(folder: Path, wheel: Path, address: str) -> Iterator[int]:
    """A simple index of one package, over HTTP, for containers alone."""
    package = folder / "simple" / wheel.name.split("-")[0]
    package.mkdir(parents=True)
    (package / "index.html").write_text(
        f'<a href="{wheel.name.replace("+", "%2B")}">{wheel.name}</a>'
    )
    try:
        os.link(wheel, package / wheel.name)
    except OSError:
        shutil.copy(wheel, package)
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer((address, _PORT), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
