"""The results of a job as its workers keep and read them: small ones in Redis, else artifacts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drmad_workers.artifacts.artifact import Artifact, ArtifactsDenied, ArtifactStoreFails
from drmad_workers.artifacts.store import ArtifactLocation, job_folder

if TYPE_CHECKING:
    from torch import Tensor

_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
Kept = bytes | Artifact
"""A safetensors file: its bytes, which go to Redis, or what names the artifact."""


@dataclass(frozen=True)
class JobArtifacts:
    """Writes the large results of one job to the artifact store, and reads them.

    Attributes:
        most_inline: the bytes of tensors up to which a result goes to Redis.
    """

    location: ArtifactLocation
    job_id: str
    most_inline: int

    def keep(self, part: str, tensors: Mapping[str, Tensor]) -> Kept:
        """
        Args:
            part: a constant of drmad_workers.artifacts.store, such as MODELS.
        Raises:
            ArtifactStoreFails
        """
        if size_of(tensors) > self.most_inline:
            return self.keep_file(part, tensors)
        from safetensors.torch import save

        return save({name: tensor.contiguous() for name, tensor in tensors.items()})

    def keep_file(self, part: str, tensors: Mapping[str, Tensor]) -> Artifact:
        """As `keep`, of tensors that go to the artifact store whatever their size.

        Raises:
            ArtifactStoreFails
        """
        from safetensors.torch import save_file

        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        store = self.location.open()
        with store.scratch() as file:
            save_file(contiguous, file)
            return _patiently(lambda: store.keep(file, job_folder(self.job_id, part)))

    def keep_content(self, part: str, content: bytes) -> Kept:
        """As `keep`, of a file that is in memory already.

        Raises:
            ArtifactStoreFails
        """
        if len(content) <= self.most_inline:
            return content
        store = self.location.open()
        with store.scratch() as file:
            file.write_bytes(content)
            return _patiently(lambda: store.keep(file, job_folder(self.job_id, part)))

    def read(self, part: str, artifact: Artifact) -> bytes:
        """
        Raises:
            ArtifactLost, ArtifactDamaged, ArtifactStoreFails
        """
        key = f"{job_folder(self.job_id, part)}/{artifact.sha256}"
        return self.location.open().read(key, artifact)


def _patiently(store: Callable[[], Artifact]) -> Artifact:
    """The artifact, once the store takes it: to compute it again would cost more than to wait.

    Raises:
        ArtifactStoreFails: it fails for longer than the pauses take together.
    """
    for pause_s in _PAUSES_S:
        try:
            return store()
        except ArtifactsDenied:
            raise
        except ArtifactStoreFails as error:
            print(f"{error}; tries again in {pause_s:g} s", file=sys.stderr)
        time.sleep(pause_s)
    return store()


def kept_bytes(kept: Kept) -> int:
    """The size of the file."""
    return kept.size if isinstance(kept, Artifact) else len(kept)


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """The bytes of the tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
