"""What a function in a notebook needs is packed from the cells, or refused by its name."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from drmad_client.files import code_archive
from drmad_client.files.code_archive import CodeError
from drmad_client.packing.build_function import pack
from drmad_client.packing.packed_problem import PackedProblem
from tests.client.packing.conftest import PackCells


def built(packed: PackedProblem, folder: Path, **options: Any) -> Any:
    """What the packed function returns where nothing of the notebook exists, as on a worker."""
    place = folder / packed.archive.name.removeprefix("sha256:")[:8]
    place.mkdir(exist_ok=True)
    code_archive.unpack(packed.archive.content, place)
    name, _, function = packed.entrypoint.partition(":")
    spec = importlib.util.spec_from_file_location(name, place / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {name: module}):
        spec.loader.exec_module(module)
        return getattr(module, function)(**options)


def test_what_build_uses_is_packed_and_nothing_else(pack_cells: PackCells, tmp_path: Path) -> None:
    packed = pack_cells(
        "import math, json\nimport os.path\nWIDTH = 8\nunused = object()",
        "def area(side):\n    # the comment stays\n    return math.floor(side) ** 2",
        "print('an effect of the notebook')",
        "def build(factor=1):\n    return factor * area(WIDTH)",
    )
    assert packed.archive.files == ("notebook_cells.py",)
    assert packed.entrypoint == "notebook_cells:build"
    assert "# the comment stays" in packed.source
    for absent in ("unused", "print", "json", "os"):
        assert absent not in packed.source
    assert built(packed, tmp_path, factor=2) == 128
    assert str(packed).splitlines()[1:] == [
        "  import math",
        "  build, In [4]",
        "  WIDTH = 8, by value",
        "  area, In [2]",
        "  notebook_cells.py, 194 bytes",
    ]


PROGRAMS = {
    "a base class in a cell below": [
        "def build(): return Net().width()",
        "class Base:\n    def width(self): return 3",
        "class Net(Base):\n    pass",
    ],
    "a decorator and functools": [
        "import functools\ndef twice(f):\n    @functools.wraps(f)\n    def g():\n"
        "        return 2 * f()\n    return g",
        "@twice\ndef half():\n    return 1.5",
        "def build(): return half()",
    ],
    "a closure made by a call": [
        "STEP = 2\ndef adder(n):\n    def add(x): return x + n + OFFSET\n    return add",
        "OFFSET = 0\nadd = adder(STEP)",
        "def build(): return add(1)",
    ],
    "a lambda and a partial": [
        "from functools import partial\nthree = lambda x=1: x + 2",
        "pow3 = partial(pow, 3)",
        "def build(): return three() * pow3(0)",
    ],
    "nested functions and comprehensions": [
        "ONES = (1, 1, 1)\ndef one(): return 1",
        "def build():\n    def inner(): return sum(x * one() for x in ONES)\n    return inner()",
    ],
    "functions that call each other": [
        "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n > 0 and even(n - 1)",
        "def build(): return 3 if even(4) else 0",
    ],
    "a class whose method makes a class that has it as a base": [
        "class A:\n    def other(self): return B()\n    three = 3",
        "class B(A): pass",
        "def build(): return A().other().three",
    ],
    "the latest definition": [
        "def f(): return 1",
        "def build(): return f()",
        "def f(): return 3",
    ],
    "the state of a constant": [
        "SIZES = [1]\nN = 1",
        "SIZES.append(2)\nN += 2",
        "def build(): return N if SIZES == [1, 2] else 0",
    ],
    "a name that is bound to itself": [
        "from functools import partial\ndef f(x, y): return x * y",
        "f = partial(f, 3)",
        "def build(): return f(1)",
    ],
    "a class that replaces its base": [
        "class Net:\n    x = 1",
        "class Net(Net):\n    y = 2",
        "def build(): return Net.x + Net.y",
    ],
    "names from an import of everything": [
        "from math import *",
        "def build(): return floor(pi)",
    ],
    "dotted imports": [
        "import xml.dom\nimport xml.etree.ElementTree as ET\nimport os.path",
        "def build(): return 3 if ET.__name__ and xml.dom.Node and os.path.sep else 0",
    ],
    "an import with a fallback": [
        "try:\n    import no_such_module as fast\nexcept ImportError:\n    fast = None",
        "if fast is None:\n    def f():\n        return 3\nelse:\n    f = fast.f",
        "def build(): return f()",
    ],
    "the same import from two modules": [
        "try:\n    from math import floor\nexcept ImportError:\n    from no_such import floor",
        "import json\ntry:\n    import json.no_such\nexcept ImportError:\n    pass",
        "def build(): return floor(json.loads('3.5'))",
    ],
    "strings in an indented definition": [
        'if True:\n    def text():\n        return """\n    3\n    """',
        "def build(): return int(text()) if text().count(' ') == 8 else 0",
    ],
    "definitions that are executed again": [
        "N = 3\nclass Base: pass",
        "class Net(Base):\n    def f(self, n=N): return n",
        "N = 3\nclass Base: pass",
        "def build(): return Net().f()",
    ],
    "a function whose name begins with an underscore": [
        "def _three(): return 3\nbuild = _three",
    ],
    "magics": [
        "%pwd\n!true\nfiles = !ls\nN = 3",
        "%%time\ndef f():\n    return N",
        "%%capture\ndef build():\n    return f()",
    ],
    "annotations of the future": [
        "from __future__ import annotations",
        "class Net:\n    def copy(self) -> Net: return self",
        "class Net:\n    def copy(self) -> Net: return self",
        "def build() -> Undefined: return 3 if Net().copy() else 0",
    ],
    "types that only annotations of the future name": [
        "from __future__ import annotations\nfrom typing import Optional, get_type_hints",
        "class Part: pass\nclass Whole:\n    part: Optional[Part] = None",
        "def build(): return 3 if get_type_hints(Whole) else 0",
    ],
    "an attribute of a module, an enum and a dataclass": [
        "import enum, math, dataclasses\nclass Mode(enum.Enum):\n    FAST = 3\nMODE = Mode.FAST",
        "@dataclasses.dataclass\nclass Config:\n    mode: Mode = MODE\ninfinite = float('-inf')",
        "floor = math.floor\ndef build(): return floor(Config().mode.value) if infinite < 0 else 0",
    ],
    "a cell that failed before it reached its definition": [
        "def f(): return 3",
        "1 / 0\ndef f(): return 4",
        "def build(): return f()",
    ],
    "a global that a function assigns": [
        "def remember():\n    global kept\n    kept = 3",
        "def build():\n    remember()\n    return kept",
    ],
    "a named tuple and a generic alias": [
        "from collections import namedtuple\nPair = namedtuple('Pair', 'x y')\nPairs = list[Pair]",
        "def first(pairs: Pairs): return pairs[0].x\ndef build(): return first([Pair(3, 4)])",
    ],
    "a lambda as the function that builds": ["build = lambda: 3"],
}


@pytest.mark.parametrize("cells", PROGRAMS.values(), ids=PROGRAMS)
def test_packed_cells_build_what_the_notebook_builds(
    pack_cells: PackCells, shell: Any, tmp_path: Path, cells: list[str]
) -> None:
    packed = pack_cells(*cells)
    assert built(packed, tmp_path) == 3
    assert shell.user_ns["build"]() == 3


REFUSED = {
    "an array": (
        ["import numpy\nTABLE = numpy.zeros(3)", "def build(): return TABLE"],
        r"build uses TABLE, a numpy.ndarray, .*inside build, .*problem.options.*data.upload",
    ),
    "an object of one's own": (
        ["class Net: pass\nnet = Net()", "def use(): return net\ndef build(): return use()"],
        r"use uses net, a __main__.Net",
    ),
    "an array in a list": (
        ["import numpy\nTABLES = [numpy.zeros(3)]", "def build(): return TABLES"],
        r"build uses TABLES, a list",
    ),
    "a long constant": (["LONG = [0] * 10_000", "def build(): return LONG"], r"build uses LONG"),
    "the variable of a loop": (
        ["for path in [object()]: pass", "def build(): return path"],
        r"build uses path, a object",
    ),
    "a file that has the name of a function": (
        ["def f(): return 1", "import io\nwith io.StringIO() as f: pass", "def build(): return f"],
        r"build uses f, a _io.StringIO",
    ),
    "a name of a function that a walrus takes": (
        ["def f(): return 1", "print(f := object())", "def build(): return f"],
        r"build uses f, a object",
    ),
    "an array in the default of an argument": (
        ["import numpy\nX = numpy.ones(2)\ndef build(x=X): return x"],
        r"build uses X, a numpy.ndarray",
    ),
    "an array that a partial holds": (
        ["import numpy, functools\nX = numpy.ones(2)\nf = functools.partial(max, X)",
         "def build(): return f()"],
        r"f uses X, a numpy.ndarray",
    ),
    "a name that nothing defines": (
        ["def build(): return forgotten"],
        r"build uses forgotten, which is not defined: run the cell",
    ),
    "the notebook itself": (
        ["def build():\n    %time 1\n    return In"], r"In, a list|get_ipython"
    ),
    "a function that exec made": (
        ["exec('def f(): pass')", "def build(): return f()"],
        r"build uses f, and no cell of the notebook defines it",
    ),
    "a default from an earlier value": (
        ["N = 3", "def build(n=N): return n", "N = 4"],
        r"In \[3\] binds N again, after build was defined with it: run In \[2\] again",
    ),
    "a base class that was replaced": (
        ["class Base: x = 1", "class Net(Base): pass", "class Base: x = 2",
         "def build(): return Net()"],
        r"In \[3\] binds Base again, after Net was defined with it: run In \[2\] again",
    ),
    "a result that was awaited": (
        ["async def make(): return max", "f = await make()", "def build(): return f(1, 2)"],
        r"f must be defined by a statement that a module can have",
    ),
    "a method that is replaced": (
        ["class Net: pass", "Net.width = lambda self: 3", "def build(): return Net().width()"],
        r"In \[2\] changes Net after its definition.*Net.width",
    ),
    "a function that is registered": (
        ["import functools\n@functools.singledispatch\ndef f(x): return 1",
         "@f.register(int)\ndef _(x): return 3", "def build(): return f(1)"],
        r"In \[2\] changes f after its definition",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("cells", "message"), REFUSED.values(), ids=REFUSED)
def test_a_value_without_source_is_refused_by_name(
    pack_cells: PackCells, cells: list[str], message: str
) -> None:
    with pytest.raises(CodeError, match=f"(?s){message}"):
        pack_cells(*cells)


def test_modules_beside_the_notebook_are_packed_as_files(
    pack_cells: PackCells, tmp_path: Path
) -> None:
    (tmp_path / "helpers_of_one.py").write_text("import nets_of_one.small\nthree = 3")
    (tmp_path / "nets_of_one").mkdir()
    for name in ("__init__", "small", "large"):
        (tmp_path / "nets_of_one" / f"{name}.py").write_text("")
    (tmp_path / "not_imported.py").write_text("")
    packed = pack_cells(
        "import numpy\nfrom helpers_of_one import three",
        "def build():\n    import json\n    return three",
    )
    assert packed.archive.files == (
        "helpers_of_one.py",
        "nets_of_one/__init__.py",
        "nets_of_one/large.py",
        "nets_of_one/small.py",
        "notebook_cells.py",
    )
    assert "three = 3" not in packed.source
    assert "nets_of_one/small.py, 0 bytes" in str(packed)


def test_running_a_cell_again_packs_the_same_bytes(pack_cells: PackCells) -> None:
    cells = "N = 3\ndef f(): return N", "def build(): return f()"
    assert pack_cells(*cells).archive == pack_cells(*cells).archive


def test_statements_that_act_on_imported_modules_are_listed_as_left_out(
    pack_cells: PackCells,
) -> None:
    packed = pack_cells(
        "import decimal\nimport random\nrandom.seed(0)\ndecimal.getcontext().prec = 4",
        "decimal.setcontext(decimal.getcontext())\ndecimal.MAX = 3",
        "import functools\n@functools.cache\ndef three(): return decimal.Decimal(3)",
        "def build(): return three()",
    )
    assert [line.partition("] ")[2] for line in packed.left_out] == [
        "decimal.setcontext(decimal.getcontext())",
        "decimal.MAX = 3",
    ]
    assert "not packed: In [2] decimal.MAX = 3" in str(packed)


def test_a_function_that_needs_arguments_is_given_them_by_the_options(
    pack_cells: PackCells, shell: Any
) -> None:
    pack_cells("from functools import partial\ndef build(n): return n")
    shell.run_cell("narrow = partial(build, 3)", store_history=True)
    with pytest.raises(CodeError, match=r"got a partial: give the function, and its arguments"):
        pack(shell.user_ns["narrow"])


def test_packing_loads_neither_torch_nor_the_engine(pack_cells: PackCells) -> None:
    loaded = {*sys.modules}
    packed = pack_cells("def build():\n    import torch\n    import drmad_workers")
    heavy = re.compile(r"(torch|drmad_workers|sklearn)\b")
    assert not [name for name in {*sys.modules} - loaded if heavy.match(name)]
    assert packed.archive.files == ("notebook_cells.py",)
