"""Best iteration and patience over noisy validation losses."""

import pytest
import torch

from drmad_workers import MetaConfig, MetaState, meta_update
from drmad_workers.meta.loss_history import levels, record_loss, stop_reason
from tests.workers.meta.updates import START, gradients


def test_best_iteration_is_the_one_that_was_evaluated() -> None:
    state = MetaState(dict(START))
    for loss in (3.0, 1.0):
        state = meta_update(state, loss, gradients(0), MetaConfig())
    assert (state.iteration, state.best_iteration, state.best_validation_loss) == (2, 1, 1.0)


def test_one_lucky_loss_is_not_the_best() -> None:
    """Twelve losses around 1, one of them far lower, then a level that is truly lower."""
    draw = torch.Generator().manual_seed(3)
    losses = [1.0 + 0.1 * float(torch.randn((), generator=draw)) for _ in range(20)]
    losses[6] = 0.5
    state = MetaState(dict(START))
    for iteration, loss in enumerate(losses):
        level = loss - 0.4 * (iteration >= 12)
        state = meta_update(state, level, gradients(0), MetaConfig())
        assert state.best_iteration != 6
    assert state.best_iteration is not None
    assert state.best_iteration >= 12
    assert state.best_validation_loss == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.02])
@pytest.mark.parametrize("count", [4, 5, 8, 12])
def test_the_last_of_steadily_falling_losses_is_the_best(count: int, noise: float) -> None:
    """A digits job of five meta-iterations had .90, .80, .73, .64, .55: its best was the second."""
    draw = torch.Generator().manual_seed(count)
    state = MetaState(dict(START))
    for iteration in range(count):
        loss = 1.0 - 0.09 * iteration + noise * float(torch.randn((), generator=draw))
        state = record_loss(state, loss)
    assert state.best_iteration == count - 1


def test_one_lucky_loss_at_the_end_of_a_short_job_is_not_the_best() -> None:
    state = MetaState(dict(START))
    for loss in (1.02, 0.97, 1.05, 0.99, 0.5):
        state = record_loss(state, loss)
    assert state.best_iteration != 4


def test_rising_losses_do_not_become_the_best() -> None:
    state = MetaState(dict(START))
    for iteration in range(12):
        state = record_loss(state, 0.5 + 0.03 * iteration)
    assert state.best_iteration == 0


def test_without_noise_the_level_is_the_loss_itself() -> None:
    state = MetaState(dict(START))
    for iteration in range(20):
        metrics = {"test_error": 0.5 * 0.9**iteration}
        state = record_loss(state, 2.0 * 0.9**iteration, metrics, cost=2.5)
    found = levels(state)
    assert found["validation_loss"].mean == pytest.approx(2.0 * 0.9**19, rel=0.2)
    assert found["test_error"].mean == pytest.approx(0.5 * 0.9**19, rel=0.2)
    assert state.best_iteration == 19
    assert state.runs == 50.0


def test_patience_ends_when_losses_only_jitter() -> None:
    config = MetaConfig(iterations=1000, patience=5)
    state = MetaState(dict(START))
    draw = torch.Generator().manual_seed(0)
    while stop_reason(state, config) is None:
        loss = 1.0 + 0.1 * float(torch.randn((), generator=draw))
        state = meta_update(state, loss, gradients(0), config)
    assert stop_reason(state, config) == "patience"
    assert state.iteration < 40


def test_patience_lasts_while_losses_fall_slowly() -> None:
    config = MetaConfig(iterations=60, patience=5)
    state = MetaState(dict(START))
    while stop_reason(state, config) is None:
        state = meta_update(state, 2.0 - 0.02 * state.iteration, gradients(0), config)
    assert stop_reason(state, config) == "iterations"
