"""Files of data as they are uploaded: arrays and tables pass, and everything else is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from drmad_client.files import array_file, data_file, table_file
from drmad_client.files.array_file import DataError

FRAME = pd.DataFrame({"a": [1.5, 2.5], "ø, b": ["x", "y"]})


def test_arrays_and_tables_pass(tmp_path: Path) -> None:
    arrays = {"inputs": np.eye(2), "targets": np.arange(2)}
    np.savez(tmp_path / "npz", **arrays)  # type: ignore[arg-type]
    (tmp_path / "safetensors").write_bytes(array_file.pack(arrays))
    FRAME.to_csv(tmp_path / "csv", index=False)
    FRAME.to_parquet(tmp_path / "parquet")
    for name in ("npz.npz", "safetensors", "csv", "parquet"):
        data_file.check(tmp_path / name)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_header_has_the_delimiter_and_the_names(
    tmp_path: Path, delimiter: str, encoding: str
) -> None:
    FRAME.to_csv(tmp_path / "csv", index=False, sep=delimiter, encoding=encoding)
    assert table_file.header(tmp_path / "csv") == (delimiter, ["a", "ø, b"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no table at all",
        b"a,a\n",
        b"a,\n",
        b"a,\0b\n",
        b"a,\xff\n",
        b"x" * (1 << 22) + b",a\n",
        b",".join(b"%d" % i for i in range(10_001)),
        b"PAR1",
        b"PAR1" + bytes(8) + b"PAR1",
        b"PAR1" + bytes(8) + (1000).to_bytes(4, "little") + b"PAR1",
        bytes(100),
    ],
)
def test_everything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(DataError, match="npz or safetensors file, or a CSV or Parquet file"):
        data_file.check(tmp_path / "data")
