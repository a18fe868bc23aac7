"""The folders from which a worker may read data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drmad_workers.errors import ProblemError


@dataclass(frozen=True)
class Places:
    """The folders from which a worker may read data; it reads nothing else on its disk.

    Attributes:
        roots: the data roots; files below them may be read.
        uploads: the folder of uploaded data sets, each named by the digest of its bytes.
        cache: the folder of downloads; None takes scikit-learn's default.
    """

    roots: Sequence[Path] = ()
    uploads: Path | None = None
    cache: Path | None = None

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
        file = None if self.uploads is None else self.uploads / name.removeprefix("sha256:")
        if file is None or not file.is_file():
            where = self.uploads or "no folder, because DRMAD_DATA_DIR is not set"
            raise ProblemError(
                f"the upload {name} is not on this worker (searched: {where}); upload it again, or "
                "let the workers share the data folder of the API",
                field,
            )
        return file
