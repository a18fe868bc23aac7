"""Hypergradients of several replicas joined, against numpy over the replicas that hold each row."""

import numpy as np
import pytest
import torch
from torch import Tensor

from drmad_client.spec.outer.aggregations import AggregationName
from drmad_workers import ProblemError, aggregate
from drmad_workers.meta.aggregation import covered

HELD = [torch.tensor(rows) for rows in ([0, 1, 2], [1, 2, 3], [2, 3, 4], [2])]
ROWS = 6


def gradients() -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        {"pixels": torch.randn(ROWS, 3, generator=draw), "l2": torch.randn(4, generator=draw)}
        for _ in HELD
    ]


def test_mean_vote_and_median_over_replicas() -> None:
    replicas = [{"l2": torch.tensor(row)} for row in ([1.0, -9.0], [2.0, 1.0], [-6.0, 1.0])]
    assert torch.equal(aggregate(replicas)["l2"], torch.tensor([-1.0, -7.0 / 3.0]))
    assert torch.equal(aggregate(replicas, "sign")["l2"], torch.tensor([1.0, 1.0]))
    assert torch.equal(aggregate(replicas, "median")["l2"], torch.tensor([1.0, 1.0]))
    assert torch.equal(aggregate(replicas[:2], "median")["l2"], torch.tensor([1.5, -4.0]))
    assert torch.equal(aggregate([*replicas, {}])["l2"], aggregate(replicas)["l2"])


@pytest.mark.parametrize("how", ["mean", "sign", "median"])
def test_each_row_is_aggregated_over_the_replicas_that_hold_it(how: AggregationName) -> None:
    found = gradients()
    joined = aggregate(found, how, [{"pixels": rows} for rows in HELD])
    for row in range(ROWS):
        holders = [
            gradient["pixels"][row].numpy()
            for gradient, rows in zip(found, HELD, strict=True)
            if row in rows.tolist()
        ]
        parts = np.array(holders or [np.zeros(3)])
        expected = {
            "mean": parts.mean(axis=0),
            "sign": np.sign(np.sign(parts).sum(axis=0)),
            "median": np.median(parts, axis=0),
        }[how]
        np.testing.assert_allclose(joined["pixels"][row].numpy(), expected, rtol=1e-6)
    without = [{"l2": gradient["l2"]} for gradient in found]
    assert torch.equal(joined["l2"], aggregate(without, how)["l2"])


def test_rows_that_some_replica_holds_are_covered() -> None:
    shapes = {"pixels": (ROWS, 3), "l2": (4,)}
    (mask,) = covered([{"pixels": rows} for rows in HELD], shapes).values()
    assert mask.tolist() == [True] * 5 + [False]
    assert covered([{"pixels": torch.arange(ROWS)}, {"pixels": HELD[0]}], shapes) == {}
    assert covered([{"pixels": HELD[0]}, {}], shapes) == {}


def test_what_cannot_be_aggregated_is_refused_by_name() -> None:
    with pytest.raises(ProblemError, match="one of mean, sign, median, got 'mode'"):
        aggregate(gradients(), "mode")  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match="at least one"):
        aggregate([])
