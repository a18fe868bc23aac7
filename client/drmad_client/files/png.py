"""Pictures as PNG files, written without an imaging library."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pixels_of(image: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Grey levels or colours from 0 to 255: the smallest value is black, the largest white."""
    finite = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = float(finite.min()), float(finite.max())
    levels = np.rint((finite - low) / max(high - low, 1e-12) * 255.0)
    return np.asarray(levels, dtype=np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of grey pixels, (height, width), or of colours, (height, width, 3)."""
    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    rows = pixels.reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def data_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
