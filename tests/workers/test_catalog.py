"""Built-in data sets and models: splits, wrong labels, files, and what is refused."""

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from drmad_workers import ProblemError, SampleWeight, TrainingConfig
from drmad_workers.catalog import build_model, build_problem, idx, load_data
from drmad_workers.catalog.data import Split
from tests.workers.small import tuner_of


def write_idx(folder: Path, prefix: str, rows: int, compress: bool = True) -> None:
    """Pictures whose first pixels tell their number, and labels number modulo 10."""
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
    assert (split.input_shape, split.classes) == ((64,), 10)
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


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("place", ["", "mnist"])
def test_one_pair_of_files_gives_three_disjoint_parts(
    tmp_path: Path, place: str, compress: bool
) -> None:
    write_idx(tmp_path / place, "t10k", 300, compress)
    split = load_data("mnist", MNIST, [tmp_path])
    parts = [numbers(split, part) for part in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [200, 50, 50]
    assert sorted(parts[0] + parts[1] + parts[2]) == list(range(300))
    assert split.train[1].tolist() == [number % 10 for number in parts[0]]


def test_both_pairs_keep_the_test_files_for_the_test(tmp_path: Path) -> None:
    write_idx(tmp_path / "mnist", "train", 260)
    write_idx(tmp_path / "mnist", "t10k", 40)
    split = load_data("mnist", {**MNIST, "test": 40}, [tmp_path])
    assert sorted(numbers(split, "test")) == list(range(40))
    assert not set(numbers(split, "train")) & set(numbers(split, "valid"))
    assert max(numbers(split, "train")) >= 40


def test_a_folder_must_lie_below_a_data_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    write_idx(outside, "t10k", 300)
    write_idx(root / "below", "t10k", 300)
    (root / "link").symlink_to(outside)
    load_data("mnist", {**MNIST, "folder": str(root / "below")}, [root])
    for folder in (outside, root / "link", root / ".." / "outside", Path("/")):
        with pytest.raises(ProblemError, match="must lie below a data root") as error:
            load_data("mnist", {**MNIST, "folder": str(folder)}, [root])
        assert error.value.field == "problem.data.folder"


def test_a_link_to_a_file_outside_the_roots_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    write_idx(outside, "t10k", 300)
    for file in outside.iterdir():
        (root / file.name).symlink_to(file)
    with pytest.raises(ProblemError, match="must hold train-images"):
        load_data("mnist", {**MNIST, "folder": str(root)}, [root])


def test_missing_files_and_no_network_say_which_files_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(cache: Path | None) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(idx, "fetch_from_openml", offline)
    with pytest.raises(ProblemError) as error:
        load_data("mnist", MNIST, [tmp_path])
    for part in ("train-images-idx3-ubyte", ".gz", str(tmp_path), "no route to host"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x00\x08\x03", b"\x1f\x8bbroken", b"\x00\x00\x0d\x01\x00\x00\x00\x00"]
)
def test_damaged_files_are_told(tmp_path: Path, content: bytes) -> None:
    write_idx(tmp_path, "t10k", 300, compress=False)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ProblemError, match="t10k-images-idx3-ubyte"):
        load_data("mnist", MNIST, [tmp_path])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar", {}, "one of digits, mnist, got 'cifar'"),
        ("digits", {"training": 3}, "got training"),
        ("digits", {"train": 1500}, "at most the 1797 examples that digits has"),
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
    [("cnn", {}), ("mlp", {"width": 3}), ("mlp", {"hidden": [0]}), ("mlp", {"activation": "sin"})],
)
def test_models_that_cannot_be_are_refused(name: str, options: Mapping[str, Any]) -> None:
    with pytest.raises(ProblemError) as error:
        build_model(name, options, (64,), 10)
    assert error.value.field is not None
    assert error.value.field.startswith("problem.model")


def test_diagnostics_tell_wrong_labels_from_right_ones() -> None:
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
