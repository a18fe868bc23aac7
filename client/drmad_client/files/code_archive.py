"""Zip archives of a user's code: reproducible to pack, and safe to unpack."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pathspec import PathSpec

from drmad_client.errors import UsageError
from drmad_client.files import zip_directory
from drmad_client.files.zip_errors import ZIP_ERRORS

IGNORE_FILE = ".drmadignore"
GIT_IGNORE_FILE = ".gitignore"
MAX_BYTES = 50 << 20
"""Maximum size of an archive, in bytes."""
MAX_UNPACKED_BYTES = 500 << 20
"""Maximum size of the files of an archive together, in bytes."""
MAX_FILES = 10_000
"""Maximum number of files in an archive."""

NEVER = (
    ".git/", ".hg/", ".svn/", ".venv/", "venv/", "node_modules/", "__pycache__/", "*.py[cod]",
    ".mypy_cache/", ".pytest_cache/", ".ruff_cache/", ".ipynb_checkpoints/", ".tox/", "*.egg-info/",
    ".DS_Store", ".env", ".env.*", ".netrc", ".pypirc", ".aws/", ".ssh/", ".gnupg/", ".kube/",
    "id_rsa", "id_ecdsa", "id_ed25519", "*.pem", "wandb/", "mlruns/", "*.ckpt", IGNORE_FILE,
)  # fmt: skip
"""What no archive takes unless .drmadignore says otherwise, as patterns of .gitignore."""
_ODD_NAME = re.compile(r"[\\:\x00-\x1f]")  # of a path in an archive
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that the zip format can state
_LISTED = 5  # of the largest files, in a message


class CodeError(UsageError):
    """The folder cannot be packed, or the archive is not safe to unpack."""


@dataclass(frozen=True)
class Archive:
    """A packed folder: the bytes of the zip archive, and the paths of its files."""

    content: bytes
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name by which a job's spec refers to the archive: sha256:<hex digits>."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"

    def sizes(self) -> dict[str, int]:
        """The size of each file before compression, in bytes."""
        with _opened(self.content) as archive:
            return {info.filename: info.file_size for info in archive.infolist()}


def pack(folder: Path, max_bytes: int = MAX_BYTES) -> Archive:
    """Pack the files of a folder. Equal files give equal bytes, at any time and on any machine.

    The archive leaves out version control, virtual environments, caches, secrets (`.env`), what
    trackers and training write (`wandb/`, `mlruns/`, `*.ckpt`), and what `.gitignore` names, in the
    folder and below it. `.drmadignore` has the same syntax and the last word: `!wandb/` packs it
    all the same. `left_out` lists them.

    Args:
        max_bytes: maximum size of the archive.
    Raises:
        CodeError: the folder does not exist, has no files to pack, holds a link to a folder, to
            nothing or to a file outside it, a name that not every system can unpack, or what is no
            file, or exceeds a limit; the message then names the largest files.
    """
    if not folder.is_dir():
        raise CodeError(f"{folder} must be the folder that holds your code, and is not a folder")
    names = {path.relative_to(folder).as_posix(): path for path in code_files(folder)}
    if not names:
        raise CodeError(
            f"{folder} holds no files to pack: add your code to it, or see {IGNORE_FILE}"
        )
    return pack_files(names, f"of {folder}", max_bytes)


def pack_files(
    files: Mapping[str, Path | bytes], origin: str, max_bytes: int = MAX_BYTES
) -> Archive:
    """Pack files by their names in the archive, from the disk or from memory.

    Args:
        origin: what the files are, for the message of an error.
        max_bytes: maximum size of the archive.
    Raises:
        CodeError: the archive exceeds a limit; the message names the largest files.
    """
    packed, sizes = io.BytesIO(), {}
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in sorted(files.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            content = file.read_bytes() if isinstance(file, Path) else file
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
            sizes[name] = len(content)
    if len(packed.getvalue()) > max_bytes or len(sizes) > MAX_FILES:
        raise CodeError(_too_large(origin, sizes, len(packed.getvalue()), max_bytes))
    return Archive(packed.getvalue(), tuple(sizes))


def check(content: bytes, max_unpacked_bytes: int = MAX_UNPACKED_BYTES) -> None:
    """Refuse an archive that could do harm when it is unpacked.

    Args:
        max_unpacked_bytes: maximum size of its files together.
    Raises:
        CodeError: the content is not a zip archive, holds a path outside the folder, the same path
            twice, a link or an encrypted file, or exceeds a limit.
    """
    with _opened(content) as archive:
        _entries(archive, max_unpacked_bytes)


def unpack(content: bytes, folder: Path, max_unpacked_bytes: int = MAX_UNPACKED_BYTES) -> None:
    """Write the files of a checked archive into an existing folder.

    Raises:
        CodeError: as in `check`, or the archive is damaged.
    """
    with _opened(content) as archive:
        for info in _entries(archive, max_unpacked_bytes):
            target = folder / info.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with archive.open(info) as source, target.open("xb") as file:
                    # The directory may understate the size: read no more than it states.
                    file.write(source.read(info.file_size))
            except ZIP_ERRORS as error:
                raise CodeError(f"the archive is damaged at {info.filename!r}: {error}") from error


def code_files(folder: Path) -> Iterator[Path]:
    """The files of a folder that `pack` takes.

    Raises:
        CodeError: as in `pack`, for a link, a name or a file that it refuses.
    """
    for path, is_taken in _entries_of(folder):
        if is_taken:
            _must_be_plain(path, folder)
            yield path


def left_out(folder: Path) -> list[str]:
    """The files and the folders, with a slash, of a folder that `pack` leaves out by a pattern."""
    return sorted(
        path.relative_to(folder).as_posix() + ("/" if path.is_dir() else "")
        for path, is_taken in _entries_of(folder)
        if not is_taken
    )


def _entries_of(folder: Path) -> Iterator[tuple[Path, bool]]:
    """What lies below a folder, and whether it is taken; of what is not, only the folder itself."""
    ignored = PathSpec.from_lines("gitignore", [*NEVER, *_patterns(folder)])
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        relative = here.relative_to(folder)
        kept = []
        for name in folders:
            path = here / name
            if (path / "pyvenv.cfg").exists() or ignored.match_file(
                f"{(relative / name).as_posix()}/"
            ):
                yield path, False
            elif path.is_symlink():
                yield path, True  # and is refused by name
            else:
                kept.append(name)
        folders[:] = kept
        for name in files:
            yield here / name, not ignored.match_file((relative / name).as_posix())


def _patterns(folder: Path) -> Iterator[str]:
    """The lines of the .gitignore of the folder and of those inside, then of its .drmadignore."""
    for file in sorted(folder.rglob(GIT_IGNORE_FILE), key=lambda file: len(file.parts)):
        below = file.parent.relative_to(folder).as_posix()
        for line in _lines(file):
            yield line if below == "." else _moved(line, below)
    yield from _lines(folder / IGNORE_FILE)


def _moved(line: str, below: str) -> str:
    """A pattern of a folder below as one of the folder above."""
    sign, pattern = ("!", line[1:]) if line.startswith("!") else ("", line)
    if not pattern.strip() or pattern.startswith("#"):
        return line
    is_anchored = "/" in pattern.rstrip("/")
    return f"{sign}/{below}/{'' if is_anchored else '**/'}{pattern.lstrip('/')}"


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise CodeError(f"{file} must be readable text in UTF-8: {error}") from error


def _must_be_plain(path: Path, folder: Path) -> None:
    """
    Raises:
        CodeError: names the link, the name or the kind of file that no archive takes.
    """
    advice = f", or name it in {IGNORE_FILE}"
    name = path.relative_to(folder).as_posix()
    shown = ascii(str(path))[1:-1] if not name.isprintable() else str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise CodeError(f"{shown} has a name that is not UTF-8: rename it{advice}") from None
    if _ODD_NAME.search(name):
        raise CodeError(
            f"{shown} has a backslash, a colon or a control character in its name, which not every "
            f"system can unpack: rename it{advice}"
        )
    if path.is_symlink() and not path.exists():
        raise CodeError(f"{shown} is a link to nothing: remove it{advice}")
    if path.is_symlink() and path.is_dir():
        raise CodeError(f"{shown} is a link to a folder: copy the folder to its place{advice}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CodeError(
            f"{shown} is a link to a file outside {folder}: copy the file into the folder{advice}"
        )
    if not path.is_file():
        raise CodeError(f"{shown} is no file, but a socket, a pipe or a device: remove it{advice}")
    if not os.access(path, os.R_OK):
        raise CodeError(f"{shown} cannot be read: change its rights{advice}")


def _too_large(origin: str, sizes: Mapping[str, int], size: int, limit: int) -> str:
    largest = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:_LISTED]
    listed = "".join(f"\n  {sizes[name] / 1e6:8.1f} MB  {name}" for name in largest)
    return (
        f"the archive {origin} must have at most {limit / 1e6:.0f} MB and {MAX_FILES} files, it "
        f"has {size / 1e6:.1f} MB and {len(sizes)} files: name what is not code in {IGNORE_FILE}. "
        f"The largest files are:{listed}"
    )


def _opened(content: bytes) -> zipfile.ZipFile:
    try:
        if (count := zip_directory.most_entries(io.BytesIO(content))) > 2 * MAX_FILES:
            raise CodeError(_too_many(count))
        return zipfile.ZipFile(io.BytesIO(content))
    except ZIP_ERRORS as error:
        raise CodeError(f"the code must be a zip archive: {error}") from error


def _too_many(count: int) -> str:
    return f"the archive must hold at most {MAX_FILES} files, it holds {count}"


def _entries(archive: zipfile.ZipFile, max_unpacked_bytes: int) -> list[zipfile.ZipInfo]:
    entries = [info for info in archive.infolist() if not info.filename.endswith("/")]
    if len(entries) > MAX_FILES:
        raise CodeError(_too_many(len(entries)))
    unpacked = sum(info.file_size for info in entries)
    if unpacked > max_unpacked_bytes:
        raise CodeError(
            f"its files must take at most {max_unpacked_bytes} bytes unpacked, they take {unpacked}"
        )
    seen: set[str] = set()
    for info in entries:
        path = PurePosixPath(info.filename)
        leads_out = path.is_absolute() or ".." in path.parts or not path.parts
        if leads_out or _ODD_NAME.search(info.filename):
            raise CodeError(f"the paths of an archive must lie inside it, got {info.filename!r}")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise CodeError(
                f"the archive must hold only files, {info.filename!r} is a link or a device"
            )
        if info.flag_bits & 0x1:
            raise CodeError(f"the archive must not be encrypted, {info.filename!r} is")
        if str(path) in seen:
            raise CodeError(
                f"the paths of an archive must differ, it holds {info.filename!r} twice"
            )
        seen.add(str(path))
    return entries
