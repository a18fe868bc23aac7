"""The outer update against torch.optim, and its state through a resume."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from drmad_workers import EngineError, MetaConfig, MetaState, ProblemError, meta_update
from drmad_workers.meta.update import OuterOptimizer, finished, rolled_back

START = {"l2": torch.tensor([0.5, -1.0, 2.0]), "mixing": torch.tensor([[1.0, -3.0]])}


def gradients(iteration: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(iteration)
    return {name: torch.randn(value.shape, generator=draw) for name, value in START.items()}


def run(state: MetaState, config: MetaConfig, stop: int) -> MetaState:
    for iteration in range(state.iteration, stop):
        state = meta_update(state, 1.0 / (1 + iteration), gradients(iteration), config)
    return state


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


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd", "sign"])
def test_resume_through_tensors_and_json_changes_no_bit(optimizer: OuterOptimizer) -> None:
    config = MetaConfig(optimizer)
    undisturbed = run(MetaState(dict(START)), config, 9)
    halfway = run(MetaState(dict(START)), config, 4)
    scalars = json.loads(json.dumps(halfway.scalars()))
    resumed = run(MetaState.restore(halfway.tensors(), scalars), config, 9)
    assert resumed.scalars() == undisturbed.scalars()
    for name, tensor in undisturbed.tensors().items():
        assert torch.equal(resumed.tensors()[name], tensor)
    assert resumed.tensors().keys() == undisturbed.tensors().keys()


def test_update_leaves_the_old_state_alone() -> None:
    before = run(MetaState(dict(START)), MetaConfig(), 2)
    kept = {name: tensor.clone() for name, tensor in before.tensors().items()}
    run(before, MetaConfig(), 5)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in before.tensors().items())


def test_hyperparameters_stay_within_their_bounds() -> None:
    config = MetaConfig("sign", learning_rate=10.0)
    state = meta_update(MetaState(dict(START)), 1.0, gradients(0), config, {"l2": (-2.0, 3.0)})
    assert set(state.hyperparameters["l2"].tolist()) <= {-2.0, 3.0}
    assert float(state.hyperparameters["mixing"].abs().max()) > 5.0


def test_best_iteration_is_the_one_that_was_evaluated() -> None:
    state = MetaState(dict(START))
    for loss in (3.0, 1.0, 2.0):
        state = meta_update(state, loss, gradients(0), MetaConfig())
    assert (state.iteration, state.best_iteration, state.best_validation_loss) == (3, 1, 1.0)


def test_patience_ends_when_losses_only_jitter() -> None:
    config = MetaConfig(iterations=1000, patience=5)
    state = MetaState(dict(START))
    draw = torch.Generator().manual_seed(0)
    while finished(state, config) is None:
        loss = 1.0 + 0.1 * float(torch.randn((), generator=draw))
        state = meta_update(state, loss, gradients(0), config)
    assert finished(state, config) == "patience"
    assert state.iteration < 40


def test_patience_lasts_while_losses_fall_slowly() -> None:
    config = MetaConfig(iterations=60, patience=5)
    state = MetaState(dict(START))
    while finished(state, config) is None:
        state = meta_update(state, 2.0 - 0.02 * state.iteration, gradients(0), config)
    assert finished(state, config) == "iterations"


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


def test_state_of_another_version_is_refused() -> None:
    scalars = replace(MetaState(dict(START)), version=99).scalars()
    with pytest.raises(EngineError, match="version 99"):
        MetaState.restore({}, scalars)


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": "adamw"}, {"learning_rate": 0.0}, {"iterations": -1}, {"patience": 0}],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, object]) -> None:
    with pytest.raises(ProblemError) as error:
        MetaConfig(**settings)  # type: ignore[arg-type]
    assert error.value.field == f"meta.{next(iter(settings))}"


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
