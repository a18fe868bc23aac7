"""Small files that take much to parse are refused, at no cost to the API that receives them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from redis import Redis

from drmad_service.api.file_checker import FileChecker, FileRefused
from tests.service.api.test_server import running

MEMORY_BYTES = 64 << 20
CPU_S = 0.25
"""Processor time of the API, which bounds the time for which it answers nobody else."""


def safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def many_tensors() -> bytes:
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return safetensors(json.dumps({f"t{number}": one for number in range(600_000)}).encode())


def many_names() -> bytes:
    """As `many_tensors`, in the only object that holds no tensors."""
    names = {f"n{number}": "" for number in range(600_000)}
    return safetensors(json.dumps({"__metadata__": names}).encode())


def huge_shape() -> bytes:
    tensor = {"dtype": "F32", "shape": [1] * 1_300_000, "data_offsets": [0, 4]}
    return safetensors(json.dumps({"t": tensor}, separators=(",", ":")).encode() + bytes(4))


def deep_header() -> bytes:
    return safetensors(b'{"t":' + b"[" * 2_000_000)


def npy(header: bytes, version: tuple[int, int] = (2, 0)) -> bytes:
    size = struct.pack("<I" if version == (2, 0) else "<H", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header


def zipped(*members: tuple[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def npz_header() -> bytes:
    return zipped(("x.npy", npy(b" " * (700 << 20))))


def deep_npz_header() -> bytes:
    return zipped(("x.npy", npy(b"(" * 9_000)))


def npz_shape() -> bytes:
    header = str({"descr": "<f8", "fortran_order": False, "shape": (1 << 62,)}).encode()
    return zipped(("x.npy", npy(header.ljust(128))))


def npz_in_npz() -> bytes:
    inner = io.BytesIO()
    np.savez_compressed(inner, x=np.zeros(1 << 20))
    return zipped(*[(f"{number}.npz", inner.getvalue()) for number in range(100)])


def directory(entries: int, extra: bytes = b"") -> bytes:
    """A zip archive of one empty member that its directory lists again and again."""
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"a"
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, len(extra), 0, 0, 0, 0, 0
    )
    listed = (entry + b"a" + extra) * entries
    end = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, entries & 0xFFFF, entries & 0xFFFF, len(listed), 47, 0
    )
    return local + b"a" * (47 - len(local)) + listed + end


def many_entries() -> bytes:
    return directory(900_000)


def long_entries() -> bytes:
    return directory(700, b"x" * 65_000)


def overlapping() -> bytes:
    """Members that share the bytes of one, which unpacks to 400 MB each time."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(400 << 20))
        archive.filelist += [archive.filelist[0]] * 500
    return packed.getvalue()


BOMBS: list[tuple[str, Callable[[], bytes]]] = [
    ("data", many_tensors),
    ("data", many_names),
    ("data", huge_shape),
    ("data", deep_header),
    ("data", npz_header),
    ("data", deep_npz_header),
    ("data", npz_shape),
    ("data", npz_in_npz),
    ("data", many_entries),
    ("data", long_entries),
    ("data", overlapping),
    ("code", many_entries),
    ("code", long_entries),
    ("code", overlapping),
]


@pytest.fixture(scope="module")
def api(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, httpx.Client]]:
    """The process id of an API, and a client of it."""
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    home = tmp_path_factory.mktemp("home")
    with (
        running(redis_url, "--home", str(home)) as (process, url),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield process.pid, client


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize(("kind", "bomb"), BOMBS, ids=lambda part: getattr(part, "__name__", part))
def test_a_bomb_is_refused_at_no_cost(
    api: tuple[int, httpx.Client], kind: str, bomb: Callable[[], bytes]
) -> None:
    pid, client = api
    content = bomb()
    sha256 = hashlib.sha256(content).hexdigest()
    small = b"not a zip archive"
    client.put(f"/v1/{kind}/{hashlib.sha256(small).hexdigest()}", content=small)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    memory, cpu = peak_bytes(pid), cpu_s(pid)
    answer = client.put(f"/v1/{kind}/{sha256}", content=content)
    assert answer.status_code == 422, answer.text
    assert peak_bytes(pid) - memory < MEMORY_BYTES
    assert cpu_s(pid) - cpu < CPU_S
    assert client.head(f"/v1/{kind}/{sha256}").status_code == 404
    assert len(answer.text) < 2_000


@pytest.mark.anyio
async def test_a_check_that_takes_too_long_or_dies_is_told_and_the_next_is_answered(
    tmp_path: Path,
) -> None:
    path = tmp_path / "fine.npz"
    np.savez(path, x=np.zeros(3))
    waits = tmp_path / "waits"
    os.mkfifo(waits)  # nobody ever writes to it
    checker = FileChecker(timeout_s=3.0)
    with pytest.raises(FileRefused, match="longer than 3 s"):
        await checker.check("data", waits)
    await checker.check("data", path)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(FileRefused, match="MiB"):
        await checker.check("code", tmp_path / "large")
    await checker.check("data", path)
    await checker.close()
