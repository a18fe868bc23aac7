"""What a window keeps of its minibatches for its backward pass."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from drmad_workers import OnlineRun, Problem, SampleWeight, Stored, TrainingConfig
from drmad_workers.problem import Batch
from drmad_workers.training import kept_minibatches
from drmad_workers.training.kept_minibatches import KeptMinibatches
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.verdict import tuner_of
from tests.workers.online.test_run import SGD, WINDOW, plain_model, values_of
from tests.workers.small import small_problem


def batch(note: Any = None) -> Batch:
    return Batch((torch.ones(4, 2), {"y": torch.zeros(4), "note": note}), torch.arange(4))


def test_minibatch_is_kept_until_a_model_writes_into_it() -> None:
    kept, own = KeptMinibatches(), batch("clean")
    kept.keep(7, own)
    assert kept.find(7) is own
    assert 7 in kept
    assert kept.find(8) is None
    own.inputs[1:].mul_(2.0)
    assert kept.find(7) is None


def test_minibatch_is_not_kept_where_a_write_would_not_be_seen() -> None:
    kept = KeptMinibatches()
    kept.keep(0, batch(np.zeros(3)))
    assert kept.find(0) is None


def test_no_more_bytes_are_kept_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(
        each.nbytes for each in (*batch().content[1].values(), batch().index) if each is not None
    )
    monkeypatch.setattr(kept_minibatches, "KEPT_BYTES", size + batch().inputs.nbytes)
    kept = KeptMinibatches()
    kept.keep(0, batch())
    kept.keep(1, batch())
    assert kept.find(0) is not None
    assert kept.find(1) is None


@pytest.mark.parametrize(("bound", "reads"), [(2**26, 1), (0, 2)])
def test_window_reads_each_of_its_minibatches_once(
    monkeypatch: pytest.MonkeyPatch, bound: int, reads: int
) -> None:
    monkeypatch.setattr(kept_minibatches, "KEPT_BYTES", bound)
    collated: list[int] = []

    def collate(items: list[Any]) -> Any:
        collated.append(len(items))
        return default_collate(items)

    def build() -> Problem:
        problem = small_problem(plain_model(), rows=23)
        problem.initialize, problem.collate_fn = "reset", collate
        return problem

    training: TrainingConfig = SGD
    tuner = tuner_of(Recipe(build, (SampleWeight(),), training), Stored())
    run = OnlineRun(tuner.replica, Stored(), WINDOW)
    values = values_of(tuner, 3)
    with run.open():
        run.advance(values[0])
        collated.clear()
        run.advance(values[1])
    assert collated.count(training.batch_size) == reads * WINDOW
