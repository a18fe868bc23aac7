"""The sources of the examples of a data set: scikit-learn, files, OpenML."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drmad_client.files import array_file
from drmad_client.spec import bounds
from drmad_workers.catalog import idx
from drmad_workers.catalog.places import Places
from drmad_workers.errors import ProblemError

Pair = tuple[Tensor, Tensor]
Image = tuple[int, int, int]


@dataclass(frozen=True)
class Raw:
    """All examples of a data set.

    Attributes:
        inputs: float32, shape (rows, ...).
        targets: int64, shape (rows,); or float64, shape (rows, targets).
        classes: the number of classes; 0 where the targets are numbers.
        test: the data set's own test examples, if it has any.
        image: the shape (channels, rows, columns) of an example, if it is a flattened image.
        columns: what is known of every row beside its inputs, int64, shape (rows,), by name.
    """

    inputs: Tensor
    targets: Tensor
    classes: int
    test: Pair | None = None
    image: Image | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)


Source = Callable[[Mapping[str, Any], Places], Raw]


def bundled(file: str, header: int = 1, divisor: float = 1.0, image: Image | None = None) -> Source:
    """The data set in a file of scikit-learn, without `header` lines, its inputs divided.

    The file is read without scikit-learn: the import takes longer than the start of a short job.
    """

    def load(options: Mapping[str, Any], places: Places) -> Raw:
        try:
            package = distribution("scikit-learn")
        except PackageNotFoundError as error:
            raise ProblemError(
                "this data set requires scikit-learn, got none: pip install scikit-learn",
                "problem.data.name",
            ) from error
        path = package.locate_file(f"sklearn/datasets/data/{file}")
        rows = np.loadtxt(str(path), delimiter=",", skiprows=header)
        return classified(rows[:, :-1] / divisor, rows[:, -1].astype(np.int64), image)

    return load


def idx_files(subfolder: str, openml_name: str) -> Source:
    """Flattened images of 28×28 pixels, scaled to [0, 1]; see catalog.idx for the files."""

    def load(options: Mapping[str, Any], places: Places) -> Raw:
        parts: list[Pair] = []
        found = idx.read_pairs(subfolder, options["folder"], places)
        if not found:
            found = [_downloaded_images(idx.missing(subfolder, places), openml_name, places)]
        for images, labels in found:
            flat = torch.from_numpy(images).flatten(start_dim=1)
            parts.append((flat.float() / 255.0, torch.from_numpy(labels)))
        test = parts[1] if len(parts) > 1 else None
        return Raw(*parts[0], classes=10, test=test, image=(1, 28, 28))

    return load


def _downloaded_images(advice: str, name: str, places: Places) -> idx.Arrays:
    inputs, targets = fetched(name, 1, places, advice)
    return inputs.astype(np.uint8).reshape(-1, 28, 28), targets.astype(np.int64)


def cifar10(options: Mapping[str, Any], places: Places) -> Raw:
    """Flattened colour images of 3×32×32 pixels, scaled to [0, 1]."""
    inputs, targets = fetched("CIFAR_10", 1, places)
    return classified(inputs / 255.0, targets, (3, 32, 32))


def openml(options: Mapping[str, Any], places: Places) -> Raw:
    """A data set of OpenML; its categorical inputs are numbered."""
    version = options["version"]
    if not bounds.OPENML_VERSION.hold(version):
        raise ProblemError(
            f"version must be {bounds.OPENML_VERSION}, got {version!r}", "problem.data.version"
        )
    inputs, targets = fetched(options["dataset"], int(version), places)
    return classified(_numbered(inputs), targets)


def _numbered(inputs: NDArray[Any]) -> NDArray[Any]:
    """Replaces every word by its position among the sorted words of its column."""
    if inputs.dtype.kind != "O":
        return inputs
    columns = []
    for column in inputs.T:
        try:
            columns.append(column.astype(np.float32))
        except ValueError:
            positions = np.unique(column.astype(str), return_inverse=True)[1]
            columns.append(positions.astype(np.float32))
    return np.stack(columns, axis=1)


def fetched(
    name: str, version: int, places: Places, advice: str = ""
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Inputs and targets from OpenML, or from the cache of an earlier download.

    Raises:
        ProblemError: the download failed; the message ends with `advice`.
    """
    from sklearn.datasets import fetch_openml

    parser = "pandas" if find_spec("pandas") else "liac-arff"  # pandas is ten times faster
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the requested version may be inactive
            inputs, targets = fetch_openml(
                name,
                version=version,
                return_X_y=True,
                as_frame=False,
                parser=parser,
                # scikit-learn fails on numeric classes that pandas 3 reads as categories.
                read_csv_kwargs={"dtype": None},
                data_home=None if places.cache is None else str(places.cache),
            )
    except Exception as error:  # the network, the cache and scikit-learn raise various errors
        raise ProblemError(
            f"the download of {name} (version {version}) from OpenML failed: {error}{advice}",
            "problem.data",
        ) from error
    return inputs, targets


def uploaded(options: Mapping[str, Any], places: Places) -> Raw:
    """An uploaded file, identified by the digest of its bytes."""
    field = "problem.data.data"
    return from_file(places.upload(options["data"], field), field, options["task"])


def local_file(options: Mapping[str, Any], places: Places) -> Raw:
    """A file below a data root."""
    path = places.below(options["path"], "path", "problem.data.path")
    if not path.is_file():
        raise ProblemError(
            f"path must be an npz or safetensors file, got {path}, which is not a file",
            "problem.data.path",
        )
    return from_file(path, "problem.data.path", options["task"])


def tensors_of(path: Path, field: str) -> dict[str, Tensor]:
    """The arrays of a file as tensors, by name."""
    return {name: torch.from_numpy(array) for name, array in _arrays(path, field).items()}


def _arrays(path: Path, field: str) -> dict[str, NDArray[Any]]:
    try:
        return array_file.load(path)
    except array_file.DataError as error:
        raise ProblemError(str(error), field) from error


def from_file(path: Path, field: str, task: str = "classification") -> Raw:
    """The arrays `inputs` and `targets`, and optionally `test_inputs` and `test_targets`.

    Every further array of integers, one per example, is a column.
    """
    arrays = _arrays(path, field)
    missing = {"inputs", "targets"} - arrays.keys()
    missing |= {"test_inputs", "test_targets"} - arrays.keys() if "test_inputs" in arrays else set()
    if missing:
        raise ProblemError(
            "the file must contain the arrays inputs and targets, and test_targets if it contains "
            f"test_inputs; {', '.join(sorted(missing))} is missing, got "
            f"{', '.join(sorted(arrays)) or 'no array'}",
            field,
        )
    read = measured if task == "regression" else classified
    raw = read(arrays["inputs"], arrays["targets"], field=field)
    columns = {
        name: torch.from_numpy(array.astype(np.int64))
        for name, array in arrays.items()
        if array.dtype.kind in "iub"
        and array.shape == (len(raw.inputs),)
        and name not in ("inputs", "targets", "test_inputs", "test_targets")
    }
    if "test_inputs" not in arrays:
        return replace(raw, columns=columns)
    test = read(arrays["test_inputs"], arrays["test_targets"], field=field)
    for name, known, got in (
        ("inputs", raw.inputs, test.inputs),
        ("targets", raw.targets, test.targets),
    ):
        if known.shape[1:] != got.shape[1:]:
            raise ProblemError(
                f"test_{name} must have examples of shape {tuple(known.shape[1:])} like {name}, "
                f"got {tuple(got.shape[1:])}",
                field,
            )
    classes = max(raw.classes, test.classes)
    return Raw(raw.inputs, raw.targets, classes, (test.inputs, test.targets), columns=columns)


def measured(inputs: NDArray[Any], targets: NDArray[Any], field: str = "problem.data") -> Raw:
    """Inputs with numbers as targets, shape (rows,) or (rows, targets).

    Raises:
        ProblemError: the numbers of targets and inputs differ, or a number is not finite.
    """
    table = targets[:, None] if targets.ndim == 1 else targets
    if inputs.ndim < 2 or table.ndim != 2 or len(table) != len(inputs):
        raise ProblemError(
            "inputs must have the shape (examples, ...) and targets (examples,) or (examples, "
            f"targets), got {inputs.shape} and {targets.shape}",
            field,
        )
    values = np.ascontiguousarray(table, dtype=np.float64)
    require_finite(values, "targets", field)
    return Raw(torch.from_numpy(finite_inputs(inputs, field)), torch.from_numpy(values), 0)


def classified(
    inputs: NDArray[Any],
    targets: NDArray[Any],
    image: Image | None = None,
    field: str = "problem.data",
) -> Raw:
    """Inputs with class numbers; integer targets are class numbers, all others are numbered.

    Raises:
        ProblemError: the numbers of targets and inputs differ, an input is missing or not finite,
            or a class number exceeds the number of examples.
    """
    if inputs.ndim < 2 or targets.shape != inputs.shape[:1]:
        raise ProblemError(
            "inputs must have the shape (examples, ...) and targets (examples,), got "
            f"{inputs.shape} and {targets.shape}",
            field,
        )
    numbers = finite_inputs(inputs, field)
    if targets.dtype.kind in "iu" and targets.size and targets.min() >= 0:
        labels, classes = targets.astype(np.int64), int(targets.max()) + 1
    else:
        known, labels = np.unique(targets, return_inverse=True)
        labels, classes = labels.astype(np.int64), len(known)
    if classes > max(2, len(targets)):
        raise ProblemError(
            f"targets must be class numbers 0, 1, ..., got {classes - 1} among {len(targets)} "
            "examples: number the classes consecutively",
            field,
        )
    return Raw(torch.from_numpy(numbers), torch.from_numpy(labels), classes, image=image)


def finite_inputs(inputs: NDArray[Any], field: str) -> NDArray[np.float32]:
    """The inputs in float32; raises ProblemError for one that is no finite number."""
    try:
        numbers = np.ascontiguousarray(inputs, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"inputs must be numbers, got {inputs.dtype}: {error}", field) from error
    require_finite(numbers, "inputs", field)
    return numbers


def require_finite(numbers: NDArray[Any], what: str, field: str) -> None:
    missing = int((~np.isfinite(numbers)).sum())
    if missing:
        raise ProblemError(
            f"{what} must be finite, got {missing} missing or infinite values: replace or remove "
            "them",
            field,
        )
