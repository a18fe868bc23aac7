"""Built-in data sets and models: splits, wrong labels, files, and what is refused."""

import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from torch import nn

from drmad_workers import L2, ProblemError, SampleWeight, TrainingConfig
from drmad_workers.catalog import Places, build_model, build_problem, load_data, sources
from drmad_workers.catalog.data import DATA_SETS
from drmad_workers.catalog.split import Split
from tests.workers.small import tuner_of


def write_idx(folder: Path, prefix: str, rows: int, compress: bool = True) -> None:
    """Images whose first pixels encode their number, with the number modulo 10 as label."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = np.zeros((rows, 28, 28), np.uint8)
    pictures[:, 0, 0] = np.arange(rows) % 256
    pictures[:, 0, 1] = np.arange(rows) // 256
    labels = (np.arange(rows) % 10).astype(np.uint8)
    for kind, array in (("images-idx3", pictures), ("labels-idx1", labels)):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        content = head + array.tobytes()
        name = f"{prefix}-{kind}-ubyte"
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def numbers(split: Split, part: str) -> list[int]:
    inputs = getattr(split, part)[0]
    return [round(float(row[0] * 255 + row[1] * 255 * 256)) for row in inputs]


MNIST = {"train": 200, "valid": 50, "test": 50}


def test_digits_are_split_into_disjoint_parts_of_the_asked_sizes() -> None:
    split = load_data("digits", {})
    assert split.test is not None
    parts = (split.train, split.valid, split.test)
    assert [len(targets) for _, targets in parts] == [1000, 300, 497]
    rows = torch.cat([inputs for inputs, _ in parts])
    assert (split.input_shape, split.task.outputs) == ((64,), 10)
    assert (float(rows.min()), float(rows.max())) == (0.0, 1.0)
    assert split.wrong is None


def test_split_and_noise_are_functions_of_the_datas_seed() -> None:
    options = {"label_noise": 0.3}
    first, same = load_data("digits", options), load_data("digits", {**options, "seed": 0})
    assert torch.equal(first.train[0], same.train[0])
    assert torch.equal(first.train[1], same.train[1])
    assert not torch.equal(first.train[1], load_data("digits", {**options, "seed": 1}).train[1])


def test_replaced_labels_are_wrong_but_for_a_tenth_and_no_others() -> None:
    clean, noisy = load_data("digits", {}), load_data("digits", {"label_noise": 0.5})
    assert noisy.wrong is not None
    assert torch.equal(clean.train[0], noisy.train[0])
    assert torch.equal(clean.train[1] != noisy.train[1], noisy.wrong)
    assert 430 < int(noisy.wrong.sum()) < 470
    assert torch.equal(clean.valid[1], noisy.valid[1])
    assert set(noisy.train[1].tolist()) == set(range(10))


def test_dropping_the_noisy_leaves_the_correct_ones() -> None:
    noisy = load_data("digits", {"label_noise": 0.45})
    kept = load_data("digits", {"label_noise": 0.45, "drop_noisy": True})
    assert noisy.wrong is not None
    assert torch.equal(kept.train[0], noisy.train[0][~noisy.wrong])
    assert torch.equal(kept.train[1], noisy.train[1][~noisy.wrong])
    assert kept.wrong is None


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "wine", "iris"])
def test_bundled_examples_are_those_that_scikit_learn_returns(name: str) -> None:
    source, _ = DATA_SETS[name]
    raw = source({}, Places())
    assert isinstance(raw, sources.Raw)
    inputs, targets = getattr(datasets, f"load_{name}")(return_X_y=True)
    scale = 16.0 if name == "digits" else 1.0
    assert torch.equal(raw.inputs, torch.from_numpy(inputs / scale).float())
    assert torch.equal(raw.targets, torch.from_numpy(targets).long())


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("place", ["", "mnist"])
def test_one_pair_of_files_gives_three_disjoint_parts(
    tmp_path: Path, place: str, compress: bool
) -> None:
    write_idx(tmp_path / place, "t10k", 300, compress)
    split = load_data("mnist", MNIST, Places([tmp_path]))
    parts = [numbers(split, part) for part in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [200, 50, 50]
    assert sorted(parts[0] + parts[1] + parts[2]) == list(range(300))
    assert split.train[1].tolist() == [number % 10 for number in parts[0]]


def test_both_pairs_keep_the_test_files_for_the_test(tmp_path: Path) -> None:
    write_idx(tmp_path / "mnist", "train", 260)
    write_idx(tmp_path / "mnist", "t10k", 40)
    split = load_data("mnist", {**MNIST, "test": 40}, Places([tmp_path]))
    assert sorted(numbers(split, "test")) == list(range(40))
    assert not set(numbers(split, "train")) & set(numbers(split, "valid"))
    assert max(numbers(split, "train")) >= 40


def test_a_folder_must_lie_below_a_data_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    write_idx(outside, "t10k", 300)
    write_idx(root / "below", "t10k", 300)
    (root / "link").symlink_to(outside)
    load_data("mnist", {**MNIST, "folder": str(root / "below")}, Places([root]))
    for folder in (outside, root / "link", root / ".." / "outside", Path("/")):
        with pytest.raises(ProblemError, match="must lie below a data root") as error:
            load_data("mnist", {**MNIST, "folder": str(folder)}, Places([root]))
        assert error.value.field == "problem.data.folder"


def test_a_link_to_a_file_outside_the_roots_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    write_idx(outside, "t10k", 300)
    for file in outside.iterdir():
        (root / file.name).symlink_to(file)
    with pytest.raises(ProblemError, match="must contain train-images"):
        load_data("mnist", {**MNIST, "folder": str(root)}, Places([root]))


def test_missing_files_and_no_network_say_which_files_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", offline)
    with pytest.raises(ProblemError) as error:
        load_data("mnist", MNIST, Places([tmp_path]))
    for part in ("train-images-idx3-ubyte", ".gz", str(tmp_path), "no route to host"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x00\x08\x03", b"\x1f\x8bbroken", b"\x00\x00\x0d\x01\x00\x00\x00\x00"]
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    write_idx(tmp_path, "t10k", 300, compress=False)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ProblemError, match="t10k-images-idx3-ubyte"):
        load_data("mnist", MNIST, Places([tmp_path]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar", {}, "one of digits, mnist, fashion_mnist"),
        ("digits", {"training": 3}, "got training"),
        ("digits", {"train": 1500}, "at most 1797, the number of examples of digits, got"),
        ("digits", {"valid": 0}, "valid must be at least 1, got 0"),
        ("digits", {"label_noise": 1.0}, "label_noise must be"),
    ],
)
def test_data_that_cannot_be_are_refused(
    name: str, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ProblemError) as error:
        load_data(name, options)
    assert message in str(error.value)


def test_mlp_has_the_layers_asked_for() -> None:
    model = build_model("mlp", {"hidden": [50, 30], "activation": "relu"}, (1, 8, 8), 10)
    assert [type(layer).__name__ for layer in model.children()] == [
        "Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear",
    ]  # fmt: skip
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert isinstance(build_model("mlp", {"hidden": []}, (64,), 10)[0], nn.Linear)  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rnn", {}),
        ("mlp", {"width": 3}),
        ("mlp", {"hidden": [0]}),
        ("mlp", {"activation": "sin"}),
        ("cnn", {"channels": [8, 8, 8, 8]}),
        ("cnn", {"hidden": [3]}),
    ],
)
def test_models_that_cannot_be_are_refused(name: str, options: Mapping[str, Any]) -> None:
    with pytest.raises(ProblemError) as error:
        build_model(name, options, (64,), 10, image=(1, 8, 8))
    assert error.value.field is not None
    assert error.value.field.startswith("problem.model")


@pytest.mark.parametrize("batch_norm", [True, False])
def test_cnn_takes_pictures_that_lie_flat_or_stand(batch_norm: bool) -> None:
    options = {"channels": [4, 6], "batch_norm": batch_norm, "activation": "tanh"}
    flat = build_model("cnn", options, (64,), 10, image=(1, 8, 8))
    assert flat(torch.zeros(2, 64)).shape == (2, 10)
    standing = build_model("cnn", options, (3, 12, 8), 5, image=(3, 12, 8))
    assert standing(torch.zeros(2, 3, 12, 8)).shape == (2, 5)
    names = [type(layer).__name__ for layer in standing.children()]
    assert names.count("BatchNorm2d") == 2 * batch_norm
    with pytest.raises(ProblemError, match="cnn needs images"):
        build_model("cnn", {}, (30,), 2)


def test_cnn_is_differentiated_by_every_penalty() -> None:
    problem = build_problem(
        {"name": "cnn", "channels": [3, 4], "activation": "tanh"},
        {"name": "digits", "train": 100, "valid": 50},
    )
    tuner = tuner_of(problem, [L2(per="unit", init=-4.0)], TrainingConfig(steps=8, batch_size=20))
    gradient = tuner.evaluate(tuner.initial_values(), 0).hypergradient["l2"]
    assert gradient.shape == (1 + 3 + 4 * 2 * 2,)
    assert bool((gradient != 0).all())


@pytest.mark.parametrize(
    ("name", "shape", "classes"), [("breast_cancer", 30, 2), ("wine", 13, 3), ("iris", 4, 3)]
)
def test_tables_are_standardized_by_their_training_part(
    name: str, shape: int, classes: int
) -> None:
    split = load_data(name, {})
    inputs = split.train[0]
    assert (split.input_shape, split.task.outputs) == ((shape,), classes)
    assert torch.allclose(inputs.mean(dim=0), torch.zeros(shape), atol=1e-5)
    assert torch.allclose(inputs.std(dim=0, correction=0), torch.ones(shape), atol=1e-5)
    assert split.valid[0].mean(dim=0).abs().max() > 1e-3
    raw = load_data(name, {"standardize": False})
    assert not torch.equal(raw.train[0], inputs)
    assert torch.equal(raw.train[1], split.train[1])


def test_fashion_mnist_is_read_from_files_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write_idx(tmp_path / "fashion_mnist", "t10k", 300)
    split = load_data("fashion_mnist", MNIST, Places([tmp_path]))
    assert (split.input_shape, split.image) == ((784,), (1, 28, 28))


def keep_openml(
    cache: Path, name: str, version: int, columns: dict[str, str], rows: list[str]
) -> None:
    """Write a data set into scikit-learn's cache, without a network; the target is last."""
    arff = "\n".join([
        f"@RELATION {name}", *(f"@ATTRIBUTE {column} {kind}" for column, kind in columns.items()),
        "@DATA", *rows, "",
    ]).encode()  # fmt: skip
    api, target = "api/v1/json/data", [*columns][-1]
    described = {
        "id": "7", "name": name, "version": str(version), "format": "ARFF", "status": "active",
        "file_id": "9", "default_target_attribute": target,
        "url": f"https://www.openml.org/data/v1/download/9/{name}.arff",
        "md5_checksum": hashlib.md5(arff).hexdigest(),
    }  # fmt: skip
    features = [
        {"index": str(n), "name": column, "data_type": "numeric" if kind == "REAL" else "nominal",
         "is_target": str(column == target).lower(),
         "is_ignore": "false", "is_row_identifier": "false", "number_of_missing_values": "0"}
        for n, (column, kind) in enumerate(columns.items())
    ]  # fmt: skip
    listed = {"did": 7, "name": name, "version": version, "status": "active"}
    kept = {
        f"{api}/list/data_name/{name.lower()}/limit/2/data_version/{version}": {
            "data": {"dataset": [listed]}
        },
        f"{api}/7": {"data_set_description": described},
        f"{api}/features/7": {"data_features": {"feature": features}},
        f"{api}/qualities/7": {
            "data_qualities": {"quality": [{"name": "NumberOfInstances", "value": str(len(rows))}]}
        },
    }
    contents = {path: json.dumps(answer).encode() for path, answer in kept.items()}
    for path, content in {**contents, f"data/v1/download/9/{name}.arff": arff}.items():
        file = cache / "openml" / "openml.org" / f"{path}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(content))


def test_a_data_set_of_openml_is_read_from_what_was_downloaded_before(tmp_path: Path) -> None:
    rows = [f"{x / 7},{'ab'[x % 2]},{'no' if x < 20 else 'yes'}" for x in range(30)]
    columns = {"size": "REAL", "kind": "{a,b}", "good": "{no,yes}"}
    keep_openml(tmp_path, "tiny", 2, columns, rows)
    options = {"dataset": "tiny", "version": 2, "train": 20, "valid": 10, "standardize": False}
    split = load_data("openml", options, Places(cache=tmp_path))
    inputs, targets = (torch.cat(pair) for pair in zip(split.train, split.valid, strict=True))
    assert (split.input_shape, split.task.outputs) == ((2,), 2)
    assert torch.equal(targets, (inputs[:, 0] * 7 > 19.5).long())
    assert set(inputs[:, 1].tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("found", [["pandas"], []], ids=["pandas", "liac-arff"])
def test_cifar10_is_read_from_what_was_downloaded_before_and_trains_a_net(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: list[str]
) -> None:
    """Thirty pictures of one colour each, as OpenML's CIFAR_10 lays them out: red, green, blue."""
    monkeypatch.setattr(sources, "find_spec", lambda name: name in found or None)
    columns = {f"a{n}": "REAL" for n in range(3 * 32 * 32)}
    columns["class"] = f"{{{','.join(map(str, range(10)))}}}"
    plane = 32 * 32
    rows = [
        ",".join(["255"] * plane + [str(x)] * plane + ["0"] * plane + [str(x % 10)])
        for x in range(30)
    ]
    keep_openml(tmp_path, "CIFAR_10", 1, columns, rows)
    options = {"train": 20, "valid": 10, "test": 0}
    split = load_data("cifar10", options, Places(cache=tmp_path))
    assert (split.input_shape, split.task.outputs, split.image) == ((3072,), 10, (3, 32, 32))
    inputs, targets = (torch.cat(pair) for pair in zip(split.train, split.valid, strict=True))
    pictures = inputs.view(30, 3, 32, 32)
    assert torch.equal(pictures.amax(dim=(2, 3)), pictures.amin(dim=(2, 3)))
    colours = pictures[:, :, 0, 0]
    assert torch.equal(colours[:, 0], torch.ones(30))
    assert torch.equal(colours[:, 2], torch.zeros(30))
    assert torch.equal((colours[:, 1] * 255).round().long() % 10, targets)
    data = {"name": "cifar10"} | options
    problem = build_problem({"name": "cnn"}, data, places=Places(cache=tmp_path))
    assert problem.model(inputs[:2]).shape == (2, 10)


def write_arrays(path: Path, rows: int = 30, **changes: Any) -> Path:
    inputs = np.arange(rows * 16, dtype=np.float64).reshape(rows, 4, 4)
    arrays = {"inputs": inputs, "targets": np.arange(rows) % 3} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


OWN = {"train": 20, "valid": 10}


def test_uploaded_pictures_train_either_model(tmp_path: Path) -> None:
    name = "ab" * 32
    write_arrays(tmp_path / "made.npz").rename(tmp_path / name)
    data = {"name": "upload", "data": f"sha256:{name}", **OWN}
    places = Places(uploads=tmp_path)
    split = load_data("upload", {k: v for k, v in data.items() if k != "name"}, places)
    assert (split.input_shape, split.task.outputs, split.image) == ((4, 4), 3, (1, 4, 4))
    assert sorted(torch.cat([split.train[0], split.valid[0]])[:, 0, 0].tolist()) == [
        16.0 * row for row in range(30)
    ]
    for model in ("mlp", "cnn"):
        problem = build_problem({"name": model}, data, places=places)
        assert problem.model(problem.train[0]).shape == (20, 3)
    with pytest.raises(ProblemError, match="not on this worker"):
        load_data("upload", {"data": "sha256:" + "cd" * 32, **OWN}, places)
    with pytest.raises(ProblemError, match="DRMAD_DATA_DIR is not set"):
        load_data("upload", {"data": "sha256:" + "cd" * 32, **OWN})


def test_own_test_part_is_kept_for_the_test(tmp_path: Path) -> None:
    path = write_arrays(
        tmp_path / "mine.npz", test_inputs=np.full((5, 4, 4), -1.0), test_targets=np.full(5, 4)
    )
    split = load_data("file", {"path": path.name, "test": 5, **OWN}, Places([tmp_path]))
    assert split.test is not None
    assert (split.task.outputs, np.unique(split.test[0]).tolist()) == (5, [-1.0])


def test_files_are_read_below_the_data_roots_and_nowhere_else(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "below", outside):
        folder.mkdir(parents=True)
        write_arrays(folder / "mine.npz")
    (root / "link").symlink_to(outside)
    (root / "linked.npz").symlink_to(outside / "mine.npz")
    (root / "inside.npz").symlink_to(root / "below" / "mine.npz")
    places = Places([tmp_path / "other", root], uploads=outside)
    for path in ("below/mine.npz", str(root / "below" / "mine.npz"), "inside.npz"):
        assert len(load_data("file", {"path": path, **OWN}, places).train[1]) == 20
    for path in (
        str(outside / "mine.npz"), "../outside/mine.npz", "link/mine.npz", "linked.npz",
        f"{root}/../outside/mine.npz", "/etc/passwd", "..", "below/../../outside/mine.npz",
    ):  # fmt: skip
        with pytest.raises(ProblemError, match=r"lie below a data root|is not a file") as error:
            load_data("file", {"path": path, **OWN}, places)
        assert error.value.field == "problem.data.path"
    for path in ("below/none.npz", "below", "."):
        with pytest.raises(ProblemError, match="which is not a file"):
            load_data("file", {"path": path, **OWN}, places)
    with pytest.raises(ProblemError, match="none is configured"):
        load_data("file", {"path": str(root / "below" / "mine.npz"), **OWN})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": None}, "targets is missing, got inputs"),
        ({"targets": np.zeros(29)}, "as many|shape"),
        ({"inputs": np.zeros(30)}, "must have the shape"),
        ({"inputs": np.full((30, 2), np.nan)}, "must be finite"),
        ({"targets": np.arange(30) * 10}, "must be class numbers 0, 1"),
        ({"test_inputs": np.zeros((2, 4, 4))}, "test_targets is missing"),
        ({"test_inputs": np.zeros((2, 5)), "test_targets": np.zeros(2)}, "examples of shape"),
        ({"inputs": np.array([{}] * 30, dtype=object)}, "must hold numbers, it holds"),
    ],
)
def test_arrays_that_are_no_classification_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_arrays(tmp_path / "mine.npz", **changes)
    with pytest.raises(ProblemError, match=message):
        load_data("file", {"path": path.name, **OWN}, Places([tmp_path]))


def test_diagnostics_distinguish_wrong_labels_from_right_ones() -> None:
    problem = build_problem({"name": "mlp"}, {"name": "digits", "label_noise": 0.4})
    wrong = load_data("digits", {"label_noise": 0.4}).wrong
    assert wrong is not None
    weights = {"low": wrong, "high": ~wrong, "alike": torch.zeros(1000), "half": torch.arange(1000)}
    found = {
        name: [measure({"anything": value.double()}) for measure in problem.diagnostics.values()]
        for name, value in weights.items()
    }
    assert list(problem.diagnostics) == ["label_noise_precision", "label_noise_auc"]
    assert found["high"] == [1.0, 1.0]
    assert found["low"][1] == 0.0
    assert found["alike"][1] == 0.5
    assert found["half"][0] == pytest.approx(0.4, abs=0.05)
    assert found["half"][1] == pytest.approx(0.5, abs=0.05)
    assert all(measure({"l2": torch.zeros(64)}) is None for measure in problem.diagnostics.values())
    rows = len(problem.train[0])
    schedule = {"learning_rate": torch.rand(rows)}  # as many steps as examples
    assert all(measure(schedule) is None for measure in problem.diagnostics.values())


def test_figures_of_a_catalogued_problem_have_names() -> None:
    problem = build_problem(
        {"name": "mlp", "hidden": [4]}, {"name": "digits", "train": 60, "label_noise": 0.1}
    )
    tuner = tuner_of(problem, [SampleWeight()], TrainingConfig(steps=2, batch_size=10))
    result = tuner.evaluate(tuner.initial_values(), 0)
    assert set(result.metrics) == {"validation_error", "test_loss", "test_error"}
    assert set(result.diagnostics) == {"label_noise_precision", "label_noise_auc"}
    assert set(result.model) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert set(result.seconds) == {"forward", "evaluate", "backward"}
    assert result.peak_memory_bytes > 0
