"""A rollback: when it is due, and the state from which the meta-iteration is repeated."""

import math
from dataclasses import replace

import pytest
import torch

from drmad_workers import MetaConfig, MetaState, meta_update
from drmad_workers.meta.rollback import rollback_reason, rolled_back

FLAT = MetaState({}, best_validation_loss=1.0, recent_losses=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(("loss", "reason"), [(1.1, None), (1.2, "exceeds the limit 1.1")])
def test_a_loss_above_the_limit_is_rolled_back(loss: float, reason: str | None) -> None:
    found = rollback_reason(FLAT, loss, MetaConfig())
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_noise_widens_the_limit() -> None:
    noisy = replace(FLAT, recent_losses=(1.0, 1.2, 1.0))
    assert rollback_reason(noisy, 1.2, MetaConfig()) is None


def test_without_a_tolerance_only_losses_that_are_not_finite_are_rolled_back() -> None:
    config = MetaConfig(rollback_tolerance=None)
    assert rollback_reason(FLAT, 1e9, config) is None
    assert rollback_reason(FLAT, math.nan, config) == "the validation loss is not finite (nan)"


def test_a_rollback_draws_other_weights_and_minibatches() -> None:
    """The draw may have been the rollback's cause: with the same one again, no step would do."""
    config = MetaConfig(learning_rate=0.1)
    best = MetaState({"l2": torch.zeros(3)}, iteration=2)
    gradient = {"l2": torch.ones(3)}
    begun = replace(best, iteration=7)
    assert begun.draw == 7
    first = rolled_back(begun, best, gradient, config)
    second = rolled_back(first, best, gradient, config)
    assert len({begun.draw, first.draw, second.draw}) == 3
    assert min(first.draw, second.draw) > 10**6
    after = meta_update(second, 0.5, gradient, config)
    assert (after.draw, after.iteration) == (8, 8)
