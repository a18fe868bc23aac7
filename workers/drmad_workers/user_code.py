"""The user's own code on a worker: unpacked once, imported, asked for its problem."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drmad_client.files import code_archive as archives
from drmad_workers.errors import ProblemError, ran_out_of_memory
from drmad_workers.problem import Problem


class UserCodeError(Exception):
    """The user's code raised; `traceback` is trimmed to its own frames."""

    def __init__(self, message: str, trimmed: str) -> None:
        super().__init__(message, trimmed)
        self.message = message
        self.traceback = trimmed

    def __str__(self) -> str:
        return self.message


def unpacked(content: bytes, base: Path | None = None) -> Path:
    """A folder of this machine that holds the archive's files, the same for the same archive.

    Raises:
        ProblemError: the archive must not be opened.
    """
    base = base or Path(tempfile.gettempdir()) / "drmad-code"
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = base / hashlib.sha256(content).hexdigest()
    if folder.is_dir():
        return folder
    being_made = Path(tempfile.mkdtemp(dir=base))
    try:
        archives.unpack(content, being_made)
        being_made.rename(folder)
    except archives.CodeError as error:
        raise ProblemError(str(error), "problem.code") from error
    except OSError:
        if not folder.is_dir():  # else another replica on this machine was first
            raise
    finally:
        shutil.rmtree(being_made, ignore_errors=True)
    return folder


def load_problem(folder: Path, entrypoint: str, options: Mapping[str, Any]) -> Problem:
    """What `module:function` returns when it is called with the options.

    The folder goes to the front of the import path of this process, which therefore must serve no
    other code.

    Raises:
        ProblemError: no such module or function, or it returned no Problem.
        UserCodeError: importing or calling it raised.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module_name, _, function_name = entrypoint.partition(":")
    top = module_name.split(".")[0]
    if not any((folder / name).exists() for name in (f"{top}.py", top)):
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:10])
        raise ProblemError(
            f"the code has no module {top!r}; it holds: {there}", "problem.entrypoint"
        )
    try:
        module = importlib.import_module(module_name)
        build = getattr(module, function_name, None)
        if not callable(build):
            raise ProblemError(
                f"{module_name} must define a function {function_name!r} that returns a Problem",
                "problem.entrypoint",
            )
        problem = build(**options)
    except ProblemError:
        raise
    except (Exception, SystemExit) as error:
        if ran_out_of_memory(error):  # no mistake in the code
            raise
        raise user_error(error, folder) from error
    if not isinstance(problem, Problem):
        raise ProblemError(
            f"{entrypoint} must return a drmad_workers Problem, got {type(problem).__name__}",
            "problem.entrypoint",
        )
    return problem


def user_error(error: BaseException, folder: Path) -> UserCodeError:
    """The error with the frames of the user's files alone."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder)
    ]
    for frame in frames:
        frame.filename = str(Path(frame.filename).relative_to(folder))
    lines = traceback.format_list(frames) + traceback.format_exception_only(error)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return UserCodeError(f"{type(error).__name__}: {error}{where}", "".join(lines))
