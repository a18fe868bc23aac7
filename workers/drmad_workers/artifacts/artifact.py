"""What names an artifact, and what may go wrong with one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from drmad_workers.errors import EngineError

_NAME = re.compile(r"artifact:([0-9a-f]{64}):(\d{1,19})")


@dataclass(frozen=True)
class Artifact:
    """An immutable file, named by the digest of its bytes.

    Attributes:
        sha256: the digest, in hexadecimal.
        size: its bytes.
    """

    sha256: str
    size: int

    def __post_init__(self) -> None:
        # Workers name artifacts, and user code runs in them: a name must not lead elsewhere.
        if not isinstance(self.sha256, str) or not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 must have 64 hexadecimal digits, got {self.sha256!r:.100}")
        if type(self.size) is not int or not 0 <= self.size < 1 << 63:
            raise ValueError(f"size must be a number of bytes, got {self.size!r:.100}")

    @property
    def name(self) -> str:
        """The form in which Redis keeps the reference; `named` reads it."""
        return f"artifact:{self.sha256}:{self.size}"

    @classmethod
    def named(cls, name: str) -> Artifact | None:
        """The artifact of a reference; None for any other text."""
        found = _NAME.fullmatch(name)
        return cls(found[1], int(found[2])) if found else None


class ArtifactError(EngineError):
    """The artifact store, or an artifact in it, cannot be used."""


class ArtifactStoreFails(ArtifactError):
    """The store does not answer, refuses a request, or lacks a package."""


class ArtifactsDenied(ArtifactStoreFails):
    """The store does not let this process write: the folder is read-only, or a right lacks."""


class ArtifactLost(ArtifactError):
    """The store has no such artifact."""


class ArtifactDamaged(ArtifactError):
    """The bytes in the store are not those of the artifact's digest."""
