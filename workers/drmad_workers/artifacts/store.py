"""The artifact store: files by key at a URL, read and written in pieces.

The keys, relative to the URL:

    jobs/<job id>/<part>/<sha256>   a large result of a job; `part` is one of the constants below
    <sha256>                        an uploaded file: data, weights, an archive of code
    jobs/incoming/<random>          a file that is being written to a folder

A file appears completely or not at all. The store keeps no index: Redis has the references.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit, urlunsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from drmad_workers.artifacts.artifact import (
    Artifact,
    ArtifactDamaged,
    ArtifactLost,
    ArtifactsDenied,
    ArtifactStoreFails,
)

MODELS, VECTORS, TRAINING, RETRAINED = "models", "vectors", "training", "retrained"
PARTS = (MODELS, VECTORS, TRAINING, RETRAINED)
INCOMING = "jobs/incoming"
_PIECE_BYTES = 1 << 20
_NEW_S = 1800.0
"""Age up to which an artifact is not written again, in seconds; half of the grace of a deletion."""
_PACKAGES = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}
"""The extra of drmad that installs the package of a protocol."""
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")


def job_folder(job_id: str, part: str = "") -> str:
    """The key below which a job, or one part of it, has its artifacts."""
    return f"jobs/{job_id}/{part}" if part else f"jobs/{job_id}"


@dataclass(frozen=True)
class ArtifactLocation:
    """Where artifacts are kept.

    Attributes:
        url: that of a folder (file:///path, or a path), or s3://bucket/prefix, gs://, az://.
        options: what fsspec's file system of the URL takes, for instance credentials. Without them
            it finds its own: variables, a file in the home, or the identity of the machine.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def shown(self) -> str:
        """The URL without a password."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    def open(self) -> ArtifactStore:
        return ArtifactStore(self)


@dataclass(frozen=True)
class Entry:
    """A file of the store. `modified` is in seconds since the epoch."""

    key: str
    size: int
    modified: float


class ArtifactStore:
    """Reads and writes files at one location. Its methods block; any thread may call them."""

    def __init__(self, location: ArtifactLocation) -> None:
        """
        Raises:
            ArtifactStoreFails: the URL has an unknown protocol, or its package is missing.
        """
        self.location = location
        options = dict(location.options)
        protocol = location.url.partition("://")[0] if "://" in location.url else "file"
        if protocol not in ("file", "memory"):
            # Other processes write to it: what was listed or missing a moment ago may be there.
            options["use_listings_cache"] = False
        try:
            self._fs, root = fsspec.core.url_to_fs(location.url, **options)
        except ImportError as error:
            extra = _PACKAGES.get(protocol)
            remedy = f'pip install "drmad[{extra}]"' if extra else str(error)
            raise ArtifactStoreFails(
                f"{location.shown} needs a package that is not installed: {remedy}"
            ) from error
        except Exception as error:
            raise ArtifactStoreFails(
                f"expected the URL of a folder, s3://, gs:// or az://, got {location.shown}: "
                f"{error}"
            ) from error
        self._root = root.rstrip("/")
        self.folder = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None
        """The folder, if the store is one: its files may be read where they lie."""

    def keep(self, file: Path, below: str) -> Artifact:
        """Store a file below a key, named by its digest; the file itself may be moved away.

        Raises:
            ArtifactStoreFails
        """
        with file.open("rb") as opened:
            artifact = Artifact(hashlib.file_digest(opened, "sha256").hexdigest(), _size(file))
        key = f"{below}/{artifact.sha256}"
        if not self._has_new(key, artifact.size):
            self.put(file, key)
        return artifact

    def put(self, file: Path, key: str) -> None:
        """Store a file under a key; a file of a folder's `scratch` is moved, another one copied.

        Raises:
            ArtifactStoreFails
        """
        size = _size(file)
        try:
            with self._translated(key):
                if self.folder is None:
                    self._fs.put_file(str(file), self._path(key))
                else:
                    self._put_in_folder(file, self.folder / key)
        except ArtifactLost as error:
            raise ArtifactStoreFails(
                f"{self.location.shown} does not exist: create the bucket, or correct the URL"
            ) from error
        if (found := self._size_or_none(key)) != size:
            raise ArtifactStoreFails(
                f"{self.location.shown} has {found} of the {size} bytes written to {key}"
            )

    def size(self, key: str) -> int:
        """
        Raises:
            ArtifactLost, ArtifactStoreFails
        """
        with self._translated(key):
            return int(self._fs.size(self._path(key)))

    def holds(self, key: str) -> bool:
        return self._size_or_none(key) is not None

    @contextlib.contextmanager
    def reader(self, key: str) -> Iterator[Reader]:
        """Reads ranges of a file. That of a folder stays readable while it is deleted.

        Raises:
            ArtifactLost, ArtifactStoreFails
        """
        with contextlib.ExitStack() as opened:
            with self._translated(key):
                if self.folder is not None:
                    file = opened.enter_context((self.folder / key).open("rb"))
                    reader = Reader(self, key, _size(self.folder / key), file)
                else:
                    reader = Reader(self, key, int(self._fs.size(self._path(key))), None)
            yield reader

    def read(self, key: str, artifact: Artifact) -> bytes:
        """The whole of an artifact, compared with its digest; for those that fit the memory.

        Raises:
            ArtifactLost, ArtifactDamaged, ArtifactStoreFails
        """
        with self.reader(key) as reader:
            content = reader.read(0, artifact.size + 1)
        if hashlib.sha256(content).hexdigest() != artifact.sha256:
            raise _damaged(key)
        return content

    def verify(self, key: str, artifact: Artifact) -> None:
        """Read an artifact in pieces, and compare it with its digest.

        Raises:
            ArtifactLost, ArtifactDamaged, ArtifactStoreFails
        """
        digest, start = hashlib.sha256(), 0
        with self.reader(key) as reader:
            while piece := reader.read(start, _PIECE_BYTES):
                digest.update(piece)
                start += len(piece)
        if (digest.hexdigest(), start) != (artifact.sha256, artifact.size):
            raise _damaged(key)

    def fetch(self, key: str, sha256: str, target: Path) -> None:
        """Copy an artifact to a file, in pieces, and compare it with its digest.

        Raises:
            ArtifactLost, ArtifactDamaged, ArtifactStoreFails
        """
        digest, start = hashlib.sha256(), 0
        with self.reader(key) as reader, target.open("wb") as file:
            while piece := reader.read(start, _PIECE_BYTES):
                digest.update(piece)
                file.write(piece)
                start += len(piece)
        if digest.hexdigest() != sha256:
            target.unlink()
            raise _damaged(key)

    def copy(self, source: str, target: str) -> None:
        """
        Raises:
            ArtifactLost, ArtifactStoreFails
        """
        with self._translated(source):
            if self.folder is None:
                self._fs.cp_file(self._path(source), self._path(target))
            else:
                self._put_in_folder(self.folder / source, self.folder / target)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files; those that are gone already are no error.

        Raises:
            ArtifactStoreFails
        """
        for key in keys:
            with contextlib.suppress(ArtifactLost), self._translated(key):
                self._fs.rm_file(self._path(key))

    def remove_below(self, key: str) -> None:
        """Remove a key and everything below it.

        Raises:
            ArtifactStoreFails
        """
        with contextlib.suppress(ArtifactLost), self._translated(key):
            self._fs.rm(self._path(key), recursive=True)

    def entries(self, below: str = "") -> list[Entry]:
        """The files below a key.

        Raises:
            ArtifactStoreFails
        """
        root = self._path(below) if below else self._root
        with self._translated(below or "its root"):
            found: dict[str, dict[str, Any]] = self._fs.find(root, detail=True)
        return [
            Entry(name.removeprefix(self._root).lstrip("/"), info["size"] or 0, _modified(info))
            for name, info in found.items()
        ]

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new file to write to: of a folder within it, so that `put` moves it.

        Raises:
            ArtifactStoreFails
        """
        place = None
        with self._translated(INCOMING):
            if self.folder is not None:
                place = self.folder / INCOMING
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                place.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=place, prefix="drmad-")
            os.close(descriptor)
        path = Path(name)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def try_out(self) -> None:
        """Write a file, find it, read it back and remove it.

        Raises:
            ArtifactError: why the store cannot be used.
        """
        content = secrets.token_bytes(64)
        below = f"{INCOMING}/trial-{secrets.token_hex(8)}"
        with self.scratch() as file:
            file.write_bytes(content)
            artifact = self.keep(file, below)
        key = f"{below}/{artifact.sha256}"
        try:
            self.read(key, artifact)
            if [entry.size for entry in self.entries(below)] != [artifact.size]:
                raise ArtifactStoreFails(f"{self.location.shown} does not list what it has")
        finally:
            self.remove_below(below)

    def _put_in_folder(self, file: Path, target: Path) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.parent == self.folder / INCOMING:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
            file.chmod(0o640)
            file.replace(target)
            return
        with self.scratch() as copied:
            self._fs.cp_file(str(file), str(copied))
            self._put_in_folder(copied, target)

    def _has_new(self, key: str, size: int) -> bool:
        """Whether the store has a file that no deletion by age takes for the next half hour."""
        try:
            with self._translated(key):
                info = self._fs.info(self._path(key))
        except ArtifactLost:
            return False
        return info["size"] == size and time.time() - _modified(info) < _NEW_S

    def _size_or_none(self, key: str) -> int | None:
        try:
            return self.size(key)
        except ArtifactLost:
            return None

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """The errors of every file system, as those of this module."""
        try:
            yield
        except (ArtifactLost, ArtifactDamaged, ArtifactStoreFails, GeneratorExit):
            raise
        except FileNotFoundError as error:
            raise ArtifactLost(f"{key} is not in the artifact store {self.location.shown}") from (
                error
            )
        except Exception as error:
            denied = isinstance(error, PermissionError) or (
                isinstance(error, OSError) and error.errno == errno.EROFS
            )
            raise (ArtifactsDenied if denied else ArtifactStoreFails)(
                f"the artifact store {self.location.shown} fails at {key} "
                f"({type(error).__name__}: {error})"
            ) from error


class Reader:
    """Reads ranges of one file of a store, which has `size` bytes."""

    def __init__(self, store: ArtifactStore, key: str, size: int, file: BinaryIO | None) -> None:
        self.size = size
        self._store, self._key, self._file = store, key, file

    def read(self, start: int, most: int) -> bytes:
        """Up to `most` bytes from a place on; none beyond the end.

        Raises:
            ArtifactLost, ArtifactStoreFails
        """
        end = min(start + most, self.size)
        if start >= end:
            return b""
        with self._store._translated(self._key):
            if self._file is None:
                path = self._store._path(self._key)
                content: bytes = self._store._fs.cat_file(path, start=start, end=end)
                return content
            self._file.seek(start)
            return self._file.read(end - start)


def _size(file: Path) -> int:
    return file.stat().st_size


def _modified(info: Mapping[str, Any]) -> float:
    """When a file was written; a store that does not say so never loses it to a deletion by age."""
    for name in _TIMES:
        found = info.get(name)
        if isinstance(found, datetime):
            return found.timestamp()
        if isinstance(found, int | float):
            return float(found)
        if isinstance(found, str):
            return datetime.fromisoformat(found).timestamp()
    return time.time()


def _damaged(key: str) -> ArtifactDamaged:
    return ArtifactDamaged(f"{key} of the artifact store is damaged: its digest differs")
