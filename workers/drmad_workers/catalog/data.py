"""Built-in data sets, their splits, and labels made wrong on purpose."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drmad_workers.catalog.idx import read_mnist
from drmad_workers.errors import ProblemError

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Raw:
    """All examples of a data set; `test` is its own test part, where it has one.

    Inputs float32 of shape (rows, features), targets int64 of shape (rows,).
    """

    inputs: Tensor
    targets: Tensor
    classes: int
    test: Pair | None = None


@dataclass(frozen=True)
class Split:
    """A data set as a problem takes it.

    Attributes:
        train, valid, test: (inputs, targets); test is None when no examples were asked for.
        classes: number of classes.
        input_shape: of one example.
        wrong: mask of the training examples whose label is wrong on purpose, or None without noise.
    """

    train: Pair
    valid: Pair
    test: Pair | None
    classes: int
    input_shape: tuple[int, ...]
    wrong: Tensor | None = None


def load_data(
    name: str,
    options: Mapping[str, Any],
    data_roots: Sequence[Path] = (),
    cache: Path | None = None,
) -> Split:
    """A catalogued data set, split and made noisy as a function of the options alone.

    Options of all: train, valid, test (numbers of examples), seed (of the split and the noise),
    label_noise (share of the training labels replaced by a random class, which leaves some of them
    right), drop_noisy (train only on the examples whose labels are right). `mnist` takes `folder`
    too.
    """
    if name not in DATA_SETS:
        raise ProblemError(
            f"data must be one of {', '.join(DATA_SETS)}, got {name!r}", "problem.data.name"
        )
    load, defaults = DATA_SETS[name]
    given = {**defaults, **options}
    unknown = given.keys() - defaults.keys()
    if unknown:
        raise ProblemError(
            f"{name} takes {', '.join(defaults)}, got {', '.join(sorted(unknown))}", "problem.data"
        )
    raw = load(given, data_roots, cache)
    return split_data(name, raw, given)


def split_data(name: str, raw: Raw, options: Mapping[str, Any]) -> Split:
    """Disjoint parts of a seeded shuffle; the test part comes from the data set's own, if any."""
    sizes = {part: int(options[part]) for part in ("train", "valid", "test")}
    for part, least in (("train", 1), ("valid", 1), ("test", 0)):
        if sizes[part] < least:
            raise ProblemError(
                f"{part} must be at least {least}, got {sizes[part]}", f"problem.data.{part}"
            )
    seeds = np.random.SeedSequence(int(options["seed"])).spawn(3)
    draw_split, draw_test, draw_noise = (np.random.default_rng(seed) for seed in seeds)
    asked = sizes["train"] + sizes["valid"] + (0 if raw.test else sizes["test"])
    limit("train + valid" + ("" if raw.test else " + test"), asked, len(raw.targets), name)
    order = torch.from_numpy(draw_split.permutation(len(raw.targets)))
    known = sizes["train"] + sizes["valid"]
    train, valid, rest = order[: sizes["train"]], order[sizes["train"] : known], order[known:asked]
    test: Pair | None = (raw.inputs[rest], raw.targets[rest])
    if raw.test is not None:
        limit("test", sizes["test"], len(raw.test[1]), name)
        rows = torch.from_numpy(draw_test.permutation(len(raw.test[1])))[: sizes["test"]]
        test = (raw.test[0][rows], raw.test[1][rows])
    inputs, targets = raw.inputs[train], raw.targets[train]
    share = float(options["label_noise"])
    if not 0.0 <= share < 1.0:
        raise ProblemError(
            f"label_noise must be at least 0 and below 1, got {share}", "problem.data.label_noise"
        )
    wrong: Tensor | None = None
    if share > 0.0:
        targets, wrong = replace_labels(targets, share, raw.classes, draw_noise)
        if options["drop_noisy"]:
            inputs, targets, wrong = inputs[~wrong], targets[~wrong], None
    return Split(
        train=(inputs, targets),
        valid=(raw.inputs[valid], raw.targets[valid]),
        test=test if sizes["test"] else None,
        classes=raw.classes,
        input_shape=tuple(raw.inputs.shape[1:]),
        wrong=wrong,
    )


def replace_labels(
    targets: Tensor, share: float, classes: int, draw: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Replaces round(share · rows) labels by a uniformly random class, now and then the same.

    Returns the labels and the mask of those that are wrong now, both of shape (rows,).
    """
    rows = len(targets)
    chosen = torch.from_numpy(draw.permutation(rows)[: round(share * rows)])
    noisy = targets.clone()
    noisy[chosen] = torch.from_numpy(draw.integers(0, classes, size=len(chosen)))
    return noisy, noisy != targets


def limit(what: str, asked: int, there: int, name: str) -> None:
    if asked > there:
        raise ProblemError(
            f"{what} must be at most the {there} examples that {name} has here, got {asked}",
            "problem.data.train" if what != "test" else "problem.data.test",
        )


def load_digits(options: Mapping[str, Any], data_roots: Sequence[Path], cache: Path | None) -> Raw:
    """1,797 handwritten digits of 8×8 pixels that come with scikit-learn, scaled to [0, 1]."""
    try:
        from sklearn.datasets import load_digits as bundled
    except ImportError as error:
        raise ProblemError(
            "the data set digits comes with scikit-learn: install it (pip install scikit-learn)",
            "problem.data.name",
        ) from error
    images, labels = bundled(return_X_y=True)
    return Raw(
        inputs=torch.from_numpy(images / 16.0).float(),
        targets=torch.from_numpy(labels).long(),
        classes=10,
    )


def load_mnist(options: Mapping[str, Any], data_roots: Sequence[Path], cache: Path | None) -> Raw:
    """Handwritten digits of 28×28 pixels, flat, scaled to [0, 1]; see catalog.idx for the files."""
    parts: list[Pair] = []
    for images, labels in read_mnist(options["folder"], data_roots, cache):
        flat = torch.from_numpy(images).flatten(start_dim=1)
        parts.append((flat.float() / 255.0, torch.from_numpy(labels)))
    return Raw(*parts[0], classes=10, test=parts[1] if len(parts) > 1 else None)


_COMMON = {"label_noise": 0.0, "drop_noisy": False, "seed": 0}

Loader = Callable[[Mapping[str, Any], Sequence[Path], Path | None], Raw]

DATA_SETS: dict[str, tuple[Loader, dict[str, Any]]] = {
    "digits": (load_digits, {"train": 1000, "valid": 300, "test": 497, **_COMMON}),
    "mnist": (
        load_mnist,
        {"train": 50_000, "valid": 10_000, "test": 10_000, **_COMMON, "folder": None},
    ),
}
