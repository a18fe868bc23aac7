"""The device on which a problem is computed, and the precision of its tensors."""

import torch
from torch import Tensor

from drmad_workers.errors import ProblemError


def resolve_device(device: str | torch.device) -> torch.device:
    """The device with its index, such as cuda:0 for "cuda".

    Raises:
        ProblemError: the name is unknown, or torch finds no such device.
    """
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ProblemError(f"device must be cpu or cuda, got {device!r}", "device") from error
    if resolved.type == "cuda":
        if not torch.cuda.is_available():
            raise ProblemError(
                "device must be available on this machine, got cuda, and torch finds no GPU here: "
                "use cpu, or install a build of torch with CUDA",
                "device",
            )
        index = torch.cuda.current_device() if resolved.index is None else resolved.index
        return torch.device("cuda", index)
    return resolved


def placed(
    tensor: Tensor, device: torch.device, dtype: torch.dtype, pinned: bool = False
) -> Tensor:
    """The tensor on the device in the precision of `dtype`; integers and booleans keep theirs.

    `pinned` copies to a GPU through pinned memory, and does not wait for the copy.
    """
    if pinned and device.type == "cuda" and tensor.device.type == "cpu":
        # The allocator reuses pinned memory only after the copies from it have ended.
        tensor = tensor.pin_memory().to(device, non_blocking=True)
    if tensor.is_complex():
        return tensor.to(device, dtype.to_complex())
    return tensor.to(device, dtype if tensor.is_floating_point() else None)
