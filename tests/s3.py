"""An S3 server on this machine: moto, which answers the protocol as AWS does."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from drmad_workers.artifacts.store import ArtifactLocation


@dataclass(frozen=True)
class S3:
    """A running server, and the credentials that it takes."""

    endpoint: str

    @property
    def options(self) -> dict[str, Any]:
        """What s3fs takes to reach it."""
        client = {"endpoint_url": self.endpoint, "region_name": "us-east-1"}
        return {"key": "test", "secret": "test", "client_kwargs": client}

    def new_bucket(self) -> ArtifactLocation:
        """An empty bucket of its own, below a prefix."""
        import boto3

        bucket = f"drmad-{secrets.token_hex(8)}"
        boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        ).create_bucket(Bucket=bucket)
        return ArtifactLocation(f"s3://{bucket}/artifacts", self.options)


@contextlib.contextmanager
def s3_server() -> Iterator[S3]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3(f"http://{host}:{port}")
    finally:
        server.stop()
