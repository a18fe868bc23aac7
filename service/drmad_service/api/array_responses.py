"""Encodes hyperparameters and hypergradients as JSON or safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors import numpy as safetensors

from drmad_client.records.base import Record
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.spec.outer.transforms import to_user_units

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
    transforms = {info.name: info.transform for info in infos}
    metadata = {"iteration": str(iteration), "transforms": json.dumps(transforms)}
    return safetensors.save(dict(tensors), metadata)


def as_json(
    iteration: int,
    tensors: Mapping[str, NDArray[np.floating[Any]]],
    infos: Sequence[HyperparameterInfo],
    in_raw_units: bool,
) -> Arrays:
    arrays = []
    for info in infos:
        values = tensors[info.name]
        if not in_raw_units:
            values = to_user_units(values, info.transform)
        arrays.append(
            Array(
                name=info.name,
                shape=info.shape,
                minimum=float(values.min()),
                median=float(np.median(values)),
                maximum=float(values.max()),
                values=values.tolist() if values.size <= MAX_JSON_VALUES else None,
            )
        )
    return Arrays(iteration=iteration, arrays=arrays)
