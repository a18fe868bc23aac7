"""What an attribution shows of a training example beside its row: a picture, or a text."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drmad_client.files.png import data_url, pixels_of, png
from drmad_workers.problem import Batch, is_pair
from drmad_workers.replica import Replica

MOST_SIDE = 256
"""The largest side of a picture, in pixels; larger images are thinned out."""
MOST_TEXT = 500
"""The longest text, in characters."""


def views_of(
    replica: Replica, rows: Sequence[int], shape: tuple[int, int] | None = None
) -> dict[int, dict[str, str | None]]:
    """By row the fields `text` and `picture` of ExampleInfluence
    (drmad_client.records.side_runs.attribution).

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
    return pixels_of(image[::every, ::every].numpy())
