"""Tables from CSV and Parquet files: read as pandas reads them, encoded, split, and refused."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from drmad_client.export import pytorch
from drmad_client.spec.capabilities import DATA_SETS
from drmad_client.spec.defaults import TABLE_SPLIT
from drmad_workers import (
    L2,
    Forward,
    Problem,
    ProblemError,
    SampleWeight,
    Stored,
    TrainingConfig,
)
from drmad_workers.catalog import Places, build_model, build_problem, data, load_data, table_files
from drmad_workers.catalog.split import Split
from drmad_workers.catalog.tabular import Tabular
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.verdict import assert_right
from tests.workers.small import tuner_of

ROWS = 40
FORMATS = ("csv", "parquet")
CITY = {"target": "price", "categorical": ["city"], "columns": ["source"]}


def frame_of(rows: int = ROWS) -> pd.DataFrame:
    draw = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "area": draw.normal(50.0, 20.0, rows),
            "rooms": draw.integers(1, 6, rows),
            "city": draw.choice(["Oslo", "Bergen", "Ås, nær Oslo"], rows),
            "constant": 7.1,
            "source": draw.choice(["web", "agent"], rows),
            "price": draw.normal(300.0, 40.0, rows),
        }
    )


def write(folder: Path, frame: pd.DataFrame, kind: str = "csv") -> None:
    if kind == "csv":
        frame.to_csv(folder / "table", index=False)
    else:
        frame.to_parquet(folder / "table", index=False)


def load(folder: Path, **options: Any) -> Split:
    return load_data("table", {"path": "table", **options}, Places([folder]))


@pytest.mark.parametrize("kind", FORMATS)
def test_inputs_are_the_columns_of_pandas_standardised_by_the_training_rows(
    tmp_path: Path, kind: str
) -> None:
    frame = frame_of().assign(
        split=["train"] * 25 + ["valid"] * 10 + ["test"] * 5,
    )
    write(tmp_path, frame, kind)
    split = load(tmp_path, **CITY, split="split")
    train = frame[frame["split"] == "train"]
    numbers = frame[["area", "rooms", "constant"]]
    scaled = (numbers - numbers[:25].mean()) / numbers[:25].std(ddof=0).replace(0.0, 1.0)
    scaled["constant"] = 0.0
    known = {city: i for i, city in enumerate(sorted(train["city"].unique()), start=1)}
    expected = scaled.assign(city=frame["city"].map(known))
    assert split.test is not None
    found = np.concatenate([part[0].numpy() for part in (split.train, split.valid, split.test)])
    np.testing.assert_allclose(found, expected.to_numpy(), rtol=1e-5, atol=1e-6)
    assert split.categories == (len(known) + 1,)
    assert list(split.columns["source"]) == list(train["source"])
    price = frame["price"]
    targets = (price - price[:25].mean()) / price[:25].std(ddof=0)
    np.testing.assert_allclose(split.test[1][:, 0], targets[35:], rtol=1e-5)


def test_csv_and_parquet_give_the_same_bits(tmp_path: Path) -> None:
    found = []
    for kind in FORMATS:
        write(tmp_path, frame_of(), kind)
        found.append(load(tmp_path, **CITY))
    for part in ("train", "valid", "test"):
        for one, other in zip(getattr(found[0], part), getattr(found[1], part), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_and_quotes_are_those_of_the_file(tmp_path: Path, delimiter: str) -> None:
    frame = frame_of()
    frame.to_csv(tmp_path / "table", index=False, sep=delimiter)
    assert load(tmp_path, **CITY).encoder == load_of(tmp_path, frame).encoder


def load_of(folder: Path, frame: pd.DataFrame, **options: Any) -> Split:
    write(folder, frame)
    return load(folder, **(CITY | options))


def test_parts_are_disjoint_shares_or_numbers_of_the_rows(tmp_path: Path) -> None:
    frame = frame_of().assign(number=range(ROWS))
    options = {"numeric": ["number"], "categorical": [], "standardize": False}
    for sizes, expected in (
        ({}, (24, 8, 8)),
        ({"train": 0.5, "valid": 7, "test": 0}, (20, 7, 0)),
        ({"train": 30, "valid": 5, "test": 5}, (30, 5, 5)),
    ):
        split = load_of(tmp_path, frame, **options, **sizes)
        parts = [
            [] if part is None else part[0][:, 0].tolist()
            for part in (split.train, split.valid, split.test)
        ]
        assert tuple(map(len, parts)) == expected
        assert len({number for part in parts for number in part}) == sum(expected)
    again = load_of(tmp_path, frame, **options, seed=1)
    assert again.train[0][:, 0].tolist() != load_of(tmp_path, frame, **options).train[0].tolist()


def test_categories_that_training_has_not_seen_have_number_0(tmp_path: Path) -> None:
    frame = frame_of().assign(split=["train"] * 20 + ["valid"] * 20)
    frame.loc[20, "city"], frame.loc[21, "city"] = "Tromsø", None
    split = load_of(tmp_path, frame, split="split")
    assert split.encoder is not None
    assert split.encoder.categorical[0].categories == ("Bergen", "Oslo", "Ås, nær Oslo")
    assert split.valid[0][:2, -1].tolist() == [0.0, 0.0]
    assert (split.valid[0][2:, -1] > 0).all()


def test_new_rows_are_encoded_as_the_training_rows_were(tmp_path: Path) -> None:
    frame = frame_of().assign(split=["train"] * 30 + ["valid"] * 10)
    split = load_of(tmp_path, frame, split="split")
    assert split.encoder is not None
    found = split.encoder.encode(frame.drop(columns=["price", "source", "split"])[30:])
    np.testing.assert_array_equal(found, split.valid[0].numpy())


@pytest.mark.parametrize("kind", FORMATS)
def test_missing_numbers_become_the_training_mean_beside_an_indicator(
    tmp_path: Path, kind: str
) -> None:
    frame = frame_of().assign(split=["train"] * 30 + ["valid"] * 10)
    frame.loc[[2, 33], "area"] = np.nan
    write(tmp_path, frame, kind)
    options = {**CITY, "numeric": ["area"], "categorical": [], "split": "split"}
    split = load(tmp_path, **options, missing="mean")
    values, missing = split.train[0].T
    assert missing.nonzero().flatten().tolist() == [2]
    assert split.valid[0][:, 1].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert float(values[2]) == float(split.valid[0][3, 0]) == 0.0
    known = frame["area"][:30].dropna()
    expected = (known - known.mean()) / known.std(ddof=0)
    np.testing.assert_allclose(values[missing == 0], expected, rtol=1e-5)
    with pytest.raises(ProblemError, match=r"'area' \(2 rows, the first is 3\): set missing: mean"):
        load(tmp_path, **options)


TARGETS: dict[str, tuple[Any, dict[str, Any], str, int]] = {
    "words": (["a", "b", "c", "a"] * 10, {}, "classification", 3),
    "two words": (["no", "yes"] * 20, {}, "binary", 1),
    "truth values": ([True, False] * 20, {}, "binary", 1),
    "fractions": ([0.5, 1.0, 2.0, 3.0] * 10, {}, "regression", 1),
    "stated classes": ([3, 7, 11, 3] * 10, {"task": "classification"}, "classification", 3),
    "stated numbers": ([3, 7, 11, 3] * 10, {"task": "regression"}, "regression", 1),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", TARGETS)
def test_a_task_is_inferred_where_the_target_leaves_no_doubt(
    tmp_path: Path, name: str, kind: str
) -> None:
    values, options, task, outputs = TARGETS[name]
    write(tmp_path, frame_of().assign(price=values), kind)
    split = load(tmp_path, **CITY, **options)
    assert (split.task.name, split.task.outputs) == (task, outputs)


def test_classes_are_numbered_in_the_order_of_numbers(tmp_path: Path) -> None:
    frame = frame_of().assign(price=[10, 9, 100, 9] * 10)
    split = load_of(tmp_path, frame, task="classification")
    assert split.targets is not None
    assert split.targets.labels == ("9", "10", "100")
    assert split.targets.values[:4].tolist() == [1, 0, 2, 0]


def test_several_targets_are_labels_or_numbers(tmp_path: Path) -> None:
    frame = frame_of().assign(price=[0, 1] * 20, other=[1, 1, 0, 0] * 10)
    split = load_of(tmp_path, frame, target=["price", "other"])
    assert (split.task.name, split.train[1].shape) == ("multilabel", (24, 2))
    assert set(split.task.metrics) == {"error", "error_price", "error_other"}
    frame["other"] = np.linspace(0, 9, ROWS)
    split = load_of(tmp_path, frame, target=["price", "other"])
    assert (split.task.name, split.train[1].shape) == ("regression", (24, 2))
    assert set(split.task.metrics) == {"rmse_price", "mae_price", "rmse_other", "mae_other", "r2"}


REFUSED: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], str, str]] = {
    "no such column": ({}, {"target": "cost"}, "problem.data", "none called 'cost'; it has area"),
    "text": ({}, {"categorical": []}, "problem.data.numeric", "'city' .* row 1 .* categorical"),
    "infinite": ({"area": np.inf}, {}, "problem.data.numeric", "finite .* row 1 .40 such"),
    "missing target": ({"price": None}, {}, "problem.data.target", "none in row 1 .40 such rows"),
    "whole numbers": ({"price": range(ROWS)}, {}, "problem.data.task", "state task: class"),
    "one class": ({"price": "a"}, {}, "problem.data.target", "2 to 10000 classes .* got 1"),
    "no label": ({"price": 2}, {"task": "multilabel"}, "problem.data.target", "got 2 in row 1"),
    "unsplit": ({"part": "dev"}, {"split": "part"}, "problem.data.split", "got 'dev' in row 1"),
    "no valid": ({"part": "train"}, {"split": "part"}, "problem.data.split", "rows of valid"),
    "too many": ({}, {"train": 40, "valid": 1}, "problem.data.train", "at most 40, .* got 49"),
    "no valid share": ({}, {"valid": 0.01}, "problem.data.valid", "at least one of the 40 rows"),
    "no inputs": ({}, {"numeric": [], "categorical": []}, "problem.data.numeric", "got none"),
    "empty column": (
        {"area": None}, {"missing": "mean"}, "problem.data.numeric", "number in a training row",
    ),
    "no source": ({"source": None}, {}, "problem.data.columns", "'source' .* got none in row"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_tables_that_do_not_fit_are_refused_by_column_and_row(tmp_path: Path, name: str) -> None:
    columns, options, field, words = REFUSED[name]
    with pytest.raises(ProblemError, match=words) as error:
        load_of(tmp_path, frame_of().assign(**columns), **options)
    assert error.value.field == field


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"one column\n1\n",
        b"a,a\n1,2\n",
        b"a,\n1,2\n",
        b"a,price\n1,2,3,4\n5,6\n",
        b"a,b,price\n1,2,3\n5,6\n",
        b"a,price\n1,\xff\xfe\n",
        b"PAR1 and nothing else",
        b"PAR1" + bytes(40) + (20).to_bytes(4, "little") + b"PAR1",
        b"a,price\n",
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table").write_bytes(content)
    with pytest.raises(ProblemError) as error:
        load(tmp_path, target="price")
    assert error.value.field == "problem.data.path"


def test_a_table_must_lie_below_a_data_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write(tmp_path, frame_of())
    (root / "table").symlink_to(tmp_path / "table")
    for path in ("table", "../table", str(tmp_path / "table")):
        with pytest.raises(ProblemError, match="must lie below a data root"):
            load(root, **{**CITY, "path": path})


@pytest.mark.parametrize("kind", FORMATS)
def test_the_size_of_a_table_is_bounded(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, frame_of(), kind)
    monkeypatch.setattr(table_files, "MAX_BYTES", 100)
    with pytest.raises(ProblemError, match="at most 100 bytes"):
        load(tmp_path, **CITY)


def test_nested_columns_of_parquet_are_refused(tmp_path: Path) -> None:
    table = pa.table({"a": [[1], [2]], "price": [0.5, 1.5]})
    pq.write_table(table, tmp_path / "table")
    with pytest.raises(ProblemError, match="'a' must hold one value per row"):
        load(tmp_path, target="price")


def test_categories_of_parquet_may_be_dictionaries_and_whole_numbers(tmp_path: Path) -> None:
    frame = frame_of().astype({"city": "category"})
    write(tmp_path, frame, "parquet")
    by_word = load(tmp_path, **CITY)
    assert by_word.encoder is not None
    assert by_word.encoder.categorical[0].categories == ("Bergen", "Oslo", "Ås, nær Oslo")
    by_number = load(tmp_path, **{**CITY, "categorical": ["rooms"], "ignore": ["city"]})
    assert by_number.encoder is not None
    assert by_number.encoder.categorical[0].categories == ("1", "2", "3", "4", "5")


def test_defaults_of_the_spec_are_those_of_the_engine() -> None:
    fields = DATA_SETS["table"].model_fields
    _, defaults = data.DATA_SETS["table"]
    assert fields.keys() - {"name"} == defaults.keys()
    stated = {name: field.default for name, field in fields.items() if not field.is_required()}
    assert {name: defaults[name] for name in stated if name != "name"} == {
        name: value for name, value in stated.items() if name != "name"
    }
    assert sum(TABLE_SPLIT.values()) == 1.0


def test_tabular_embeds_the_last_columns() -> None:
    model = build_model("tabular", {"hidden": [4]}, (5,), 2, categories=(4, 300))
    assert isinstance(model, Tabular)
    tables = list(model.embeddings.parameters())
    assert [tuple(table.shape) for table in tables] == [(4, 2), (300, 50)]
    inputs = torch.tensor([[0.5, -1.0, 2.0, 3.0, 299.0]])
    parts = [inputs[:, :3], tables[0][[3]], tables[1][[299]]]
    assert torch.equal(model(inputs), model.layers(torch.cat(parts, 1)))
    with pytest.raises(ProblemError, match="use tabular"):
        build_model("mlp", {}, (5,), 2, categories=(4,))


def small_table(folder: Path, **options: Any) -> Problem:
    problem = build_problem(
        {"name": "tabular", "hidden": [4], "activation": "tanh"},
        {"name": "table", "path": "table", **CITY, **options},
        places=Places([folder]),
    )
    return replace(problem, test=None, metrics={})


TRAINING = TrainingConfig("sgd", steps=5, batch_size=8, learning_rate=0.2, momentum=0.5)


@pytest.mark.parametrize(
    ("column", "options"),
    [
        (None, {}),
        (["a", "b", "c", "b"] * 10, {}),
        ([0, 1] * 20, {}),
        ([0, 1, 1, 0] * 10, {"target": ["price", "rooms"], "task": "multilabel"}),
    ],
    ids=["regression", "classification", "binary", "multilabel"],
)
def test_hypergradients_on_a_table_are_central_differences_of_plain_trainings(
    tmp_path: Path, column: Any, options: dict[str, Any]
) -> None:
    frame = frame_of()
    frame["rooms"] %= 2
    write(tmp_path, frame if column is None else frame.assign(price=column))
    kinds = (L2(init=-3.0, per="layer"), SampleWeight(per="source", normalised=True))
    problem = small_table(tmp_path, **options)

    def build() -> Problem:
        return replace(problem, model=deepcopy(problem.model))

    assert_right(Recipe(build, kinds, TRAINING), [Stored(), Forward()])


def test_the_export_knows_the_penalties_of_a_tabular_model(tmp_path: Path) -> None:
    write(tmp_path, frame_of())
    problem = small_table(tmp_path)
    tuner = tuner_of(problem, [L2(per="unit", init=-3.0)], TRAINING)
    values = tuner.initial_values()
    values["l2"] = torch.linspace(-3.0, -1.0, len(values["l2"]), dtype=torch.float64)
    trained = tuner.evaluate(values, 0).model
    model = small_table(tmp_path).model.double()
    model.load_state_dict(
        pytorch.state_dict({name: tensor.numpy() for name, tensor in trained.items()})
    )
    coefficients = pytorch.penalties(model, values["l2"].exp().numpy(), per="unit")
    objective = tuner.objective
    objective.parameters.attach()
    objective.set_hyperparameters(values)
    gradient = torch.zeros_like(objective.parameters.weights)
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    objective.penalties.add_gradient(flat, gradient)
    pytorch.penalty(model, coefficients).backward()  # type: ignore[no-untyped-call]
    expected = torch.cat(
        [
            torch.zeros(p.numel(), dtype=p.dtype) if p.grad is None else p.grad.flatten()
            for p in model.parameters()
        ]
    )
    torch.testing.assert_close(gradient, expected)
    assert isinstance(model, nn.Module)
