"""A real IPython shell in this process, without its history on the disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from drmad_client.packing.build_function import pack
from drmad_client.packing.packed_problem import PackedProblem

PackCells = Callable[..., PackedProblem]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the shell makes its own
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    quiet = Config()
    quiet.HistoryManager.enabled = False
    quiet.InteractiveShell.colors = "nocolor"
    untyped: Any = InteractiveShell
    made = untyped.instance(config=quiet)
    yield made
    made.restore_sys_module_state()
    untyped.clear_instance()


@pytest.fixture
def pack_cells(shell: Any) -> PackCells:
    """Executes cells, and packs the function of the last one."""

    def packed(*cells: str, name: str = "build") -> PackedProblem:
        for cell in cells:
            shell.run_cell(cell, store_history=True)
        return pack(shell.user_ns[name])

    return packed
