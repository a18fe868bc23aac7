"""The outer update agrees with torch.optim, and leaves rows without a gradient alone."""

import pytest
import torch
from torch import Tensor

from drmad_workers import EngineError, MetaConfig, MetaState, meta_update
from drmad_workers.meta.config import OuterOptimizer
from drmad_workers.meta.update import Bounds
from tests.workers.meta.updates import START, gradients, run


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_update_is_that_of_torch_optim(optimizer: OuterOptimizer) -> None:
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in START.items()}
    kinds = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop, "sgd": torch.optim.SGD}
    reference = kinds[optimizer](parameters.values(), lr=0.2)
    for iteration in range(12):
        for name, gradient in gradients(iteration).items():
            parameters[name].grad = gradient
        reference.step()
    state = run(MetaState(dict(START)), MetaConfig(optimizer, learning_rate=0.2), 12)
    for name, parameter in parameters.items():
        torch.testing.assert_close(state.hyperparameters[name], parameter.detach())


def test_sign_moves_every_coordinate_by_the_learning_rate() -> None:
    state = run(MetaState(dict(START)), MetaConfig("sign", learning_rate=0.25), 1)
    for name, value in START.items():
        expected = value - 0.25 * gradients(0)[name].sign()
        assert torch.equal(state.hyperparameters[name], expected)


def test_update_leaves_the_old_state_alone() -> None:
    before = run(MetaState(dict(START)), MetaConfig(), 2)
    kept = {name: tensor.clone() for name, tensor in before.tensors().items()}
    run(before, MetaConfig(), 5)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in before.tensors().items())


def test_hyperparameters_stay_within_their_bounds() -> None:
    config, bounds = MetaConfig("sign", learning_rate=10.0), {"l2": Bounds(-2.0, 3.0)}
    state = meta_update(MetaState(dict(START)), 1.0, gradients(0), config, bounds)
    assert set(state.hyperparameters["l2"].tolist()) <= {-2.0, 3.0}
    assert float(state.hyperparameters["mixing"].abs().max()) > 5.0


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd", "sign"])
def test_rows_that_nobody_holds_stay_as_if_the_step_had_never_been(
    optimizer: OuterOptimizer,
) -> None:
    config = MetaConfig(optimizer, learning_rate=0.2)
    masks = [torch.tensor(rows) for rows in ([1, 0, 1], [0, 1, 1], [1, 0, 0], [1, 1, 1])]
    state = MetaState(dict(START))
    for iteration, mask in enumerate(masks):
        covered = {"l2": mask.bool()} if not mask.all() else None
        state = meta_update(state, 1.0, gradients(iteration), config, covered=covered)
    for row in range(3):
        alone = MetaState({"l2": START["l2"][row : row + 1]})
        for iteration, mask in enumerate(masks):
            if mask[row]:
                own = {"l2": gradients(iteration)["l2"][row : row + 1]}
                alone = meta_update(alone, 1.0, own, config)
        torch.testing.assert_close(state.hyperparameters["l2"][row], alone.hyperparameters["l2"][0])


@pytest.mark.parametrize("gradient", [None, torch.zeros(2), torch.tensor([1.0, float("nan"), 0.0])])
def test_a_bad_hypergradient_moves_nothing(gradient: Tensor | None) -> None:
    found = {"mixing": torch.zeros(1, 2)} | ({} if gradient is None else {"l2": gradient})
    with pytest.raises(EngineError, match="'l2' must"):
        meta_update(MetaState(dict(START)), 1.0, found, MetaConfig())
