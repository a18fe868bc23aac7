"""The entries that the page of a job shows of what it learned."""

from __future__ import annotations

import base64
import csv
import io
import zlib
from typing import Any

import numpy as np
import pytest

from drmad_client.plots.learned_overview import overview
from drmad_client.records.hyperparameters import HyperparameterGroup, HyperparameterInfo
from drmad_client.records.side_runs.examples import ExampleGroups
from drmad_client.spec.job import JobSpec
from drmad_service.dashboard import learned
from tests.client import samples


def info(shape: list[int], transform: Any = "sigmoid", **more: Any) -> HyperparameterInfo:
    fields = {"name": "sample_weight", "kind": "sample_weight", "shape": shape} | more
    return HyperparameterInfo.model_validate(fields | {"transform": transform})


def spec(data: str = "digits", kind: str = "sample_weight") -> JobSpec:
    changes = {"problem": {"data": {"name": data}}, "hyperparameters": [{"kind": kind}]}
    return JobSpec.model_validate(samples.SPEC | changes)


LAYERS = [
    HyperparameterGroup(label="0.weight", start=0, stop=3),
    HyperparameterGroup(label="1.bias", start=3, stop=5),
]


def test_the_lowest_and_the_highest_of_a_million_are_found_in_order() -> None:
    raw = np.random.default_rng(0).permutation(1_000_000).astype(np.float32) / 1e5
    lowest = learned.entries(info([raw.size]), spec(), raw, raw * 0, "lowest", limit=12)
    assert [raw[each.index] for each in lowest] == sorted(raw)[:12]
    highest = learned.entries(info([raw.size]), spec(), raw, None, "highest", limit=12)
    assert [raw[each.index] for each in highest] == sorted(raw)[::-1][:12]
    assert lowest[0].value == 0.5
    assert (lowest[0].untuned, highest[0].untuned) == (0.5, None)


def test_an_entry_is_found_by_its_index_and_by_a_part_of_its_name() -> None:
    raw = np.arange(5.0)
    described = info([5], "exp", name="l2", kind="l2", groups=LAYERS)

    def found(query: str) -> list[str]:
        return [e.label for e in learned.entries(described, spec(), raw, raw, "index", query)]

    assert found("4") == ["l2, 1.bias[1]"]
    assert found("weight") == ["l2, 0.weight[0]", "l2, 0.weight[1]", "l2, 0.weight[2]"]
    assert found("BIAS") == ["l2, 1.bias[0]", "l2, 1.bias[1]"]
    assert found("5") == found("nothing") == []


def test_weights_are_averaged_by_class_with_the_lowest_first() -> None:
    raw = np.array([0.0, 0.0, -40.0, 40.0])
    groups = {
        "class": ExampleGroups(labels=["a", "b"], numbers=[0, 0, 1, -1]),
        "other data": ExampleGroups(labels=["c"], numbers=[0]),
    }
    found = learned.group_weights(groups, info([4]), raw)
    assert [(each.label, each.rows) for each in found] == [("b", 1), ("a", 2)]
    assert found[1].mean == 0.5


def test_learned_data_are_pictures_of_their_values() -> None:
    raw = np.random.default_rng(1).normal(size=(3, 64))
    described = info([3, 64], "identity", name="training_data", kind="training_data")
    found = learned.entries(described, spec(kind="training_data"), raw, None, "index", at=1)
    assert [each.index for each in found] == [1, 2]
    assert found[0].picture is not None
    content = base64.b64decode(found[0].picture.partition(",")[2])
    start = content.index(b"IDAT")
    size = int.from_bytes(content[start - 4 : start], "big")
    rows = zlib.decompress(content[start + 4 : start + 4 + size])
    pixels = np.frombuffer(rows, np.uint8).reshape(8, 9)[:, 1:]
    low, high = raw[1].min(), raw[1].max()
    np.testing.assert_allclose(pixels.ravel(), 255 * (raw[1] - low) / (high - low), atol=0.51)


def test_the_list_of_all_values_is_written_with_full_names() -> None:
    described = info([5], "exp", name="l2", kind="l2", groups=LAYERS)
    text = learned.as_csv(described, np.log(np.arange(1.0, 6.0)), np.zeros(5))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows[2:4]] == ["l2, 0.weight[2]", "l2, 1.bias[0]"]
    assert [float(row["tuned"]) for row in rows] == pytest.approx([1, 2, 3, 4, 5])
    assert {row["untuned"] for row in rows} == {"1.0"}


def test_layers_are_bars_in_order_of_their_geometric_means() -> None:
    described = info([5], "exp", name="l2", kind="l2", groups=LAYERS)
    figure = overview(described, np.log([1.0, 10.0, 100.0, 50.0, 50.0]), np.zeros(5))
    tuned, untuned = figure["data"]
    assert figure["layout"]["xaxis"]["title"]["text"] == (
        "l2: strength of the penalty<br>geometric mean of each group, log scale"
    )
    assert tuned["y"] == ["1.bias", "0.weight"]
    assert tuned["x"] == [50.0, 10.0]
    assert untuned["x"] == [1.0, 1.0]


def test_a_matrix_is_a_map_and_many_values_a_histogram() -> None:
    (matrix,) = overview(info([9, 9], "identity"), np.eye(9))["data"]
    assert matrix["z"] == np.eye(9).tolist()
    raw = np.random.default_rng(0).normal(size=1000)
    bars, line = overview(info([1000]), raw, raw * 0)["data"]
    assert sum(bars["y"]) == 1000
    assert line["x"] == [0.5, 0.5]
    below = sum(y for x, y in zip(bars["x"], bars["y"], strict=True) if x < 0.25)
    assert below == pytest.approx((raw < -np.log(3.0)).sum(), abs=25)
