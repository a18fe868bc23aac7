"""A packed problem: the archive of its source, its entrypoint, and what was packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the parser of .gitignore loads slowly
    from drmad_client.files.code_archive import Archive

_LISTED = 20  # of the files, when a packed problem is printed


@dataclass(frozen=True)
class PackedProblem:
    """The source of a problem; printing it lists the definitions and the files that it contains.

    Attributes:
        entrypoint: The module and the function that builds the problem, as in problem.entrypoint.
        archive: The files, as `problem.code` names them.
        source: The text of the module with that function.
        origin: The folder, the script or the cells that were packed.
        definitions: What was taken from the cells of a notebook, a line for each.
        left_out: Statements of these cells that were not packed, although they may have an effect.
    """

    entrypoint: str
    archive: Archive
    source: str
    origin: str
    definitions: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """What was packed, in one line."""
        count = len(self.archive.files)
        files = "1 file" if count == 1 else f"{count} files"
        size = len(self.archive.content) / 1e3
        return f"{self.entrypoint} from {self.origin}: {files}, {size:.1f} kB"

    def __str__(self) -> str:
        sizes = list(self.archive.sizes().items())
        lines = [self.summary, *self.definitions]
        lines += [f"{name}, {size:,} bytes" for name, size in sizes[:_LISTED]]
        if len(sizes) > _LISTED:
            lines.append(f"and {len(sizes) - _LISTED} more files")
        lines += [f"not packed: {statement}" for statement in self.left_out]
        return "\n  ".join(lines)

    __repr__ = __str__
