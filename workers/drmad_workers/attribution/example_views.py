"""What an attribution shows of a training example beside its row: a picture, or a text."""

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drmad_workers.problem import Batch, is_pair
from drmad_workers.replica import Replica

MOST_SIDE = 256
"""The largest side of a picture, in pixels; larger images are thinned out."""
MOST_TEXT = 500
"""The longest text, in characters."""


def views_of(
    replica: Replica, rows: Sequence[int], shape: tuple[int, int] | None = None
) -> dict[int, dict[str, str | None]]:
    """By row the fields `text` and `picture` of drmad_client.records.attribution.ExampleInfluence.

    Args:
        replica: the problem with its training examples.
        rows: the positions of the examples.
        shape: the height and the width of images whose inputs are flat; None if they are not.
    """
    describe = replica.objective.problem.describe
    found: dict[int, dict[str, str | None]] = {}
    for row in rows:
        index = torch.tensor([row], device=replica.device)
        image = image_of(replica.train_examples.take(index, [0]), shape)
        found[row] = {
            "text": None if describe is None else str(describe(row))[:MOST_TEXT],
            "picture": None if image is None else data_url(png(image)),
        }
    return found


def image_of(batch: Batch, shape: tuple[int, int] | None) -> NDArray[np.uint8] | None:
    """The inputs of a batch of one row as an image, (height, width) or (height, width, 3).

    None unless they are one real tensor, of shape (1, height, width), (1, channels, height, width)
    with one or three channels, or, with `shape`, flat. The smallest value becomes black, and the
    largest one white.
    """
    inputs = batch.inputs if is_pair(batch.content) else None
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        return None
    image = inputs[0].detach().float().cpu()
    if shape is not None and image.ndim == 1 and image.numel() == shape[0] * shape[1]:
        image = image.view(shape)
    if image.ndim == 3 and image.shape[0] in (1, 3):
        image = image.permute(1, 2, 0) if image.shape[0] == 3 else image[0]
    if image.ndim not in (2, 3) or min(image.shape[:2]) < 4:
        return None
    every = -(-max(image.shape[:2]) // MOST_SIDE)
    image = image[::every, ::every].nan_to_num()
    low, high = image.min(), image.max()
    pixels: NDArray[np.uint8] = (
        ((image - low) / (high - low).clamp_min(1e-12) * 255.0).round().byte().numpy()
    )
    return pixels


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
