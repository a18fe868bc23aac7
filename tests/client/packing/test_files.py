"""A function from a module brings its folder, one from a script its file."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from rich import get_console

from drmad_client.files import code_archive
from drmad_client.files.code_archive import CodeError
from drmad_client.packing.build_function import pack

ImportModule = Callable[..., ModuleType]


@pytest.fixture
def import_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImportModule:
    """Writes files below a folder of a project, and imports one of them by its name."""
    root = tmp_path / "project"
    monkeypatch.syspath_prepend(str(root))

    def imported(name: str, **files: str) -> ModuleType:
        for stem, text in files.items():
            path = root / f"{stem.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for known in [known for known in sys.modules if known.partition(".")[0] in ("stated",)]:
            monkeypatch.delitem(sys.modules, known)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    return imported


def test_a_module_brings_the_folder_that_code_packs(
    import_module: ImportModule, tmp_path: Path
) -> None:
    module = import_module("stated", stated="def build(): pass", beside="x = 1")
    packed = pack(module.build)
    assert packed.entrypoint == "stated:build"
    assert packed.archive == code_archive.pack(tmp_path / "project")
    assert packed.source == "def build(): pass"
    assert "beside.py, 5 bytes" in str(packed)
    assert str(packed) == repr(packed)


def test_a_module_of_a_package_has_the_folder_above_the_package(
    import_module: ImportModule,
) -> None:
    files = {"stated__in____init__": "", "stated__in__nets__in__small": "def build(): pass"}
    packed = pack(import_module("stated.nets.small", **files).build)
    assert packed.entrypoint == "stated.nets.small:build"
    assert packed.archive.files == ("stated/__init__.py", "stated/nets/small.py")


def test_the_function_of_a_package_itself_is_packed(import_module: ImportModule) -> None:
    packed = pack(import_module("stated", stated__in____init__="def build(): pass").build)
    assert packed.entrypoint == "stated:build"
    assert packed.archive.files == ("stated/__init__.py",)


def test_a_wrapped_function_is_packed_by_its_name(import_module: ImportModule) -> None:
    text = "import functools\n@functools.cache\ndef make(): pass\nbuild = make"
    assert pack(import_module("stated", stated=text).build).entrypoint == "stated:make"


def test_a_function_inside_a_function_is_refused(import_module: ImportModule) -> None:
    module = import_module("stated", stated="def outer():\n    def build(): pass\n    return build")
    with pytest.raises(CodeError, match=r"outer\.<locals>\.build must be defined at the top level"):
        pack(module.outer())


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(CodeError, match="got a partial: give the function, and its arguments"):
        pack(functools.partial(print, "x"))


def test_an_installed_package_is_refused() -> None:
    with pytest.raises(CodeError, match=r"get_console belongs to rich, an installed.*problem.requ"):
        pack(get_console)


def test_a_function_without_a_file_is_refused() -> None:
    namespace: dict[str, Callable[[], None]] = {}
    exec("def build(): pass", namespace)
    with pytest.raises(CodeError, match="a module, a script or a notebook"):
        pack(namespace["build"])


SUBMITS = """
import asyncio, sys
import drmad_client, beside_script

def build(): pass

async def main():
    return await asyncio.to_thread(drmad_client.pack, build)
"""


def script(folder: Path, ending: str) -> subprocess.CompletedProcess[str]:
    (folder / "beside_script.py").write_text("")
    (folder / "not_imported.py").write_text("")
    (folder / "my-script.py").write_text(SUBMITS + ending)
    return subprocess.run(
        [sys.executable, str(folder / "my-script.py")], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("call", ["drmad_client.pack(build)", "asyncio.run(main())"])
def test_a_script_brings_its_file_and_the_modules_beside_it(tmp_path: Path, call: str) -> None:
    done = script(tmp_path, f'if __name__ == "__main__":\n    print({call})\n')
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[0].startswith(f"my_script:build from {tmp_path / 'my-script.py'}: 2 files")
    assert [line.partition(",")[0].strip() for line in shown[1:]] == [
        "beside_script.py",
        "my_script.py",
    ]


@pytest.mark.parametrize("call", ["drmad_client.pack(build)", "asyncio.run(main())"])
def test_a_script_that_would_submit_on_the_worker_again_is_refused(
    tmp_path: Path, call: str
) -> None:
    done = script(tmp_path, call)
    assert done.returncode != 0
    assert 'move it below `if __name__ == "__main__":`' in done.stderr
    assert "line 9 of my-script.py submits the job" in done.stderr


def test_a_program_of_a_package_brings_its_folder(tmp_path: Path) -> None:
    package = tmp_path / "project"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "beside.py").write_text("")
    (package / "run.py").write_text(
        "import drmad_client\nfrom . import beside\ndef build(): pass\n"
        'if __name__ == "__main__":\n    print(drmad_client.pack(build))\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "project.run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("project.run:build from ")
    assert "project/beside.py" in done.stdout
