"""Code is unpacked into a folder of the process; nothing in a shared folder is trusted."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drmad_client.files.code_archive import pack
from drmad_workers.code_folder import unpacked
from drmad_workers.errors import ProblemError

PRINTS = """
import sys
from pathlib import Path
from drmad_workers.code_folder import unpacked
folder = unpacked(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]))
print(folder, (folder / "mine.py").read_text(), flush=True)
sys.stdin.read()
if sys.argv[3] == "killed":
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    code = tmp_path / "code"
    code.mkdir()
    (code / "mine.py").write_text("honest")
    (tmp_path / "code.zip").write_bytes(pack(code).content)
    return tmp_path / "code.zip"


def started(archive: Path, temporary: Path, end: str = "ends") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRINTS, str(archive), str(temporary), end]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def printed(process: subprocess.Popen[str]) -> tuple[Path, str]:
    assert process.stdout is not None
    folder, text = process.stdout.readline().split()
    return Path(folder), text


def test_a_planted_folder_is_not_used(archive: Path, tmp_path: Path) -> None:
    """Neither under the digest, nor under what another process of the same archive has."""
    content = archive.read_bytes()
    for base in ("drmad-code", f"drmad-code-{os.geteuid()}"):
        for inner in ("", "code"):
            planted = tmp_path / base / hashlib.sha256(content).hexdigest() / inner
            planted.mkdir(parents=True, exist_ok=True)
            (planted / "mine.py").write_text("planted")
    folder = unpacked(content, tmp_path)
    assert (folder / "mine.py").read_text() == "honest"
    assert [path.name for path in folder.iterdir()] == ["mine.py"]
    for parent in (folder.parent, folder.parent.parent):
        assert parent.stat().st_mode & 0o077 == 0
        assert parent.stat().st_uid == os.geteuid()
    assert unpacked(content, tmp_path) == folder


@pytest.mark.parametrize("kind", ["link", "file", "open"])
def test_a_name_that_somebody_took_is_left_to_them(
    archive: Path, tmp_path: Path, kind: str
) -> None:
    temporary, elsewhere = tmp_path / "temporary", tmp_path / "elsewhere"
    elsewhere.mkdir()
    temporary.mkdir()
    base = temporary / f"drmad-code-{os.geteuid()}"
    match kind:
        case "link":
            base.symlink_to(elsewhere)
        case "file":
            base.write_text("")
        case "open":
            base.mkdir()
            base.chmod(0o777)
    process = started(archive, temporary)
    folder, text = printed(process)
    assert text == "honest"
    assert not list(elsewhere.iterdir())
    assert folder.parent.parent.stat().st_mode & 0o077 == 0
    process.communicate("")


def test_folders_end_with_their_processes_and_not_before(archive: Path, tmp_path: Path) -> None:
    first, killed = started(archive, tmp_path), started(archive, tmp_path, "killed")
    of_first, of_killed = printed(first)[0], printed(killed)[0]
    assert of_first != of_killed
    killed.communicate("")
    assert of_killed.exists()
    second = started(archive, tmp_path)
    of_second = printed(second)[0]
    assert not of_killed.exists()
    assert of_first.exists()
    first.communicate("")
    second.communicate("")
    assert not of_first.exists()
    assert not of_second.exists()


def test_an_archive_that_cannot_be_unpacked_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="must be a zip archive"):
        unpacked(b"not a zip", tmp_path)
    assert not list((tmp_path / f"drmad-code-{os.geteuid()}").iterdir())
