"""Imports a job's code and builds the problem that it defines."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drmad_workers.errors import ProblemError, ran_out_of_memory
from drmad_workers.global_generators import restored_generators, seed_all
from drmad_workers.problem import Problem

TYPES_DIFFER = re.compile(r"same dtype|expected scalar type|should be the same")
"""What torch says where the types of two tensors differ."""


class UserCodeError(Exception):
    """The user's code raised an exception; `traceback` contains only the frames of that code."""

    def __init__(self, message: str, trimmed: str) -> None:
        super().__init__(message, trimmed)
        self.message = message
        self.traceback = trimmed

    def __str__(self) -> str:
        return self.message


def load_problem(
    folder: Path, entrypoint: str, options: Mapping[str, Any], seed: int = 0
) -> Problem:
    """Calls `module:function` with the options and returns the problem that it builds.

    The import and the call each begin with all global generators under the seed, so that every
    process of a job builds the same problem, whether the module was imported before or not. The
    states of the generators are restored.

    The folder becomes the first entry of this process's import path. The process must therefore not
    load any other job's code.

    Raises:
        ProblemError: the module or the function does not exist, or it did not return a Problem.
        UserCodeError: the import or the call raised an exception.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module_name, _, function_name = entrypoint.partition(":")
    top = module_name.split(".")[0]
    if not any((folder / name).exists() for name in (f"{top}.py", top)):
        files = ", ".join(sorted(p.name for p in folder.iterdir())[:10])
        raise ProblemError(
            f"entrypoint must name a module of the code, got {top!r}; the code contains: {files}",
            "problem.entrypoint",
        )
    try:
        with restored_generators():
            seed_all(seed)
            module = importlib.import_module(module_name)
        build = getattr(module, function_name, None)
        if not callable(build):
            raise ProblemError(
                f"entrypoint must name a function of {module_name}, got {function_name!r}: define "
                "it, and return a Problem from it",
                "problem.entrypoint",
            )
        with restored_generators():
            seed_all(seed)
            problem = build(**options)
    except ProblemError:
        raise
    except (Exception, SystemExit) as error:
        if ran_out_of_memory(error):  # the code itself may be correct
            raise
        raise user_error(error, folder) from error
    if not isinstance(problem, Problem):
        raise ProblemError(
            f"{entrypoint} must return a drmad_workers.Problem, got {type(problem).__name__}",
            "problem.entrypoint",
        )
    return problem


def user_error(error: BaseException, folder: Path) -> UserCodeError:
    """The error as a UserCodeError that contains only the frames of the user's files."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder)
    ]
    for frame in frames:
        frame.filename = str(Path(frame.filename).relative_to(folder))
    lines = traceback.format_list(frames) + traceback.format_exception_only(error)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    text = str(error)
    if isinstance(error, RuntimeError) and TYPES_DIFFER.search(text):
        text += (
            "; model and data are of training.precision: give other tensors the type of the "
            "inputs, as x.new_zeros(1) or torch.zeros(1, dtype=x.dtype) do"
        )
    return UserCodeError(f"{type(error).__name__}: {text}{where}", "".join(lines))
