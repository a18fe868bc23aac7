"""Weights of a model from a file: a state dict in safetensors."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from drmad_workers.catalog.places import Places
from drmad_workers.errors import ProblemError

FIELD = "problem.weights"
SAVE = (
    "save the state dict of the model that build() returns, by "
    "safetensors.torch.save_model(model, path)"
)
SHOWN = 8
"""Bounds the names that an error lists."""


def load_weights(model: nn.Module, weights: str, places: Places) -> None:
    """Loads a file into the model, in the types of the model's own tensors.

    Of parameters that share one tensor, the file needs one name.

    Args:
        weights: "sha256:<digits>" for an upload, or a path below a data root.
    Raises:
        ProblemError: there is no such file; its digest is another one; or its names and shapes are
            not those of the model's state dict.
    """
    given = read(weights_file(weights, places))
    own = {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if torch.is_tensor(tensor)
    }
    require_names(own, given)
    require_shapes(own, given)
    require_tied_alike(own, given)
    model.load_state_dict(given, strict=False)  # the names of shared tensors may be missing


def weights_file(weights: str, places: Places) -> Path:
    """The file that `problem.weights` names."""
    if not weights.startswith("sha256:"):
        path = places.below(weights, "weights", FIELD)
        if not path.is_file():
            raise ProblemError(
                f"weights must be a safetensors file, got {path}, which is not a file", FIELD
            )
        return path
    path = places.upload(weights, FIELD)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if f"sha256:{found}" != weights:
        raise ProblemError(
            f"the file of {weights} is damaged on this worker: its digest is {found}; upload it "
            "again",
            FIELD,
        )
    return path


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ProblemError(
            f"weights must be a safetensors file ({error}): {SAVE}", FIELD
        ) from error


def require_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raises ProblemError unless the file has every name of the model and no other."""
    known = {id(own[name]) for name in given if name in own}
    missing = [name for name, tensor in own.items() if id(tensor) not in known]
    unexpected = [name for name in given if name not in own]
    found = [
        f"{what} {listed(names)}"
        for what, names in (("misses", missing), ("has beside them", unexpected))
        if names
    ]
    if found:
        raise ProblemError(
            f"the file must have the {len(own)} names of the model's state dict, and it "
            f"{' and '.join(found)}: {SAVE}",
            FIELD,
        )


def require_shapes(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raises ProblemError unless the file has the shapes and the kinds of number of the model."""
    wrong = []
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            wrong.append(f"{name}: {tuple(tensor.shape)} for {tuple(own[name].shape)}")
        elif kind(tensor) != kind(own[name]):
            wrong.append(f"{name}: {tensor.dtype} for {own[name].dtype}")
    if wrong:
        raise ProblemError(
            f"the file must have the shapes and types of the model, got {listed(wrong)}: build the "
            "model with the sizes of the file, or take another file",
            FIELD,
        )


def kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def require_tied_alike(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raises ProblemError if the file has two values for one tensor of the model."""
    first: dict[int, str] = {}
    for name in (name for name in own if name in given):
        other = first.setdefault(id(own[name]), name)
        if not torch.equal(given[name], given[other]):
            raise ProblemError(
                f"{other} and {name} are one tensor of the model, and the file has different "
                "values for them: untie them in the model, or leave one of them out of the file",
                FIELD,
            )


def listed(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
