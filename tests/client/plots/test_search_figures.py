"""Figures of searches and of pairs of jobs, and the ranks beneath them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from scipy import stats

from drmad_client.plots import figures
from drmad_client.plots.pairs import MAX_POINTS, pairs
from drmad_client.plots.ranks import rank_correlation, ranks
from drmad_client.records.hyperparameters import HyperparameterInfo
from drmad_client.records.search import Trial


def trial(number: int, loss: float | None, **values: Any) -> Trial:
    state = "diverged" if loss is None else "done"
    fields = {"number": number, "at": datetime.now(UTC), "state": state, "values": values}
    return Trial.model_validate(fields | {"validation_loss": loss})


@pytest.mark.parametrize("size", [2, 3, 50, 2000])
def test_ranks_and_their_correlation_are_those_of_scipy(size: int) -> None:
    draw = np.random.default_rng(size)
    one, other = draw.integers(0, size, size).astype(float), draw.normal(size=size)
    np.testing.assert_array_equal(ranks(one) + 1, stats.rankdata(one))
    expected = stats.spearmanr(one, other).statistic if len(set(one)) > 1 else None
    assert rank_correlation(one, other) == (pytest.approx(expected) if expected else expected)


def test_equal_or_missing_values_have_no_rank_correlation() -> None:
    assert rank_correlation(np.ones(5), np.arange(5.0)) is None
    assert rank_correlation(np.array([1.0, np.nan]), np.array([1.0, 2.0])) is None


def test_the_importance_finds_the_scalar_that_matters_also_with_its_best_inside() -> None:
    draw = np.random.default_rng(0)
    tried = []
    for number in range(60):
        rate, decay, noise = draw.uniform(size=3)
        loss = (rate - 0.5) ** 2 + 0.05 * decay
        tried.append(trial(number, float(loss), rate=rate, decay=decay, noise=noise))
    (bars,) = figures.importance(tried)["data"]
    found = dict(zip((name.strip() for name in bars["y"]), bars["x"], strict=True))
    assert next(iter(found)) == "rate"
    assert found["rate"] > 0.8
    assert found["noise"] < 0.1
    assert bars["text"][0] == "a value between the ends is best"
    choices = [trial(n, float(n % 3), model="abc"[n % 3]) for n in range(12)]
    (bars,) = figures.importance(choices)["data"]
    assert bars["x"] == [pytest.approx(1.0)]
    few = figures.importance(tried[:3])
    assert "needs 5 trials" in few["layout"]["annotations"][0]["text"]


def test_each_trial_is_a_line_from_its_lowest_to_its_highest_value() -> None:
    tried = [
        trial(n, loss, rate=rate, model=model)
        for n, (loss, rate, model) in enumerate(
            [(0.5, 0.001, "a"), (0.1, 1.0, "b"), (0.9, 0.1, "a"), (0.7, 0.01, "<c>")]
        )
    ]
    figure = figures.parallel_coordinates([*tried, trial(9, None, rate=1.0, model="a")])
    best = figure["data"][-1]
    assert best["name"] == "lowest losses"
    assert best["x"] == [0, 1, 2, None]
    assert best["y"] == [1.0, 1.0, 0.0, None]
    assert best["text"][0].startswith("trial 2<br>rate = 1")
    worst = figure["data"][0]
    assert worst["y"][0] == pytest.approx(2 / 3, abs=1e-4)  # its rate on a logarithmic axis
    assert worst["y"][2] == 1.0
    assert figure["layout"]["xaxis"]["ticktext"] == ["rate", "model", "validation loss"]
    labels = [note["text"] for note in figure["layout"]["annotations"]]
    assert labels[:4] == ["0.001", "1", "&lt;c>", "b"]


def test_a_pair_has_its_values_in_user_units_and_the_rank_correlation_of_all() -> None:
    info = HyperparameterInfo.model_validate(
        {"name": "l2", "kind": "l2", "shape": [10_000], "transform": "exp"}
    )
    one = np.random.default_rng(0).normal(size=10_000)
    figure = pairs(info, one, -one, ("<a>", "b"))
    points, _ = figure["data"]
    assert len(points["x"]) <= MAX_POINTS
    assert points["x"][0] == pytest.approx(np.exp(one[0]), rel=1e-4)
    assert points["y"][0] == pytest.approx(np.exp(-one[0]), rel=1e-4)
    assert figure["layout"]["title"]["text"] == "l2: rank correlation -1"
    assert figure["layout"]["xaxis"]["title"]["text"] == "&lt;a>, log scale"
