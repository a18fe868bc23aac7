"""Reads the named arrays of an answer: a safetensors file, in raw or in the user's units."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    NamedArrays = dict[str, NDArray[Any]]


def read_arrays(content: bytes, *, transformed: bool) -> NamedArrays:
    """Read the arrays of a safetensors file.

    Args:
        content: The bytes of the file. Its metadata may name a transform for each array.
        transformed: Whether the raw values are converted to the user's units.
    Raises:
        ValueError: `content` is not a safetensors file, or names an unknown transform.
    """
    # Loading NumPy takes a tenth of a second, and most commands of the CLI do not need it.
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from drmad_client.spec.outer.transforms import Transform, to_user_units

    try:
        arrays: NamedArrays = load(content)
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from error
    if not transformed:
        return arrays
    # A newer service may name a transform that this client does not know. Returning raw values as
    # if they were converted would be silently wrong, so validation refuses the name.
    transforms = TypeAdapter(dict[str, Transform]).validate_json(
        _metadata(content).get("transforms", "{}")
    )
    with np.errstate(over="ignore"):  # exp may overflow to infinity
        return {
            name: to_user_units(raw, transforms.get(name, "identity"))
            for name, raw in arrays.items()
        }


def _metadata(content: bytes) -> dict[str, str]:
    # The file holds the length of its header in eight bytes, the header as JSON, and the values.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata
