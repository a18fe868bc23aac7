"""Finds the line of the user's code whose derivative is not defined."""

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from drmad_workers.errors import ProblemError

FRAME = re.compile(r'File "([^"]+)", line (\d+), in \S+\n\s+(.+)')
OWN = str(Path(__file__).parents[2])
REMEDY = (
    "a norm or a root at 0, a logarithm of 0 and a division by 0 have no derivative: add a small "
    "constant inside, such as (x.square().sum() + 1e-12).sqrt(), or start from other weights"
)


def require_finite_parts(
    parts: Sequence[Tensor | None], what: str, compute: Callable[[], object]
) -> None:
    """Raises ProblemError unless all derivatives at the first weights are finite.

    Args:
        parts: the derivatives.
        what: the derivatives in words.
        compute: computes them again, to find the line that is at fault.
    """
    if not all(bool(part.isfinite().all()) for part in parts if part is not None):
        raise not_finite(what, compute)


def not_finite(what: str, compute: Callable[[], object]) -> ProblemError:
    """The error about derivatives that are not finite; see require_finite_parts."""
    line = failing_line(compute)
    where = "" if line is None else f", by the line {line}"
    return ProblemError(
        f"{what} must be finite at the first weights of the training, and it is not{where}: "
        f"{REMEDY}",
        "problem.inner_loss",
    )


def failing_line(compute: Callable[[], object]) -> str | None:
    """The line of the user's code whose derivative is nan, "file.py:31 (code)"; None if unknown.

    Torch reports the calls that recorded the operation; the last frame outside torch and this
    package belongs to the user.
    """
    with warnings.catch_warnings(record=True) as reports:
        warnings.simplefilter("always")
        try:
            with torch.autograd.detect_anomaly(check_nan=True):
                compute()
        except RuntimeError:
            pass
    frames = [frame for report in reports for frame in FRAME.findall(str(report.message))]
    users = [f for f in frames if "site-packages" not in f[0] and not f[0].startswith(OWN)]
    if not users:
        return None
    file, number, code = users[-1]
    return f"{Path(file).name}:{number} ({code.strip()})"
