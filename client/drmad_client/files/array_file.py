"""Files of arrays, npz or safetensors, that anybody may have written: nothing in them is run."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from drmad_client.errors import DrmadError
from drmad_client.files.zip_errors import ZIP_ERRORS

MAX_BYTES = 1 << 30
"""Of an uploaded file."""
MAX_UNPACKED_BYTES = 8 << 30
"""Of all arrays of a file; what is compressed says it in its headers, which are checked."""
MAX_ARRAYS = 1000

_NUMBERS = "biuf"


class DataError(DrmadError):
    """A file that is no npz or safetensors file of numbers, or that must not be opened."""


@dataclass(frozen=True)
class Described:
    """One array of a file, as its header says."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def check(path: Path, max_bytes: int = MAX_UNPACKED_BYTES) -> dict[str, Described]:
    """What the file holds by name, without reading the numbers.

    Raises:
        DataError: neither npz nor safetensors; damaged; an array of objects, which would need
            pickle; too many or too large arrays, or headers that lie about their size.
    """
    try:
        found = _npz(path) if zipfile.is_zipfile(path) else _safetensors(path)
    except ZIP_ERRORS as error:
        raise DataError(f"the file is no whole npz or safetensors file: {error}") from error
    if not found:
        raise DataError("the file holds no array")
    if len(found) > MAX_ARRAYS:
        raise DataError(f"the file holds {len(found)} arrays, at most {MAX_ARRAYS} are allowed")
    size = sum(prod(array.shape) * array.dtype.itemsize for array in found.values())
    if size > max_bytes:
        raise DataError(f"its arrays take {size} bytes, at most {max_bytes} are allowed")
    for name, array in found.items():
        if array.dtype.kind not in _NUMBERS:
            raise DataError(
                f"the array {name!r} holds {array.dtype}; only numbers can be read (no objects, "
                "no text): write them as float32 or int64"
            )
    return found


def load(path: Path, max_bytes: int = MAX_UNPACKED_BYTES) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays by name.

    Raises:
        DataError: as `check`.
    """
    names = list(check(path, max_bytes))
    try:
        if zipfile.is_zipfile(path):
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in names}
        with safe_open(path, framework="numpy") as opened:
            return {name: opened.get_tensor(name) for name in names}
    except (*ZIP_ERRORS, SafetensorError) as error:
        raise DataError(f"the file is damaged: {error}") from error


def pack(arrays: Mapping[str, Any]) -> bytes:
    """The arrays as a safetensors file, the same bytes for the same arrays.

    Raises:
        DataError: what is no array of numbers.
    """
    from safetensors.numpy import save

    converted = {}
    for name, values in arrays.items():
        array = np.ascontiguousarray(values)
        if array.dtype.kind not in _NUMBERS:
            raise DataError(f"the array {name!r} must hold numbers, got {array.dtype}")
        converted[name] = array
    if not converted:
        raise DataError("there is no array to pack")
    return save(converted)


def _npz(path: Path) -> dict[str, Described]:
    found: dict[str, Described] = {}
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_ARRAYS:
            raise DataError(f"the file holds {len(entries)} arrays, at most {MAX_ARRAYS}")
        for info in entries:
            name = info.filename.removesuffix(".npy")
            if name == info.filename or name in found or info.flag_bits & 0x1:
                raise DataError(f"the file holds {info.filename!r}, which is no array of an npz")
            with archive.open(info) as file:
                shape, dtype = _header(file)
                size = file.tell() + prod(shape) * dtype.itemsize
            # NumPy allocates what the header says before it reads.
            if not dtype.hasobject and size != info.file_size:
                raise DataError(f"the array {name!r} is not as large as its header says")
            found[name] = Described(shape, dtype)
    return found


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise DataError(f"an array of format {version} cannot be read; save it with numpy.savez")
    return shape, dtype


def _safetensors(path: Path) -> dict[str, Described]:
    try:
        with safe_open(path, framework="numpy") as opened:
            found = {}
            for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                part = opened.get_slice(name)
                kind = _SAFETENSORS.get(part.get_dtype())
                if kind is None:
                    raise DataError(
                        f"the array {name!r} holds {part.get_dtype()}; NumPy knows no such numbers"
                    )
                found[name] = Described(tuple(part.get_shape()), np.dtype(kind))
            return found
    except SafetensorError as error:
        raise ValueError(str(error)) from error


_SAFETENSORS = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "u2", "I16": "i2", "U32": "u4", "I32": "i4",
    "U64": "u8", "I64": "i8", "F16": "f2", "F32": "f4", "F64": "f8",
}  # fmt: skip
