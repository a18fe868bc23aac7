"""Where a worker may look for data, and nowhere else on its disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drmad_workers.errors import ProblemError


@dataclass(frozen=True)
class Places:
    """
    Attributes:
        roots: folders below which files may be read.
        uploads: folder of uploaded data sets, each under the digest of its bytes.
        cache: where downloads are kept; None for scikit-learn's own place.
    """

    roots: Sequence[Path] = ()
    uploads: Path | None = None
    cache: Path | None = None

    def below(self, path: str, what: str, field: str) -> Path:
        """The path below a root, links followed; a relative one is looked for in every root.

        Raises:
            ProblemError: it leads elsewhere.
        """
        roots = [root.resolve() for root in self.roots]
        found = [(root / path).resolve() for root in roots] or [Path(path).resolve()]
        allowed = [place for place in found if any(place.is_relative_to(root) for root in roots)]
        if not allowed:
            known = ", ".join(map(str, roots)) or "none is configured"
            raise ProblemError(
                f"{what} must lie below a data root of the workers ({known}), got {path}", field
            )
        return next((place for place in allowed if place.exists()), allowed[0])

    def upload(self, name: str, field: str) -> Path:
        """The file of what was uploaded as sha256:<digits>.

        Raises:
            ProblemError: it is not here.
        """
        place = None if self.uploads is None else self.uploads / name.removeprefix("sha256:")
        if place is None or not place.is_file():
            where = self.uploads or "no folder, as none is configured (DRMAD_DATA_DIR)"
            raise ProblemError(
                f"the data {name} are not on this worker (looked in {where}); upload them again, "
                "or give the workers the folder of the API",
                field,
            )
        return place
