"""Serves static files under URLs that change with the content, so that browsers cache them."""

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

# V8 pre-parses the 4.8 MB of plotly and parses most functions again, twice, when they are called,
# which blocks the page for 0.4 s. This line makes V8 compile all functions in the background while
# the file arrives, which blocks the page for 0.05 s. Other browsers read a comment.
_COMPILED_AT_ONCE = b"//# allFunctionsCalledOnLoad\n"

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    content: bytes
    gzipped: bytes | None  # None for formats that are compressed already
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
    """Digest of all files together: modules import each other by relative URLs."""
    everything = hashlib.sha256()
    for name in sorted(_files()):
        everything.update(name.encode() + _content(name))
    return everything.hexdigest()[:12]


def url(name: str) -> str:
    return f"/static/{version()}/{name}"


@functools.cache
def plotly_styles() -> list[str]:
    """Ids of the style sheets that plotly adds unless an element with that id exists.

    The policy forbids inline style sheets, and the browser logs an error for each. They style maps,
    which our charts do not use, so the page holds an empty element for each id.
    """
    script = _files()[PLOTLY].read_text(encoding="utf-8")
    return sorted(set(re.findall(r'document\.getElementById\("([0-9a-f]{64})"\)', script)))


@functools.cache
def load(name: str) -> Asset | None:
    """Returns the file of that name, or None."""
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
