"""What a scheduler says of the process that drives Ray for it."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from drmad_client import __version__
from drmad_service.errors import ServiceStartError
from drmad_service.ray_driver.codec import encode
from drmad_service.ray_driver.connection import RayDriver

pytestmark = pytest.mark.anyio


async def started(*messages: Any) -> None:
    """A driver whose process says this and ends."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"".join(map(encode, messages)))
    driver = RayDriver(*await asyncio.open_connection(sock=ours))
    try:
        await driver.start("it has ended")
    finally:
        await driver.close()


@pytest.mark.parametrize(
    ("ready", "words"),
    [
        (["ready", __version__], ""),
        (["ready", "0.0.1"], f"has drmad 0.0.1, this scheduler {__version__}"),
        (["ready"], "has drmad an earlier version"),
    ],
)
async def test_another_version_of_drmad_is_warned_of(
    ready: list[str], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await started(ready)
    assert words in caplog.text
    assert bool(caplog.text) == bool(words)


async def test_why_ray_cannot_be_reached_is_the_error() -> None:
    with pytest.raises(ServiceStartError, match="no cluster there"):
        await started(["failed", "no cluster there"])
    with pytest.raises(ServiceStartError, match="it has ended"):
        await started()
