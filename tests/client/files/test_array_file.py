"""Files of arrays: read as they were written, and refused where they could do harm."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from drmad_client.files import array_file
from drmad_client.files.array_file import DataError

ARRAYS: dict[str, Any] = {
    "inputs": np.arange(12, dtype=np.float32).reshape(6, 2),
    "targets": np.array([0, 1, 2, 0, 1, 2]),
}


def written(path: Path, kind: str) -> Path:
    match kind:
        case "npz":
            np.savez(path, **ARRAYS)
            return path.with_suffix(".npz")
        case "compressed":
            np.savez_compressed(path, **ARRAYS)
            return path.with_suffix(".npz")
        case "safetensors":
            save_file(ARRAYS, path)
        case "packed":
            path.write_bytes(array_file.pack(ARRAYS))
    return path


@pytest.mark.parametrize("kind", ["npz", "compressed", "safetensors", "packed"])
def test_arrays_come_back_as_they_were_written(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "data", kind)
    found = array_file.check(path)
    assert {name: array.shape for name, array in found.items()} == {
        "inputs": (6, 2),
        "targets": (6,),
    }
    read = array_file.load(path)
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype == found[name].dtype
        np.testing.assert_array_equal(read[name], array)


def test_the_same_arrays_pack_to_the_same_bytes() -> None:
    turned = {name: ARRAYS[name].copy(order="F") for name in reversed(ARRAYS)}
    assert array_file.pack(ARRAYS) == array_file.pack(turned)
    with pytest.raises(DataError, match="must hold numbers"):
        array_file.pack({"inputs": np.array(["a"])})


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("pickle-was-run"),))


def npz_of(path: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def npy(header: dict[str, Any], content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + content


def harmful(path: Path, kind: str) -> Path:
    huge = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    match kind:
        case "pickle":
            np.savez(path, inputs=np.array([Evil()], dtype=object))
            return path.with_suffix(".npz")
        case "text":
            return npz_of(path, ("a.npy", npy(huge | {"descr": "<U1", "shape": (1,)}, b"abcd")))
        case "lying header":
            return npz_of(path, ("a.npy", npy(huge, b"few")))
        case "huge negative":
            return npz_of(path, ("a.npy", npy(huge | {"shape": (-1, 4)}, b"")))
        case "bomb":
            return npz_of(path, ("a.npy", npy(huge | {"shape": (1 << 20,)}, bytes(4 << 20))))
        case "twice":
            one = npy(huge | {"shape": (1,)}, bytes(4))
            with pytest.warns(UserWarning, match="Duplicate name"):
                return npz_of(path, ("a.npy", one), ("a.npy", one))
        case "no array":
            return npz_of(path, ("run.py", b"print()"))
        case "empty":
            return npz_of(path)
        case "lying safetensors":
            header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}'
            path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        case "cut":
            path.write_bytes(written(path.with_name("whole"), "npz").read_bytes()[:-30])
        case "nothing":
            path.write_bytes(b"")
        case "eight bits":
            path.write_bytes(safetensors_of("F8_E4M3", 4))
    return path


def safetensors_of(dtype: str, count: int) -> bytes:
    """A file with one array `a` of `count` numbers in four bytes."""
    fields = f'{{"a":{{"dtype":"{dtype}","shape":[{count}],"data_offsets":[0,4]}}}}'.encode()
    return len(fields).to_bytes(8, "little") + fields + bytes(4)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pickle", "must hold numbers, it holds"),
        ("text", "must hold numbers, it holds"),
        ("lying header", "contradicts its header"),
        ("huge negative", "contradicts its header"),
        ("bomb", "at most 1000000 bytes, they take 4194304"),
        ("twice", "must be distinct"),
        ("no array", "must be distinct, .* got 'run.py'"),
        ("empty", "holds no arrays"),
        ("lying safetensors", "expected a complete npz or safetensors file"),
        ("cut", "expected a complete npz or safetensors file"),
        ("nothing", "expected a complete npz or safetensors file"),
        ("eight bits", "F8_E4M3"),
    ],
)
def test_what_could_do_harm_is_refused_before_it_is_read(
    tmp_path: Path, kind: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = harmful(tmp_path / "data", kind)
    for open_ in (array_file.check, array_file.load):
        with pytest.raises(DataError, match=words):
            open_(path, max_bytes=1_000_000)
    assert not Path("pickle-was-run").exists()


def test_weights_in_bfloat16_may_be_uploaded_but_are_no_arrays(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(safetensors_of("BF16", 2))
    assert array_file.check(path)["a"].shape == (2,)
    with pytest.raises(DataError, match="save it as float32"):
        array_file.load(path)
    with pytest.raises(DataError, match="at most 3 bytes, they take 4"):
        array_file.check(path, max_bytes=3)
