"""Array files (npz or safetensors) from untrusted users: reading one never runs its contents."""

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
"""Maximum size of an uploaded file, in bytes."""
MAX_UNPACKED_BYTES = 8 << 30
"""Maximum size of all arrays of a file together, in bytes, before compression."""
MAX_ARRAYS = 10_000
"""Maximum number of arrays in a file."""

_NUMBERS = "biuf"
"""NumPy's codes of the kinds bool, int, unsigned int and float."""
_BFLOAT16: np.dtype[Any] = np.dtype("V2")
"""Stands for bfloat16, of which NumPy has no dtype."""


class DataError(DrmadError):
    """The file is not an npz or safetensors file of numbers, or exceeds a limit."""


@dataclass(frozen=True)
class ArrayHeader:
    """The shape and dtype of one array, as the file's header states them."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def check(path: Path, max_bytes: int = MAX_UNPACKED_BYTES) -> dict[str, ArrayHeader]:
    """The headers of all arrays by name. The numbers are not read.

    Args:
        max_bytes: maximum size of all arrays together, before compression.
    Raises:
        DataError: the file is neither npz nor safetensors, is damaged, holds no array or more than
            `MAX_ARRAYS`, exceeds `max_bytes`, holds anything but numbers (objects would need
            pickle), or has a header that contradicts the size of its array.
    """
    try:
        found = _npz(path) if zipfile.is_zipfile(path) else _safetensors(path)
    except ZIP_ERRORS as error:
        raise DataError(f"expected a complete npz or safetensors file: {error}") from error
    if not found:
        raise DataError("the file holds no arrays; save at least one")
    if len(found) > MAX_ARRAYS:
        raise DataError(_too_many(len(found)))
    size = sum(prod(array.shape) * array.dtype.itemsize for array in found.values())
    if size > max_bytes:
        raise DataError(
            f"the arrays of the file must take at most {max_bytes} bytes, they take {size}"
        )
    for name, array in found.items():
        if array.dtype.kind not in _NUMBERS and array.dtype != _BFLOAT16:
            raise DataError(
                f"the array {name!r} must hold numbers, it holds {array.dtype} (objects and text "
                "cannot be read): save it as float32 or int64"
            )
    return found


def load(path: Path, max_bytes: int = MAX_UNPACKED_BYTES) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays by name.

    Raises:
        DataError: as in `check`; or an array holds bfloat16, which NumPy does not know.
    """
    names = check(path, max_bytes)
    for name, array in names.items():
        if array.dtype == _BFLOAT16:
            raise DataError(
                f"the array {name!r} holds bfloat16, which only weights may: save it as float32"
            )
    try:
        if zipfile.is_zipfile(path):
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in names}
        with safe_open(path, framework="numpy") as opened:
            return {name: opened.get_tensor(name) for name in names}
    except (*ZIP_ERRORS, SafetensorError) as error:
        raise DataError(f"the file is damaged: {error}") from error


def pack(arrays: Mapping[str, Any]) -> bytes:
    """The bytes of a safetensors file that holds the arrays. Equal arrays give equal bytes.

    Raises:
        DataError: there is no array, or one holds anything but numbers.
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


def _too_many(count: int) -> str:
    return f"the file must hold at most {MAX_ARRAYS} arrays, it holds {count}"


def _npz(path: Path) -> dict[str, ArrayHeader]:
    found: dict[str, ArrayHeader] = {}
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_ARRAYS:
            raise DataError(_too_many(len(entries)))
        for info in entries:
            name = info.filename.removesuffix(".npy")
            if name == info.filename or name in found or info.flag_bits & 0x1:
                raise DataError(
                    f"the members of an npz file must be distinct, unencrypted .npy arrays, got "
                    f"{info.filename!r}"
                )
            with archive.open(info) as file:
                shape, dtype = _header(file)
                size = file.tell() + prod(shape) * dtype.itemsize
            # NumPy allocates the size in the header before it reads the numbers.
            if not dtype.hasobject and size != info.file_size:
                raise DataError(f"the size of the array {name!r} contradicts its header")
            found[name] = ArrayHeader(shape, dtype)
    return found


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise DataError(
            f"an array must have the npy format 1.0 or 2.0, got {version}: save it with numpy.savez"
        )
    return shape, dtype


def _safetensors(path: Path) -> dict[str, ArrayHeader]:
    try:
        with safe_open(path, framework="numpy") as opened:
            found = {}
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                part = opened.get_slice(name)
                kind = _SAFETENSORS.get(part.get_dtype())
                if kind is None:
                    raise DataError(
                        f"the array {name!r} must hold a dtype of NumPy, it holds "
                        f"{part.get_dtype()}: save it as float32"
                    )
                found[name] = ArrayHeader(tuple(part.get_shape()), np.dtype(kind))
            return found
    except SafetensorError as error:
        raise ValueError(str(error)) from error


_SAFETENSORS = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "u2", "I16": "i2", "U32": "u4", "I32": "i4",
    "U64": "u8", "I64": "i8", "F16": "f2", "F32": "f4", "F64": "f8", "BF16": "V2",
}  # fmt: skip
