"""Checks uploaded files in a process of its own, whose memory and time are limited.

An archive or a header can be made so that parsing it takes far more memory and time than its size
suggests. The API then answers 422 and goes on: the process that parses ends in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Literal

from drmad_client.errors import DrmadError
from drmad_client.files import code_archive, data_file

MAX_MEMORY_BYTES = 384 << 20
"""Memory of the process, in bytes. An archive of code is read as a whole and may have 50 MB."""
TIMEOUT_S = 10.0

Kind = Literal["code", "data"]


class FileRefused(Exception):
    """The file is damaged, does not hold what it should, or could do harm."""


class FileChecker:
    """Checks one file after the other. The process starts with the first file."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._process: Process | None = None
        self._lock = asyncio.Lock()

    async def check(self, kind: Kind, path: Path) -> None:
        """
        Args:
            kind: an archive of code (see code_archive), or data (see data_file).
        Raises:
            FileRefused: the check found a fault, or exceeded its memory or time.
        """
        async with self._lock:
            try:
                fault = await asyncio.wait_for(self._ask(kind, path), self._timeout_s)
            except TimeoutError:
                await self._end()
                fault = f"checking the file took longer than {self._timeout_s:g} s; split the file"
            except BaseException:
                await self._end()  # its answer would be taken for that to the next question
                raise
        if fault:
            raise FileRefused(fault)

    async def close(self) -> None:
        async with self._lock:
            await self._end()

    async def _ask(self, kind: Kind, path: Path) -> str | None:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", __name__), stdin=PIPE, stdout=PIPE, env=_environment()
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(json.dumps([kind, str(path)]).encode() + b"\n")
            await process.stdin.drain()
        answer = await process.stdout.readline()
        if not answer:
            await self._end()
            return (
                f"checking the file took more than {MAX_MEMORY_BYTES >> 20} MiB of memory; "
                "split the file"
            )
        fault: str | None = json.loads(answer)
        return fault

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _environment() -> dict[str, str]:
    """What Python needs to start. The process has no use for the service's secrets."""
    names = ("PATH", "PYTHONPATH", "HOME", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    allowed = {name: os.environ[name] for name in names if name in os.environ}
    return allowed | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _fault(kind: Kind, path: Path) -> str | None:
    try:
        if kind == "code":
            code_archive.check(path.read_bytes())
        else:
            data_file.check(path)
    except DrmadError as error:
        return str(error)
    except MemoryError:
        return f"checking the file took more than {MAX_MEMORY_BYTES >> 20} MiB; split the file"
    return None


def main() -> None:
    """Answers each line of the input, a kind and a path, by a line: a fault or null."""
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        kind, path = json.loads(line)
        print(json.dumps(_fault(kind, Path(path))), flush=True)


if __name__ == "__main__":
    main()
