from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from drmad_client.files import code_archive
from drmad_client.files.code_archive import CodeError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "my_problem.py", "package/__init__.py", "package/net.py", "data/big.npz", "notes.txt",
        ".git/config", ".venv/bin/python", "env/pyvenv.cfg", "env/lib/x.py",
        "package/__pycache__/net.cpython-311.pyc", "old.pyc",
    ):  # fmt: skip
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}")
    (tmp_path / "project" / code_archive.IGNORE_FILE).write_text("data/\n*.txt\n")
    return tmp_path / "project"


def test_packs_the_code_and_nothing_beside_it(folder: Path) -> None:
    assert code_archive.pack(folder).files == (
        "my_problem.py",
        "package/__init__.py",
        "package/net.py",
    )


def test_same_files_pack_to_the_same_bytes_whenever_they_were_written(folder: Path) -> None:
    first = code_archive.pack(folder)
    for path in folder.rglob("*.py"):
        path.touch()
        path.chmod(0o755)
    assert code_archive.pack(folder) == first
    (folder / "my_problem.py").write_text("other")
    assert code_archive.pack(folder).name != first.name


def test_unpacks_to_the_same_files(folder: Path, tmp_path: Path) -> None:
    archive = code_archive.pack(folder)
    code_archive.check(archive.content)
    target = tmp_path / "target"
    target.mkdir()
    code_archive.unpack(archive.content, target)
    written = {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()}
    assert written == set(archive.files)
    assert (target / "package/net.py").read_text() == "# package/net.py"


def test_too_large_a_folder_names_its_largest_files(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(bytes(i * i % 251 for i in range(20_000)))
    with pytest.raises(CodeError, match=r"(?s)at most 0 MB.*largest.*weights.bin"):
        code_archive.pack(folder, max_bytes=100)


def test_link_out_of_the_folder_is_refused_with_advice(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("secret")
    (folder / "linked.py").symlink_to(tmp_path / "secret.py")
    with pytest.raises(CodeError, match="link to a file outside"):
        code_archive.pack(folder)


def test_missing_or_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CodeError, match="not a folder"):
        code_archive.pack(tmp_path / "nowhere")
    with pytest.raises(CodeError, match="no files"):
        code_archive.pack(tmp_path)


def zipped(name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no zip at all", "must be a zip"),
        (zipped("../out.py"), "paths of an archive must lie inside"),
        (zipped("/etc/passwd"), "paths of an archive must lie inside"),
        (zipped("a/../../b.py"), "paths of an archive must lie inside"),
        (zipped("C:/windows.py"), "paths of an archive must lie inside"),
        (zipped("back\\slash.py"), "paths of an archive must lie inside"),
        (zipped("link.py", b"/etc/passwd", stat.S_IFLNK | 0o777), "link or a device"),
        (zipped("pipe", b"", stat.S_IFIFO | 0o644), "link or a device"),
        (zipped("bomb.bin", bytes(2_000_000)), "they take 2000000"),
    ],
)
def test_harmful_archive_is_not_opened(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(CodeError, match=words):
        code_archive.check(content, max_unpacked_bytes=1_000_000)
    with pytest.raises(CodeError, match=words):
        code_archive.unpack(content, tmp_path, max_unpacked_bytes=1_000_000)
    assert list(tmp_path.iterdir()) == []


def test_archive_that_misstates_a_size_is_refused_as_damaged(tmp_path: Path) -> None:
    honest = zipped("a.bin", bytes(5000))
    with zipfile.ZipFile(io.BytesIO(honest)) as archive:
        size = archive.infolist()[0].file_size.to_bytes(4, "little")
    lying = honest.replace(size, (100).to_bytes(4, "little"))
    with pytest.raises(CodeError, match="damaged"):
        code_archive.unpack(lying, tmp_path)


def test_archive_with_a_negative_offset_is_refused_as_damaged(tmp_path: Path) -> None:
    content = bytearray(zipped("a.bin", b"a"))
    offset = slice(content.index(b"PK\5\6") + 16, content.index(b"PK\5\6") + 20)
    directory = int.from_bytes(content[offset], "little")
    content[offset] = (directory + 256).to_bytes(4, "little")
    with pytest.raises(CodeError, match="damaged"):
        code_archive.unpack(bytes(content), tmp_path)


def test_same_path_twice_is_refused() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.py", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.py", "2")
    with pytest.raises(CodeError, match="twice"):
        code_archive.check(packed.getvalue())


def test_secrets_what_trackers_write_and_what_git_ignores_stay_at_home(folder: Path) -> None:
    for name, text in {
        ".env": "TOKEN=1",
        ".env.local": "TOKEN=2",
        ".netrc": "password 1",
        "package/id_ed25519": "a key",
        ".aws/credentials": "a key",
        "wandb/run-1/log.txt": "",
        "mlruns/0/meta.yaml": "",
        "last.ckpt": "",
        "package/.gitignore": "*.log\n/top.csv\n!keep.log\n",
        "package/a.log": "",
        "package/keep.log": "",
        "package/top.csv": "",
        "package/deep/b.log": "",
        "package/deep/top.csv": "",
        ".gitignore": "results/\n# a comment\n\nsecret.py\n",
        "results/x.py": "",
        "secret.py": "",
        "package/secret.py": "",
        "kept.ckpt": "",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with (folder / code_archive.IGNORE_FILE).open("a") as file:
        file.write("!kept.ckpt\n")
    assert code_archive.pack(folder).files == (
        ".gitignore",
        "kept.ckpt",
        "my_problem.py",
        "package/.gitignore",
        "package/__init__.py",
        "package/deep/top.csv",
        "package/keep.log",
        "package/net.py",
    )
    left_out = code_archive.left_out(folder)
    expected = {".netrc", ".aws/", "package/id_ed25519"}
    expected |= {".env", ".env.local", ".git/", ".venv/", "env/", "data/", "wandb/", "mlruns/"}
    expected |= {"last.ckpt", "results/", "secret.py", "notes.txt", "old.pyc", "package/a.log"}
    expected |= {"package/__pycache__/", "package/deep/b.log", "package/secret.py"}
    assert set(left_out) == expected | {"package/top.csv", code_archive.IGNORE_FILE}


def _linked_folder(folder: Path) -> None:
    (folder.parent / "shared").mkdir()
    (folder / "odd").symlink_to(folder.parent / "shared")


def _linked_folder_inside(folder: Path) -> None:
    (folder / "odd").symlink_to(folder / "package")


def _broken_link(folder: Path) -> None:
    (folder / "odd").symlink_to(folder / "nowhere")


def _link_to_itself(folder: Path) -> None:
    (folder / "odd").symlink_to(folder / "odd")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "odd")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_linked_folder, "odd is a link to a folder: copy the folder to its place"),
        (_linked_folder_inside, "odd is a link to a folder"),
        (_broken_link, "odd is a link to nothing: remove it"),
        (_link_to_itself, "odd is a link to nothing"),
        (_pipe, "odd is no file, but a socket, a pipe or a device"),
        (lambda folder: (folder / "odd\\x.py").touch(), r"odd\\x.py has a backslash, a colon"),
        (lambda folder: (folder / "odd:x.py").touch(), "odd:x.py has a backslash, a colon"),
        (
            lambda folder: (folder / "odd\nx.py").touch(),
            r"odd\\nx.py has a backslash, a colon or a",
        ),
        (
            lambda folder: open(os.fsencode(folder) + b"/odd\xff.py", "w").close(),
            r"odd\\udcff.py has a name that is not UTF-8: rename it",
        ),
    ],
)
def test_what_no_archive_takes_is_refused_with_its_name_or_left_out_by_it(
    make: Callable[[Path], None], words: str, folder: Path
) -> None:
    make(folder)
    with pytest.raises(CodeError) as refused:
        code_archive.pack(folder)
    assert words.replace("\\\\", "\\") in str(refused.value)
    assert f"or name it in {code_archive.IGNORE_FILE}" in str(refused.value)
    with (folder / code_archive.IGNORE_FILE).open("a") as file:
        file.write("odd*\n")
    assert len(code_archive.pack(folder).files) == 3


def test_names_of_all_languages_and_with_spaces_are_packed(folder: Path) -> None:
    names = {"größe.py", "漢字.py", "with space.py", "-dash.py", "'quote\".py", "a" * 200 + ".py"}
    for name in names:
        (folder / name).touch()
    archive = code_archive.pack(folder)
    assert names < set(archive.files)
    code_archive.check(archive.content)
