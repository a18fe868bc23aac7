"""What a proof found."""

import traceback
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, Literal

import torch

Result = Literal["passed", "failed", "skipped"]

SMALLER = "try the same code with a smaller model, or with smaller minibatches"
"""The remedy where a proof would cost too much."""


@dataclass(frozen=True)
class Finding:
    """The result of a proof; see drmad_client.records.job.Proof."""

    result: Result
    detail: str
    where: str | None = None
    remedy: str | None = None


def line_of(function: Any) -> str | None:
    """The user's line that defines a function or the forward of a module; None for torch's own."""
    function = getattr(function, "func", function)  # of functools.partial
    code = getattr(function, "__code__", None)
    if code is None:
        names = ("forward", "__call__")
        methods = [getattr(type(function), name, None) for name in names]
        codes = [getattr(method, "__code__", None) for method in methods]
        code = next((each for each in codes if each is not None), None)
    if code is None:
        return None
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}" if is_users(code) else None


def line_of_error(error: BaseException) -> str | None:
    """The user's innermost line in the traceback of an error; None if there is none."""
    lines = traceback.walk_tb(error.__traceback__)
    users = [(frame, line) for frame, line in lines if is_users(frame.f_code)]
    if not users:
        return None
    frame, line = users[-1]
    return f"{Path(frame.f_code.co_filename).name}:{line}"


def is_users(code: CodeType) -> bool:
    path = Path(code.co_filename)
    libraries = (
        Path(torch.__file__).parent,
        Path(__file__).parents[2],
        Path(traceback.__file__).parent,
    )
    return not any(path.is_relative_to(library) for library in libraries) and (
        "site-packages" not in path.parts
    )
