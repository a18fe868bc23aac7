"""The device on which a problem is computed."""

import torch

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
