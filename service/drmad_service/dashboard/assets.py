"""Static files, each under an address that changes with their content and may be kept for ever."""

from __future__ import annotations

import functools
import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

PLOTLY = "plotly.min.js"

# Of 4.8 MB V8 reads first where each function ends, and most of them again, twice, once they are
# called, while the page waits. This line has it compile them all beside the page as they arrive:
# 0.05 s of the page's time instead of 0.4 s. Other browsers see a comment.
_COMPILED_AT_ONCE = b"//# allFunctionsCalledOnLoad\n"

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    content: bytes
    gzipped: bytes | None  # None where it would gain nothing
    media_type: str


@functools.cache
def _files() -> dict[str, Any]:
    root = resources.files("drmad_service.dashboard") / "static"
    files = {file.name: file for file in root.iterdir() if file.is_file()}
    for folder in ("fonts", "vendor"):
        files |= {f"{folder}/{file.name}": file for file in (root / folder).iterdir()}
    files[PLOTLY] = resources.files("plotly") / "package_data" / PLOTLY
    return files


@functools.cache
def version() -> str:
    """Of all files together: modules name each other by relative addresses."""
    everything = hashlib.sha256()
    for name in sorted(_files()):
        everything.update(name.encode() + _content(name))
    return everything.hexdigest()[:12]


def url(name: str) -> str:
    return f"/static/{version()}/{name}"


@functools.cache
def plotly_styles() -> list[str]:
    """Ids of the style sheets that plotly's script adds where none is there (it brings maps too).

    Our policy allows no style in a page, and says so in the console; charts need none of these.
    """
    script = _files()[PLOTLY].read_text(encoding="utf-8")
    return sorted(set(re.findall(r'document\.getElementById\("([0-9a-f]{64})"\)', script)))


@functools.cache
def load(name: str) -> Asset | None:
    """A file by name; None when there is none."""
    if name not in _files():
        return None
    content = _content(name)
    suffix = "." + name.rpartition(".")[2]
    media_type = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    gzipped = None if suffix == ".woff2" else gzip.compress(content, 6, mtime=0)
    return Asset(content, gzipped, media_type)


def _content(name: str) -> bytes:
    content: bytes = _files()[name].read_bytes()
    return _COMPILED_AT_ONCE + content if name == PLOTLY else content
