"""How a GPU computes: the precision of its products, and whether its sums have one order."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from drmad_workers.errors import ProblemError

Precision = Literal["float32", "tf32", "bfloat16", "float64"]

TF32_EPS = 2.0**-10
"""The distance from 1 to the next number with the ten fractional bits of TF32."""
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""What cuBLAS reads when it starts; without it its sums have no fixed order."""


@contextmanager
def numerics(
    device: torch.device, precision: Precision, deterministic: bool = True
) -> Iterator[None]:
    """Sets how a GPU computes, and restores it on exit; on a CPU nothing changes.

    Products of float32 keep all of its bits, unless `precision` is "tf32", which rounds their
    factors to ten fractional bits. torch by itself lets convolutions round and matrices not.

    Args:
        device: that of all tensors.
        precision: that of the training.
        deterministic: whether the same call has the same bits again.
    Raises:
        ProblemError: an operation has no deterministic form.
    """
    if device.type != "cuda":
        yield
        return
    backends: Any = torch.backends
    places = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    cudnn = backends.cudnn
    memory: Any = torch.utils.deterministic
    kept = [place.fp32_precision for place in places]
    was = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    kept_cudnn, filled = (cudnn.deterministic, cudnn.benchmark), memory.fill_uninitialized_memory
    try:
        for place in places:
            place.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        if deterministic:
            os.environ.setdefault(WORKSPACE, ":4096:8")
            torch.use_deterministic_algorithms(True)
            memory.fill_uninitialized_memory = False
            cudnn.deterministic, cudnn.benchmark = True, False
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        name = str(error).partition(" does not have")[0]
        raise ProblemError(
            f"every operation must have a deterministic form on a GPU, and {name} has none: use "
            "another one, or set training.deterministic to false, which lets results differ in "
            "their last bits from run to run",
            "training.deterministic",
        ) from error
    finally:
        for place, before in zip(places, kept, strict=True):
            place.fp32_precision = before
        torch.use_deterministic_algorithms(was, warn_only=only_warned)
        memory.fill_uninitialized_memory = filled
        cudnn.deterministic, cudnn.benchmark = kept_cudnn


def rounding_of(precision: Precision, device: torch.device) -> float:
    """The relative rounding of the arithmetic in which losses are computed."""
    if precision == "tf32":
        return TF32_EPS if device.type == "cuda" else torch.finfo(torch.float32).eps
    return torch.finfo(getattr(torch, precision)).eps
