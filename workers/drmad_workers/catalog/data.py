"""Built-in data sets, their splits, and synthetic label noise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drmad_client.spec import bounds
from drmad_client.spec.defaults import TABLE_SPLIT
from drmad_workers.catalog import sources, tasks
from drmad_workers.catalog.places import Places
from drmad_workers.catalog.sources import Image, Pair, Raw, Source
from drmad_workers.catalog.split import Split
from drmad_workers.catalog.table import load_table
from drmad_workers.errors import ProblemError, require_bounds


def load_data(name: str, options: Mapping[str, Any], places: Places | None = None) -> Split:
    """A data set of the catalog with its split and label noise, as a function of the options.

    Every data set takes train, valid, test (numbers of examples), seed (of the split and the
    noise), label_noise (the fraction of the training labels that are replaced by a random class,
    which leaves some of them right), and drop_noisy (train only on examples with right labels).
    Some take `folder`, `standardize`, `dataset` and `version`, `data` or `path`; see
    drmad_client.spec.data.data_sets. A `table` has options of its own; see
    drmad_client.spec.data.tables.

    Raises:
        ProblemError: an unknown name or option, or data that are missing or damaged.
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
    found = load(given, places or Places())
    return found if isinstance(found, Split) else split_data(name, found, given)


def split_data(name: str, raw: Raw, options: Mapping[str, Any]) -> Split:
    """Splits a seeded permutation of the examples into disjoint parts.

    The test examples are drawn from the data set's own test examples, if it has any.
    """
    require_bounds(SimpleNamespace(**options), bounds.Data, "problem.data")
    sizes = {part: int(options[part]) for part in ("train", "valid", "test")}
    seeds = np.random.SeedSequence(int(options["seed"])).spawn(3)
    draw_split, draw_test, draw_noise = (np.random.default_rng(seed) for seed in seeds)
    requested = sizes["train"] + sizes["valid"] + (0 if raw.test else sizes["test"])
    require_available(
        "train + valid" + ("" if raw.test else " + test"), requested, len(raw.targets), name
    )
    order = torch.from_numpy(draw_split.permutation(len(raw.targets)))
    known = sizes["train"] + sizes["valid"]
    train, valid, rest = (
        order[: sizes["train"]],
        order[sizes["train"] : known],
        order[known:requested],
    )
    test: Pair | None = (raw.inputs[rest], raw.targets[rest])
    if raw.test is not None:
        require_available("test", sizes["test"], len(raw.test[1]), name)
        rows = torch.from_numpy(draw_test.permutation(len(raw.test[1])))[: sizes["test"]]
        test = (raw.test[0][rows], raw.test[1][rows])
    inputs, targets = raw.inputs[train], raw.targets[train]
    share = float(options["label_noise"])
    wrong: Tensor | None = None
    if share > 0.0:
        targets, wrong = replace_labels(targets, share, raw.classes, draw_noise)
        if options["drop_noisy"]:
            inputs, targets, train, wrong = inputs[~wrong], targets[~wrong], train[~wrong], None
    split = Split(
        train=(inputs, targets),
        valid=(raw.inputs[valid], raw.targets[valid]),
        test=test if sizes["test"] else None,
        task=tasks.classification(raw.classes),
        input_shape=tuple(raw.inputs.shape[1:]),
        wrong=wrong,
        image=raw.image or image_of(raw.inputs.shape[1:]),
        columns={column: values[train] for column, values in raw.columns.items()},
    )
    split = split if raw.classes else with_standardized_targets(split)
    return standardized(split) if options.get("standardize") else split


def image_of(shape: Sequence[int]) -> Image | None:
    """(channels, rows, columns) of examples of this shape; None if they are not images."""
    match tuple(shape):
        case (rows, columns):
            return 1, rows, columns
        case (channels, rows, columns):
            return channels, rows, columns
    return None


def replace_labels(
    targets: Tensor, share: float, classes: int, draw: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Replaces round(share · rows) labels by a uniformly random class, which may be the same.

    Returns the labels and the mask of the wrong ones, both of shape (rows,).
    """
    rows = len(targets)
    chosen = torch.from_numpy(draw.permutation(rows)[: round(share * rows)])
    noisy = targets.clone()
    noisy[chosen] = torch.from_numpy(draw.integers(0, classes, size=len(chosen)))
    return noisy, noisy != targets


def require_available(what: str, requested: int, available: int, name: str) -> None:
    if requested > available:
        raise ProblemError(
            f"{what} must be at most {available}, the number of examples of {name}, got "
            f"{requested}",
            "problem.data.train" if what != "test" else "problem.data.test",
        )


def standardized(split: Split) -> Split:
    """Shifts and scales each input to mean 0 and deviation 1 over the training examples."""
    train = split.train[0]
    mean, deviation = train.mean(dim=0), train.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    def scaled(pair: Pair) -> Pair:
        return (pair[0] - mean) / deviation, pair[1]

    test = None if split.test is None else scaled(split.test)
    return replace(split, train=scaled(split.train), valid=scaled(split.valid), test=test)


def with_standardized_targets(split: Split) -> Split:
    """A regression on targets of mean 0 and deviation 1 over the training examples."""
    known = split.train[1].double()
    mean, deviation = known.mean(dim=0), known.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    def scaled(pair: Pair) -> Pair:
        return pair[0], ((pair[1].double() - mean) / deviation).to(pair[0].dtype)

    test = None if split.test is None else scaled(split.test)
    task = tasks.regression([str(i) for i in range(len(mean))], deviation.tolist())
    return replace(
        split, train=scaled(split.train), valid=scaled(split.valid), test=test, task=task
    )


_COMMON = {"label_noise": 0.0, "drop_noisy": False, "seed": 0}


def _sizes(train: int, valid: int, test: int, **more: Any) -> dict[str, Any]:
    return {"train": train, "valid": valid, "test": test, **_COMMON, **more}


# Only a worker knows the size of these data sets: the user must state the numbers of examples.
_IMAGES = _sizes(50_000, 10_000, 10_000, folder=None)
_UNKNOWN = _sizes(0, 0, 0)

_ARRAYS = {**_UNKNOWN, "standardize": False, "task": "classification"}
_TABLE: dict[str, Any] = {
    **TABLE_SPLIT,
    "data": None,
    "path": None,
    "target": (),
    "task": None,
    "categorical": (),
    "numeric": None,
    "ignore": (),
    "columns": (),
    "split": None,
    "standardize": True,
    "missing": "refuse",
    "seed": 0,
}

DATA_SETS: dict[str, tuple[Source | Callable[..., Split], dict[str, Any]]] = {
    "digits": (sources.bundled("digits.csv.gz", 0, 16.0, (1, 8, 8)), _sizes(1000, 300, 497)),
    "mnist": (sources.idx_files("mnist", "mnist_784"), _IMAGES),
    "fashion_mnist": (sources.idx_files("fashion_mnist", "Fashion-MNIST"), _IMAGES),
    "cifar10": (sources.cifar10, _sizes(40_000, 10_000, 10_000)),
    "breast_cancer": (
        sources.bundled("breast_cancer.csv"),
        _sizes(300, 119, 150, standardize=True),
    ),
    "wine": (sources.bundled("wine_data.csv"), _sizes(90, 44, 44, standardize=True)),
    "iris": (sources.bundled("iris.csv"), _sizes(80, 35, 35, standardize=True)),
    "openml": (sources.openml, {**_UNKNOWN, "standardize": True, "dataset": "", "version": 1}),
    "upload": (sources.uploaded, {**_ARRAYS, "data": ""}),
    "file": (sources.local_file, {**_ARRAYS, "path": ""}),
    "table": (load_table, _TABLE),
}
