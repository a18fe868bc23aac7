"""The artifacts of jobs in a backup: written from the store in pieces, and restored into it."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Iterator, Set

from drmad_client.errors import DrmadError
from drmad_client.files.zip_errors import ZIP_ERRORS
from drmad_workers.artifacts.artifact import Artifact, ArtifactError, ArtifactLost
from drmad_workers.artifacts.store import ArtifactStore, Reader, job_folder

_PIECE_BYTES = 1 << 20


class ArtifactsChanged(Exception):
    """A job has committed meanwhile: what its snapshot names is no longer there."""


class ArtifactNotRestored(DrmadError):
    """An artifact of a backup is damaged, or the store does not take it."""


@contextlib.contextmanager
def opened(store: ArtifactStore, job_id: str, named: Set[Artifact]) -> Iterator[dict[str, Reader]]:
    """Readers of what a snapshot names, by "<part>/<sha256>"; those of a folder stay readable.

    Raises:
        ArtifactsChanged: one of them is gone.
        ArtifactStoreFails
    """
    wanted = {artifact.sha256 for artifact in named}
    folder = job_folder(job_id)
    with contextlib.ExitStack() as readers:
        found: dict[str, Reader] = {}
        for entry in store.entries(folder) if named else []:
            name = entry.key.removeprefix(f"{folder}/")
            if name.partition("/")[2] in wanted:
                try:
                    found[name] = readers.enter_context(store.reader(entry.key))
                except ArtifactLost as lost:
                    raise ArtifactsChanged from lost
        if wanted - {name.partition("/")[2] for name in found}:
            raise ArtifactsChanged
        yield found


def write(archive: zipfile.ZipFile, job_id: str, name: str, reader: Reader) -> None:
    """Write one artifact to the file jobs/<id>/artifacts/<part>/<sha256>."""
    info = zipfile.ZipInfo(f"jobs/{job_id}/artifacts/{name}", (1980, 1, 1, 0, 0, 0))
    with archive.open(info, "w", force_zip64=True) as file:
        start = 0
        while piece := reader.read(start, _PIECE_BYTES):
            file.write(piece)
            start += len(piece)


def restore(archive: zipfile.ZipFile, name: str, store: ArtifactStore) -> None:
    """Put the artifact in jobs/<id>/artifacts/<part>/<sha256> into the store.

    Raises:
        ArtifactNotRestored
    """
    _, job_id, _, part, sha256 = name.split("/")
    digest = hashlib.sha256()
    try:
        with store.scratch() as draft:
            with archive.open(name) as packed, draft.open("wb") as file:
                while piece := packed.read(_PIECE_BYTES):
                    digest.update(piece)
                    file.write(piece)
            if digest.hexdigest() != sha256:
                raise ArtifactNotRestored(f"{name} is damaged: its content has another digest")
            store.keep(draft, job_folder(job_id, part))
    except ArtifactError as error:
        raise ArtifactNotRestored(f"{name} cannot be restored: {error}") from error
    except ZIP_ERRORS as error:
        raise ArtifactNotRestored(f"{name} cannot be read: {error}") from error
