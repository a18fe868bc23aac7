"""What a plain training loop is given, against the engine and against torch's own optimizers."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from drmad_client.export import pytorch
from drmad_workers.hyperparameters.base import Setting, slots_of
from drmad_workers.hyperparameters.penalty import L2, BoundPenalty
from drmad_workers.training.optimizers import MomentumSGD, Rate


class Parts(nn.Module):
    """Every kind of module whose penalties are shared in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.grouped = nn.Conv2d(4, 6, 3, groups=2)
        self.transposed = nn.ConvTranspose2d(6, 2, 2)
        self.norm = nn.BatchNorm2d(2)
        self.linear = nn.Linear(8, 3)
        self.tied = self.linear  # shared: counted once


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
    """The weights after some steps down a quadratic that is harder in later parameters."""
    for step in range(steps):
        optimizer.zero_grad()
        terms = [(p - step).square().sum() * (n + 1) for n, p in enumerate(model.parameters())]
        torch.autograd.backward(torch.stack(terms).sum())
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 1, dtype=torch.float64)


@pytest.mark.parametrize("per", get_args(pytorch.PenaltyScope))
def test_penalties_are_spread_as_the_engine_spreads_them(per: Any) -> None:
    model = Parts()
    nothing: Any = None  # a penalty depends on the model alone
    setting = Setting(nothing, slots_of(model), nothing, 1, 0.1, 0.9, torch.float32)
    bound = L2(per=per).bind(setting)
    assert isinstance(bound, BoundPenalty)
    values = torch.rand(bound.shape, generator=torch.Generator().manual_seed(0))
    slots = slots_of(model)
    engine = torch.zeros(slots[-1].stop)
    bound.spread(values, engine)
    ours = pytorch.penalties(model, values.numpy(), per)
    for slot in slots:
        own = ours.get(slot.name, torch.zeros(slot.shape))
        torch.testing.assert_close(own.flatten(), engine[slot.start : slot.stop], rtol=0, atol=0)


@pytest.mark.parametrize("wrong", [1, 10_000])
def test_another_number_of_penalties_is_refused(wrong: int) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=f"the model has 3 penalties per layer, got {wrong}"):
        pytorch.penalties(model, np.ones(wrong), "layer")


def test_penalty_is_the_term_of_the_tuned_loss() -> None:
    model = nn.Linear(2, 1)
    model.load_state_dict({"weight": torch.tensor([[3.0, -4.0]]), "bias": torch.tensor([7.0])})
    coefficients = pytorch.penalties(model, np.array([0.5, 2.0]), "unit")
    assert pytorch.penalty(model, coefficients).item() == 0.5 * 9 + 2.0 * 16
    assert pytorch.penalty(model, coefficients, power=1).item() == 0.5 * 3 + 2.0 * 4


def test_weight_decay_of_the_groups_takes_the_step_of_the_penalty() -> None:
    decayed, penalised = small(), small()
    groups = pytorch.parameter_groups(decayed, np.array([0.25]))
    inputs = torch.ones(1, 2, dtype=torch.float64)
    optimizers = [
        torch.optim.SGD(groups, lr=0.1),
        torch.optim.SGD(penalised.parameters(), lr=0.1),
    ]
    coefficients = pytorch.penalties(penalised, np.array([0.25]), "layer")
    torch.autograd.backward(decayed(inputs).sum())
    torch.autograd.backward(penalised(inputs).sum() + pytorch.penalty(penalised, coefficients))
    for optimizer in optimizers:
        optimizer.step()
    for one, other in zip(decayed.parameters(), penalised.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]


def test_constant_rates_are_torchs_own_descent() -> None:
    ours, theirs = small(), small()
    one = descend(ours, pytorch.TunedSGD(ours.parameters(), 0.05, 0.9), 8)
    other = descend(theirs, torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9), 8)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("damped", [False, True])
@pytest.mark.parametrize("shape", [(1, 6), (2, 1), (2, 6)])
def test_tuned_rates_take_the_engines_path(shape: tuple[int, int], damped: bool) -> None:
    random = np.random.default_rng(0)
    rates, momenta = random.uniform(0.01, 0.05, shape), random.uniform(0.5, 0.9, shape)
    model = small()
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    state = torch.stack([start, torch.zeros_like(start)])
    sizes = [2, 1]
    engine = MomentumSGD(
        Rate(torch.from_numpy(rates), sizes), Rate(torch.from_numpy(momenta), sizes), damped=damped
    )
    hardness = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    for step in range(6):
        engine.step(step, state, 2.0 * hardness * (state[0] - step))
    optimizer = pytorch.TunedSGD(model.parameters(), rates, momenta, damped=damped)
    torch.testing.assert_close(descend(model, optimizer, 6), state[0])


def test_tuned_descent_resumes_where_it_was_saved() -> None:
    rates = np.linspace(0.1, 0.01, 6)
    whole, halved = small(), small()
    descend(whole, pytorch.TunedSGD(whole.parameters(), rates), 6)
    first = pytorch.TunedSGD(halved.parameters(), rates)
    descend(halved, first, 3)
    second = pytorch.TunedSGD(halved.parameters(), rates)
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        second.zero_grad()
        terms = [(p - step).square().sum() * (n + 1) for n, p in enumerate(halved.parameters())]
        torch.autograd.backward(torch.stack(terms).sum())
        second.step()
    for one, other in zip(whole.parameters(), halved.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_rates_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"learning_rate must be .* \(2, steps\), got shape \(3, "):
        pytorch.TunedSGD(small().parameters(), np.ones((3, 4)))


def test_a_schedule_drives_torchs_own_scheduler() -> None:
    rates = [0.1, 0.2, 0.05]
    optimizer = torch.optim.SGD(small().parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, pytorch.schedule(rates, 0.5))
    seen = []
    for _ in range(5):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx([0.1, 0.2, 0.05, 0.05, 0.05])
    assert pytorch.schedule(rates)(1) == 0.2


def test_examples_come_with_their_weights() -> None:
    examples = TensorDataset(torch.arange(4.0), torch.arange(4))
    weighted = pytorch.WeightedExamples(examples, np.array([0.5, 0.25, 0.125, 1.0]))
    (batch,) = DataLoader(weighted, batch_size=4)
    inputs, targets, weights = batch
    assert inputs.tolist() == targets.tolist() == [0, 1, 2, 3]
    assert weights.tolist() == [0.5, 0.25, 0.125, 1.0]
    with pytest.raises(ValueError, match="one entry for each of the 4 examples, got 3"):
        pytorch.WeightedExamples(examples, np.ones(3))


def test_the_sampler_draws_by_weight() -> None:
    weights = np.array([0.0, 0.1, 0.3, 0.6])
    draws = pytorch.sampler(weights, 10_000, torch.Generator().manual_seed(0))
    shares = np.bincount(list(draws), minlength=4) / 10_000
    assert shares[0] == 0.0
    np.testing.assert_allclose(shares, weights, atol=0.02)  # four standard errors
    assert len(pytorch.sampler(np.full(10, 0.3))) == 3


def test_initial_weights_are_scaled_by_parameter() -> None:
    model, like = small(), small()
    pytorch.scale_weights(model, np.array([2.0, 0.5]))
    for scale, one, other in zip((2.0, 0.5), model.parameters(), like.parameters(), strict=True):
        torch.testing.assert_close(one, scale * other)
    with pytest.raises(ValueError, match="the model has 2 scales, got 3"):
        pytorch.scale_weights(model, np.ones(3))


def test_a_fetched_model_is_loaded() -> None:
    model = small()
    weights = {"weight": np.array([[1.0, 2.0]]), "bias": np.array([3.0])}
    model.load_state_dict(pytorch.state_dict(weights))
    assert [p.flatten().tolist() for p in model.parameters()] == [[1.0, 2.0], [3.0]]


def test_arrays_of_a_job_and_the_model_of_the_code_are_the_whole_model() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arrays = {
        name: (tensor + 1).numpy() for name, tensor in base.items() if not name.startswith("0.")
    }
    pytorch.load_model(model, arrays)
    for name, tensor in model.state_dict().items():
        expected = torch.from_numpy(arrays[name]) if name in arrays else base[name]
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"2.weight": None}, r"lack \['2.weight'\]"),
        ({"other": np.ones(1)}, r"has no \['other'\]"),
        ({"2.bias": np.ones(4)}, r"has no \['2.bias'\]"),
    ],
)
def test_arrays_of_another_model_are_not_loaded(change: dict[str, Any], words: str) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arrays = {name: (tensor + 1).numpy() for name, tensor in before.items()} | change
    with pytest.raises(ValueError, match=words):
        pytorch.load_model(model, {n: a for n, a in arrays.items() if a is not None})
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_one_name_of_a_shared_parameter_suffices() -> None:
    model = Parts()
    arrays = {
        name: tensor.numpy()
        for name, tensor in model.state_dict().items()
        if not name.startswith("tied")
    }
    pytorch.load_model(model, arrays)
