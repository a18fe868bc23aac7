"""Named arrays as they cross the wire, safetensors, and in the user's own units."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]


def read_arrays(content: bytes, *, transformed: bool) -> Arrays:
    """The arrays of a safetensors file.

    Args:
        content: The file. Its metadata may name a transform for each array.
        transformed: Whether to turn raw values into the user's units.
    Raises:
        ValueError: `content` is no safetensors file, or names an unknown transform.
    """
    # NumPy costs a tenth of a second, which most commands of the CLI need not pay.
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from drmad_client.spec.transforms import Transform, to_user_units

    try:
        arrays: Arrays = load(content)
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from error
    if not transformed:
        return arrays
    # An unknown transform would be one of a newer service: better no number than a wrong one.
    transforms = TypeAdapter(dict[str, Transform]).validate_json(
        _metadata(content).get("transforms", "{}")
    )
    with np.errstate(over="ignore"):  # exp: infinity says it best
        return {
            name: to_user_units(raw, transforms.get(name, "identity"))
            for name, raw in arrays.items()
        }


def _metadata(content: bytes) -> dict[str, str]:
    # The format: the header's length in eight bytes, the header as JSON, the values.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata
