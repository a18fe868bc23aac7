"""First values from another job: as they are, resampled, filled, or matched by their labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from drmad_workers import ProblemError
from drmad_workers.hyperparameters.base import BoundHyperparameter, Group
from drmad_workers.hyperparameters.warm_start import TunedElsewhere, resampled, warm_values


def bound(initial: Tensor, labels: str = "", **options: Any) -> BoundHyperparameter:
    """One whose entries have a letter of `labels` each."""
    groups = [Group(label, place, place + 1) for place, label in enumerate(labels)]
    fields = {"transform": "exp", "lower": None, "upper": None} | options
    return BoundHyperparameter("h", initial.double(), groups=groups, **fields)


def taken(
    mine: BoundHyperparameter, given: Tensor, labels: str = "", schedule: bool = False
) -> tuple[Tensor, list[str]]:
    groups = [Group(label, place, place + 1)._asdict() for place, label in enumerate(labels)]
    info = {"transform": "exp", "groups": groups}
    tuned = TunedElsewhere({"h": given.double()}, {"h": info}, ["h"] if schedule else [])
    values, adapted = warm_values({"h": mine}, tuned)
    return values["h"], adapted


@pytest.mark.parametrize(("before", "steps"), [(10, 25), (25, 10), (7, 7), (1, 4), (4, 1)])
def test_a_schedule_is_interpolated_over_the_progress_of_training(before: int, steps: int) -> None:
    rows = torch.randn(3, before, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    there = (np.arange(before) + 0.5) / before
    here = (np.arange(steps) + 0.5) / steps
    expected = np.stack([np.interp(here, there, row) for row in rows.numpy()])
    np.testing.assert_allclose(resampled(rows, steps).numpy(), expected, atol=1e-14)


def test_the_same_shape_and_labels_are_taken_to_the_bit() -> None:
    given = torch.tensor([1.0, -2.0])
    for labels in ("", "ab"):
        value, adapted = taken(bound(torch.zeros(2), labels), given, labels)
        assert value.tolist() == given.tolist()
        assert adapted == []


def test_a_schedule_of_another_length_says_so() -> None:
    value, adapted = taken(bound(torch.zeros(4)), torch.tensor([0.0, 1.0]), schedule=True)
    assert value.tolist() == [0.0, 0.25, 0.75, 1.0]
    assert adapted == ["h was interpolated from 2 to 4 steps of training"]


def test_a_single_value_fills_every_entry() -> None:
    value, adapted = taken(bound(torch.zeros(2, 3), "ab"), torch.tensor([5.0]))
    assert value.tolist() == [[5.0] * 3] * 2
    assert "each of its 6 entries" in adapted[0]


def test_labels_are_matched_and_the_rest_keeps_its_own() -> None:
    mine = bound(torch.tensor([7.0, 8.0, 9.0]), "abd")
    value, adapted = taken(mine, torch.tensor([1.0, 2.0, 3.0]), "bca")
    assert value.tolist() == [3.0, 1.0, 9.0]
    assert adapted == ["h keeps its own initial values for d"]


@pytest.mark.parametrize("labels", ["", "xyz"])
def test_values_of_nothing_in_common_are_refused(labels: str) -> None:
    with pytest.raises(ProblemError, match="no layer, class or source in common") as caught:
        taken(bound(torch.zeros(2), "ab"), torch.zeros(3), labels)
    assert caught.value.field == "hyperparameters.h"


def test_another_transform_is_refused_and_bounds_hold() -> None:
    with pytest.raises(ProblemError, match="must have the transform exp"):
        taken(bound(torch.zeros(2), transform="sigmoid"), torch.zeros(2))
    value, adapted = taken(bound(torch.zeros(2), lower=-1.0, upper=1.0), torch.tensor([0.5, 4.0]))
    assert value.tolist() == [0.5, 1.0]
    assert adapted == ["1 values of h were moved to its bounds"]


def test_a_hyperparameter_that_the_other_job_lacks_keeps_its_own() -> None:
    values, adapted = warm_values({"h": bound(torch.ones(2))}, TunedElsewhere({}, {}))
    assert values["h"].tolist() == [1.0, 1.0]
    assert adapted == ["h begins at its own initial values: the other job has none"]
