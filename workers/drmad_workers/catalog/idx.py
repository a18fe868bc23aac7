"""Reads image and label files in the IDX format of MNIST, plain or compressed with gzip."""

import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drmad_workers.catalog.places import Places
from drmad_workers.errors import ProblemError

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]

PREFIXES = ("train", "t10k")
"""The prefixes of the training files (60,000 examples) and the test files (10,000)."""

WANTED = "train-images-idx3-ubyte, train-labels-idx1-ubyte (or the t10k- pair), plain or .gz"


def read_pairs(subfolder: str, folder: str | None, places: Places) -> list[Arrays]:
    """(images, labels) of the training files and of the test files, as far as they exist.

    The function searches `folder`, which must be below a data root. Without a folder it searches
    <root>/<subfolder> of every data root, for MNIST also <root>, and returns an empty list if it
    finds no files.

    Raises:
        ProblemError: the folder is not allowed or contains no such files, or a file is damaged.
    """
    field = "problem.data.folder"
    roots = [root.resolve() for root in places.roots]
    searched = (
        _searched(subfolder, places) if folder is None else [places.below(folder, "folder", field)]
    )
    for directory in searched:
        pairs = [pair for prefix in PREFIXES if (pair := find_pair(directory, prefix, roots))]
        if pairs:
            return [read_pair(*pair) for pair in pairs]
    if folder is not None:
        raise ProblemError(f"folder must contain {WANTED}; found neither in {searched[0]}", field)
    return []


def missing(subfolder: str, places: Places) -> str:
    """The advice to append to an error when the files are missing and cannot be downloaded."""
    searched = ", ".join(map(str, _searched(subfolder, places)))
    return (
        f"; or put {WANTED} into a data root (searched: "
        f"{searched or 'no folder, because no data root is configured'})"
    )


def _searched(subfolder: str, places: Places) -> list[Path]:
    roots = [root.resolve() for root in places.roots]
    plain = subfolder == "mnist"
    return [found for root in roots for found in (root / subfolder, *([root] if plain else []))]


def find_pair(directory: Path, prefix: str, roots: Sequence[Path]) -> tuple[Path, Path] | None:
    """The image and the label file of a prefix; links to targets outside the roots are ignored."""
    found: list[Path] = []
    for kind in ("images-idx3", "labels-idx1"):
        names = [f"{prefix}-{kind}-ubyte{suffix}" for suffix in ("", ".gz")]
        files = [(directory / name).resolve() for name in names if (directory / name).is_file()]
        files = [file for file in files if any(file.is_relative_to(root) for root in roots)]
        if not files:
            return None
        found.append(files[0])
    return found[0], found[1]


def read_pair(images: Path, labels: Path) -> Arrays:
    pictures, classes = read_idx(images), read_idx(labels)
    if pictures.ndim != 3 or classes.shape != pictures.shape[:1]:
        raise ProblemError(
            f"{images.name} and {labels.name} must contain images and equally many labels, got "
            f"shapes {pictures.shape} and {classes.shape}",
            "problem.data.folder",
        )
    return pictures, classes.astype(np.int64)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes: magic 0, 0, 8, ndim; big-endian sizes; data."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise ProblemError(
            f"{path} must be readable, got {error}", "problem.data.folder"
        ) from error
    dimensions = content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 3 else 0
    head = 4 + 4 * dimensions
    sizes = [int(size) for size in np.frombuffer(content[4:head].ljust(4 * dimensions), ">u4")]
    if not dimensions or len(content) != head + math.prod(sizes):
        raise ProblemError(
            f"{path} must be an IDX file of unsigned bytes, plain or gzip, and its size must match "
            "its header: copy the file again",
            "problem.data.folder",
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(sizes).copy()
