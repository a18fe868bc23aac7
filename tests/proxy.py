"""Debian's nginx in front of the service, with TLS, as docs/how-to/deploy.md sets it up."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NGINX = Path("/usr/sbin/nginx")
DEPLOY = Path(__file__).parents[1] / "docs" / "how-to" / "deploy.md"
_STARTS_S = 60.0

_CONFIG = """
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
daemon off;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    gzip on;
    gzip_proxied any;
    gzip_min_length 0;
    gzip_types *;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
        {locations}
    }}
}}
"""


@dataclass
class Proxy:
    """A running proxy; `url` has the path below which it offers the service."""

    url: str
    folder: Path

    @property
    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "cert.pem"))


def documented_location() -> str:
    """The block that the documentation shows."""
    found = re.search(r"```nginx\n(location .*?)```", DEPLOY.read_text(), re.S)
    assert found is not None
    return found[1]


@contextlib.contextmanager
def proxy(folder: Path, port_of_service: int, *, strips: bool = False) -> Iterator[Proxy]:
    """nginx before the service on a port; without nginx the test is skipped, except in CI.

    Args:
        strips: whether the proxy takes the path off itself, in place of the service.
    """
    if not NGINX.exists():
        if os.environ.get("CI") == "true":
            pytest.fail("no /usr/sbin/nginx: run deploy/install-proxy.sh")
        pytest.skip("no /usr/sbin/nginx; deploy/install-proxy.sh brings it")
    folder.mkdir(parents=True, exist_ok=True)
    _write_certificate(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    upstream = f"http://127.0.0.1:{port_of_service}{'/' if strips else ''}"
    config = folder / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            user="user root root;" if os.getuid() == 0 else "",
            folder=folder,
            port=port,
            locations=documented_location().replace("http://127.0.0.1:8080", upstream),
        )
    )
    command = [str(NGINX), "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    with subprocess.Popen(command) as process:
        try:
            _await(process, port, folder)
            yield Proxy(f"https://127.0.0.1:{port}/tuning", folder)
        finally:
            process.terminate()


def _await(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    deadline = time.monotonic() + _STARTS_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        assert process.poll() is None, (folder / "error.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _write_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
