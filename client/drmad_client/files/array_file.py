"""Array files (npz or safetensors) from untrusted users: reading one never runs its contents."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from drmad_client.errors import UsageError
from drmad_client.files import zip_directory
from drmad_client.files.zip_errors import ZIP_ERRORS

MAX_BYTES = 1 << 30
"""Maximum size of an uploaded file, in bytes."""
MAX_UNPACKED_BYTES = 8 << 30
"""Maximum size of all arrays of a file together, in bytes, before compression."""
MAX_ARRAYS = 10_000
"""Maximum number of arrays in a file."""
MAX_HEADER_BYTES = 4 << 20
"""Maximum size of the header of a safetensors file, in bytes."""
MAX_NPY_HEADER_BYTES = 10_000
"""Maximum size of the header of an npy array, in bytes; NumPy has the same limit."""

_QUOTES_OF_AN_ARRAY = 10
"""Quotation marks in a safetensors header for one array: its name, three keys and its dtype."""
_NUMBERS = "biuf"
"""NumPy's codes of the kinds bool, int, unsigned int and float."""
_BFLOAT16: np.dtype[Any] = np.dtype("V2")
"""Stands for bfloat16, of which NumPy has no dtype."""


class DataError(UsageError):
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
    with path.open("rb") as file:
        if (count := zip_directory.most_entries(file)) > MAX_ARRAYS:
            raise DataError(_too_many(count))
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        for info in entries:
            name = info.filename.removesuffix(".npy")
            if name == info.filename or name in found or info.flag_bits & 0x1:
                raise DataError(
                    f"the members of an npz file must be distinct, unencrypted .npy arrays, got "
                    f"{info.filename!r}"
                )
            with archive.open(info) as member:
                shape, dtype = _header(member)
                size = member.tell() + prod(shape) * dtype.itemsize
            # NumPy allocates the size in the header before it reads the numbers.
            if not dtype.hasobject and size != info.file_size:
                raise DataError(f"the size of the array {name!r} contradicts its header")
            found[name] = ArrayHeader(shape, dtype)
    return found


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """NumPy reads a header of any size before it refuses it, so the size comes first."""
    version = np.lib.format.read_magic(file)
    if version not in _NPY_FORMATS:
        raise DataError(
            f"an array must have the npy format 1.0 or 2.0, got {version}: save it with numpy.savez"
        )
    size_of_length, read = _NPY_FORMATS[version]
    length = file.read(size_of_length)
    size = int.from_bytes(length, "little")
    if size > MAX_NPY_HEADER_BYTES:
        raise DataError(
            f"the header of an array must take at most {MAX_NPY_HEADER_BYTES} bytes, it takes "
            f"{size}: save it with numpy.savez"
        )
    shape, _, dtype = read(io.BytesIO(length + file.read(size)))
    return shape, dtype


_NPY_FORMATS: dict[tuple[int, int], tuple[int, Any]] = {
    (1, 0): (2, np.lib.format.read_array_header_1_0),
    (2, 0): (4, np.lib.format.read_array_header_2_0),
}
"""By version: the size of the length of the header in bytes, and NumPy's function that reads it."""


def _must_be_small(path: Path) -> None:
    """The parser of safetensors allocates about 1 KB an array before it can be asked how many."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            return  # the parser refuses the file without reading on
        if size > MAX_HEADER_BYTES:
            raise DataError(
                f"the header of a safetensors file must take at most {MAX_HEADER_BYTES} bytes, it "
                f"takes {size}"
            )
        arrays = file.read(size).count(b'"') // _QUOTES_OF_AN_ARRAY
    if arrays > 2 * MAX_ARRAYS:
        raise DataError(_too_many(arrays))


def _safetensors(path: Path) -> dict[str, ArrayHeader]:
    _must_be_small(path)
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
