"""Nothing that comes from outside is ever unpickled: by what the modules import and call.

Ray carries the arguments of its own tasks by pickle, between processes of one cluster that trust
each other; what users send reaches it as plain values that were checked before.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import drmad_client
import drmad_service
import drmad_workers

MODULES = sorted(
    path
    for package in (drmad_client, drmad_service, drmad_workers)
    for path in Path(package.__path__[0]).rglob("*.py")
)
BANNED = {
    "pickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "jsonpickle",
}
_UNSAFE_YAML = {"load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}


def unsafe(tree: ast.AST) -> Iterator[str]:
    """What in a module could run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[-1] in BANNED)
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (name for name in names if name in BANNED)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in ("torch.load", "torch.jit.load") and given.get("weights_only") != "True":
                yield called
            if called.endswith((".load", "open_memmap")) and given.get("allow_pickle") == "True":
                yield called
            if called in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
                yield called
            if called in ("eval", "exec", "os.system", "__import__"):
                yield called
            if called.startswith("yaml.") and called.partition(".")[2] in _UNSAFE_YAML:
                yield called
            if called == "yaml.load" and given.get("Loader") not in ("_Loader", "yaml.SafeLoader"):
                yield called
            if given.get("shell") == "True":
                yield called


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "from ray import cloudpickle",
        "import numpy as np\nnp.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_what_is_unsafe_is_found(code: str) -> None:
    assert list(unsafe(ast.parse(code)))


def test_no_module_reads_what_could_run() -> None:
    assert len(MODULES) > 100
    found = {
        path.name: calls
        for path in MODULES
        if (calls := list(unsafe(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert found == {}
