"""Best iteration and patience over noisy validation losses."""

import torch

from drmad_workers import MetaConfig, MetaState, meta_update
from drmad_workers.meta.loss_history import stop_reason
from tests.workers.meta.updates import START, gradients


def test_best_iteration_is_the_one_that_was_evaluated() -> None:
    state = MetaState(dict(START))
    for loss in (3.0, 1.0, 2.0):
        state = meta_update(state, loss, gradients(0), MetaConfig())
    assert (state.iteration, state.best_iteration, state.best_validation_loss) == (3, 1, 1.0)


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
