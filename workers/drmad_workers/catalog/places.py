"""The folders from which a worker may read data."""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drmad_workers.errors import ProblemError

if TYPE_CHECKING:
    from drmad_workers.artifacts.store import ArtifactLocation


@dataclass(frozen=True)
class Places:
    """The folders from which a worker may read data; it reads nothing else on its disk.

    Attributes:
        roots: the data roots; files below them may be read.
        uploads: the folder of uploaded data sets, each named by the digest of its bytes.
        cache: the folder of downloads; None takes scikit-learn's default.
        artifacts: where uploads are that the folder lacks: a bucket, or another folder.
    """

    roots: Sequence[Path] = ()
    uploads: Path | None = None
    cache: Path | None = None
    artifacts: "ArtifactLocation | None" = None

    def below(self, path: str, what: str, field: str) -> Path:
        """The resolved path, which must be below a data root.

        A relative path is searched in every root.

        Raises:
            ProblemError: the path, after following links, is outside the data roots.
        """
        roots = [root.resolve() for root in self.roots]
        found = [(root / path).resolve() for root in roots] or [Path(path).resolve()]
        allowed = [one for one in found if any(one.is_relative_to(root) for root in roots)]
        if not allowed:
            known = ", ".join(map(str, roots)) or "none is configured"
            raise ProblemError(
                f"{what} must lie below a data root of the workers ({known}), got {path}", field
            )
        return next((one for one in allowed if one.exists()), allowed[0])

    def upload(self, name: str, field: str) -> Path:
        """The file of the upload sha256:<digits>.

        Raises:
            ProblemError: this worker has no such file.
        """
        sha256 = name.removeprefix("sha256:")
        file = None if self.uploads is None else self.uploads / sha256
        if (file is None or not file.is_file()) and self.artifacts is not None:
            file = _fetched(self.artifacts, sha256) or file
        if file is None or not file.is_file():
            where = self.uploads or "no folder, because DRMAD_DATA_DIR is not set"
            raise ProblemError(
                f"the upload {name} is not on this worker (searched: {where}); upload it again, "
                "and let the workers share the data folder of the API, or set DRMAD_ARTIFACTS_URL",
                field,
            )
        return file


def _fetched(location: "ArtifactLocation", sha256: str) -> Path | None:
    """A copy of an upload in the artifact store, made once on this machine; None if it has none.

    Raises:
        ArtifactStoreFails, ArtifactDamaged
    """
    from drmad_workers.artifacts.artifact import ArtifactLost

    folder = Path(tempfile.gettempdir()) / f"drmad-uploads-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / sha256
    if file.is_file():
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found == sha256:  # other jobs of this user can write there
            return file
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        try:
            location.open().fetch(sha256, sha256, Path(draft) / sha256)
        except ArtifactLost:
            return None
        (Path(draft) / sha256).replace(file)
    return file
