"""Built-in data sets, their splits, and labels made wrong on purpose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drmad_workers.catalog import sources
from drmad_workers.catalog.places import Places
from drmad_workers.catalog.sources import Image, Pair, Raw, Source
from drmad_workers.errors import ProblemError


@dataclass(frozen=True)
class Split:
    """A data set as a problem takes it.

    Attributes:
        train, valid, test: (inputs, targets); test is None when no examples were asked for.
        classes: number of classes.
        input_shape: of one example.
        wrong: mask of the training examples whose label is wrong on purpose, or None without noise.
        image: (channels, rows, columns) of one example, where it is a picture.
    """

    train: Pair
    valid: Pair
    test: Pair | None
    classes: int
    input_shape: tuple[int, ...]
    wrong: Tensor | None = None
    image: Image | None = None


def load_data(name: str, options: Mapping[str, Any], places: Places | None = None) -> Split:
    """A catalogued data set, split and made noisy as a function of the options alone.

    Options of all: train, valid, test (numbers of examples), seed (of the split and the noise),
    label_noise (share of the training labels replaced by a random class, which leaves some of them
    right), drop_noisy (train only on the examples whose labels are right). Some take `folder`,
    `standardize`, `dataset` and `version`, `data` or `path` too, as spec.data_sets says.
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
    raw = load(given, places or Places())
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
    split = Split(
        train=(inputs, targets),
        valid=(raw.inputs[valid], raw.targets[valid]),
        test=test if sizes["test"] else None,
        classes=raw.classes,
        input_shape=tuple(raw.inputs.shape[1:]),
        wrong=wrong,
        image=raw.image or image_of(raw.inputs.shape[1:]),
    )
    return standardized(split) if options.get("standardize") else split


def image_of(shape: Sequence[int]) -> Image | None:
    """(channels, rows, columns) of examples of this shape, where they are pictures."""
    match tuple(shape):
        case (rows, columns):
            return 1, rows, columns
        case (channels, rows, columns):
            return channels, rows, columns
    return None


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


def standardized(split: Split) -> Split:
    """Inputs shifted and scaled to mean 0 and deviation 1 of the training part, each by itself."""
    train = split.train[0]
    mean, deviation = train.mean(dim=0), train.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    def scaled(pair: Pair) -> Pair:
        return (pair[0] - mean) / deviation, pair[1]

    test = None if split.test is None else scaled(split.test)
    return replace(split, train=scaled(split.train), valid=scaled(split.valid), test=test)


_COMMON = {"label_noise": 0.0, "drop_noisy": False, "seed": 0}


def _sizes(train: int, valid: int, test: int, **more: Any) -> dict[str, Any]:
    return {"train": train, "valid": valid, "test": test, **_COMMON, **more}


# Where only a worker knows the size, the parts have no defaults: zero examples are refused.
_PICTURES = _sizes(50_000, 10_000, 10_000, folder=None)
_UNKNOWN = _sizes(0, 0, 0)

DATA_SETS: dict[str, tuple[Source, dict[str, Any]]] = {
    "digits": (sources.bundled("load_digits", 16.0, (1, 8, 8)), _sizes(1000, 300, 497)),
    "mnist": (sources.idx_files("mnist", "mnist_784"), _PICTURES),
    "fashion_mnist": (sources.idx_files("fashion_mnist", "Fashion-MNIST"), _PICTURES),
    "cifar10": (sources.cifar10, _sizes(40_000, 10_000, 10_000)),
    "breast_cancer": (
        sources.bundled("load_breast_cancer"),
        _sizes(300, 119, 150, standardize=True),
    ),
    "wine": (sources.bundled("load_wine"), _sizes(90, 44, 44, standardize=True)),
    "iris": (sources.bundled("load_iris"), _sizes(80, 35, 35, standardize=True)),
    "openml": (sources.openml, {**_UNKNOWN, "standardize": True, "dataset": "", "version": 1}),
    "upload": (sources.uploaded, {**_UNKNOWN, "standardize": False, "data": ""}),
    "file": (sources.local_file, {**_UNKNOWN, "standardize": False, "path": ""}),
}
