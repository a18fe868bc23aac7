"""MNIST's files: IDX format, gzip or plain, from an allowed folder; OpenML where there are none."""

import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drmad_workers.errors import ProblemError

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]

PREFIXES = ("train", "t10k")
"""The two pairs of files: 60,000 and 10,000 examples."""


def read_mnist(folder: str | None, data_roots: Sequence[Path], cache: Path | None) -> list[Arrays]:
    """(images, labels) of the training files and of the test files, or of the pair that is there.

    Looks in `folder`, which must lie below a data root, else in <root>/mnist and <root> of every
    root, else asks OpenML (or its cache).

    Raises:
        ProblemError: the folder is not allowed, the files are missing or damaged.
    """
    field = "problem.data.folder"
    roots = [root.resolve() for root in data_roots]
    if folder is not None:
        place = Path(folder).resolve()
        if not any(place.is_relative_to(root) for root in roots):
            allowed = ", ".join(map(str, roots)) or "none is configured"
            raise ProblemError(
                f"folder must lie below a data root of the workers ({allowed}), got {folder}", field
            )
        places = [place]
    else:
        places = [place for root in roots for place in (root / "mnist", root)]
    for place in places:
        pairs = [pair for prefix in PREFIXES if (pair := find_pair(place, prefix, roots))]
        if pairs:
            return [read_pair(*pair) for pair in pairs]
    wanted = "train-images-idx3-ubyte, train-labels-idx1-ubyte (or the t10k- pair), plain or .gz"
    looked = ", ".join(map(str, places)) or "no folder, as no data root is configured"
    if folder is not None:
        raise ProblemError(f"folder must hold {wanted}; found neither in {looked}", field)
    try:
        return [fetch_from_openml(cache)]
    except Exception as error:  # whatever the network, the cache or scikit-learn may raise
        raise ProblemError(
            f"MNIST is not here and OpenML could not be asked ({error}): put {wanted} into a data "
            f"root; looked in {looked}",
            field,
        ) from error


def find_pair(place: Path, prefix: str, roots: Sequence[Path]) -> tuple[Path, Path] | None:
    """The image and the label file of a prefix; links that lead out of the roots do not count."""
    found: list[Path] = []
    for kind in ("images-idx3", "labels-idx1"):
        names = [f"{prefix}-{kind}-ubyte{suffix}" for suffix in ("", ".gz")]
        files = [(place / name).resolve() for name in names if (place / name).is_file()]
        files = [file for file in files if any(file.is_relative_to(root) for root in roots)]
        if not files:
            return None
        found.append(files[0])
    return found[0], found[1]


def read_pair(images: Path, labels: Path) -> Arrays:
    pictures, classes = read_idx(images), read_idx(labels)
    if pictures.ndim != 3 or classes.shape != pictures.shape[:1]:
        raise ProblemError(
            f"{images.name} and {labels.name} must hold images and as many labels, got shapes "
            f"{pictures.shape} and {classes.shape}",
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
        raise ProblemError(f"{path} cannot be read: {error}", "problem.data.folder") from error
    dimensions = content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 3 else 0
    head = 4 + 4 * dimensions
    sizes = [int(size) for size in np.frombuffer(content[4:head].ljust(4 * dimensions), ">u4")]
    if not dimensions or len(content) != head + math.prod(sizes):
        raise ProblemError(
            f"{path} must be an IDX file of bytes, plain or gzip: copy it again",
            "problem.data.folder",
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(sizes).copy()


def fetch_from_openml(cache: Path | None) -> Arrays:
    from sklearn.datasets import fetch_openml

    images, labels = fetch_openml(
        "mnist_784",
        version=1,
        return_X_y=True,
        as_frame=False,
        parser="liac-arff",
        data_home=None if cache is None else str(cache),
    )
    return images.astype(np.uint8).reshape(-1, 28, 28), labels.astype(np.int64)
