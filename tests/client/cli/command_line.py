"""One command line of `drmad` in the test's own process; what only a process shows needs one."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from types import MappingProxyType

import pytest

from drmad_client.cli.main import run


def drmad(
    *arguments: str,
    stdin: str = "",
    cwd: Path | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> CompletedProcess[str]:
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8"))
        if cwd:
            patch.chdir(cwd)
        code = run([*arguments])
    printed = (stream.buffer.getvalue().decode() for stream in (out, err))
    return CompletedProcess(arguments, code, *printed)
