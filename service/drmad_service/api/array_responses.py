"""Encodes hyperparameters and hypergradients as JSON or safetensors."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors import numpy as safetensors

from drmad_client.records.base import Record
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.spec.outer.transforms import Transform, to_user_units
from drmad_service.store.files.tensor_file import StoredTensor

MAX_JSON_VALUES = 10_000
"""JSON holds only a summary of an array with more entries."""


class Array(Record):
    """One array: its name, shape and summary, and its values unless there are too many."""

    name: str
    shape: list[int]
    minimum: float
    median: float
    maximum: float
    values: Any = Field(
        default=None,
        description=f"Values as nested lists; null for more than {MAX_JSON_VALUES} entries, which "
        "only safetensors holds.",
    )


class Arrays(Record):
    """The arrays of one meta-iteration."""

    iteration: int
    arrays: list[Array]


class ArrayPage(Record):
    """A part of one array, in row-major order."""

    iteration: int
    name: str
    shape: list[int]
    offset: int = Field(description="Number of values before these.")
    values: list[float | None] = Field(description="Values; null for one that is not finite.")
    has_more: bool
    next: int | None = Field(default=None, description="Offset of the next page.")


async def page(
    iteration: int, name: str, tensor: StoredTensor, transform: Transform, offset: int, limit: int
) -> ArrayPage:
    """Values from `offset` on, in the user's units if `transform` is that of the hyperparameter."""
    values = to_user_units(await tensor.values(offset, limit), transform)
    end = offset + values.size
    has_more = end < tensor.size
    return ArrayPage(
        iteration=iteration,
        name=name,
        shape=tensor.shape,
        offset=offset,
        values=[value if math.isfinite(value) else None for value in values.tolist()],
        has_more=has_more,
        next=end if has_more else None,
    )


async def safetensors_pieces(
    iteration: int, tensors: Mapping[str, StoredTensor], infos: Sequence[HyperparameterInfo]
) -> tuple[int, AsyncIterator[bytes]]:
    """Size and pieces of a safetensors file of the tensors, which is never whole in memory."""
    header: dict[str, Any] = {"__metadata__": _metadata(iteration, infos)}
    offset = 0
    chosen = [(info.name, tensors[info.name]) for info in infos]
    for name, tensor in chosen:
        end = offset + tensor.end - tensor.start
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    async def pieces() -> AsyncIterator[bytes]:
        yield len(text).to_bytes(8, "little") + text
        for _, tensor in chosen:
            async for piece in tensor.pieces():
                yield piece

    return 8 + len(text) + offset, pieces()


def _metadata(iteration: int, infos: Sequence[HyperparameterInfo]) -> dict[str, str]:
    transforms = {info.name: info.transform for info in infos}
    return {"iteration": str(iteration), "transforms": json.dumps(transforms)}


def select(
    blob: bytes, infos: Sequence[HyperparameterInfo]
) -> dict[str, NDArray[np.floating[Any]]]:
    """The tensor of each hyperparameter in a state or a hypergradient, by name."""
    tensors = safetensors.load(blob)
    return {info.name: tensors[f"hyperparameters/{info.name}"] for info in infos}


def as_safetensors(
    iteration: int,
    tensors: Mapping[str, NDArray[np.floating[Any]]],
    infos: Sequence[HyperparameterInfo],
) -> bytes:
    return safetensors.save(dict(tensors), _metadata(iteration, infos))


async def as_json(
    record: MetaIteration,
    tensors: Mapping[str, StoredTensor],
    infos: Sequence[HyperparameterInfo],
    in_raw_units: bool,
) -> Arrays:
    """Summaries, and the values of small arrays. Of a large state the record has the summary."""
    arrays = []
    for info in infos:
        tensor = tensors[info.name]
        is_small = tensor.size <= MAX_JSON_VALUES
        known = None if in_raw_units or is_small else record.hyperparameters.get(info.name)
        if known is not None:
            figures, shown = (known.minimum, known.median, known.maximum), None
        else:
            values = (await tensor.values()).reshape(tensor.shape)
            if not in_raw_units:
                values = to_user_units(values, info.transform)
            figures = await asyncio.to_thread(_summary, values)
            shown = values.tolist() if is_small else None
        names = ("minimum", "median", "maximum")
        summary = dict(zip(names, figures, strict=True))
        arrays.append(Array(name=info.name, shape=info.shape, values=shown, **summary))
    return Arrays(iteration=record.iteration, arrays=arrays)


def _summary(values: NDArray[np.floating[Any]]) -> tuple[float, float, float]:
    return float(values.min()), float(np.median(values)), float(values.max())
