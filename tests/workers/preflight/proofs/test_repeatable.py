"""Proof 1 catches what differs between two calls, and names where."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from drmad_workers import Problem, ProblemError
from drmad_workers.preflight.proofs.finding import Finding
from drmad_workers.preflight.proofs.plan import REPEATS
from drmad_workers.preflight.proofs.random_states import own_random_states
from drmad_workers.preflight.proofs.repeatable import repeatable, same
from tests.workers.preflight.proofs.jobs import Calls, examples, net, short, stated


def found(problem: Problem) -> Finding:
    with own_random_states(torch.device("cpu")):
        return repeatable(short(problem), problem, REPEATS, to_the_bit=True)


def counted(module: Any, inputs: Tensor) -> Tensor:
    return inputs * (2.0 if module.calls % 10 == 0 else 1.0)


CAPTURED = {"calls": 0}


def outside(_: Any, inputs: Tensor) -> Tensor:
    CAPTURED["calls"] += 1
    return inputs * (1.0 + 0.01 * CAPTURED["calls"])


def listed(module: Any, inputs: Tensor) -> Tensor:
    """A list counts the calls, which is no number that the engine could carry."""
    module.seen = [*getattr(module, "seen", []), 1]
    return inputs * (2.0 if len(module.seen) % 10 == 0 else 1.0)


def test_state_between_calls_is_caught_with_its_line() -> None:
    finding = found(stated(net(Calls(listed), nn.Tanh())))
    assert finding.result == "failed"
    assert finding.where is not None
    assert finding.where.startswith("jobs.py:")
    assert "no counters" in str(finding.remedy)


@pytest.mark.parametrize("number", [counted, outside])
def test_numbers_that_are_carried_pass(number: Any) -> None:
    assert found(stated(net(Calls(number), nn.Tanh()))).result == "passed"


def by_python(_: Any, inputs: Tensor) -> Tensor:
    return inputs * (1.0 + 0.1 * random.random())


def by_numpy(_: Any, inputs: Tensor) -> Tensor:
    return inputs * (1.0 + 0.1 * float(np.random.rand()))


OWN = torch.Generator().manual_seed(0)


def by_own_generator(_: Any, inputs: Tensor) -> Tensor:
    return inputs + 0.1 * torch.randn(inputs.shape, generator=OWN).to(inputs)


@pytest.mark.parametrize("fault", [by_python, by_numpy, by_own_generator])
def test_random_numbers_that_are_not_repeated_are_caught(fault: Any) -> None:
    """The engine may seed a source or refuse it; what it does not repeat fails."""
    try:
        problem = stated(net(Calls(fault), nn.Tanh()))
        one, other = (gradient_of(short(problem), seed) for seed in (1, 2))
    except ProblemError:
        return
    finding = found(problem)
    assert (finding.result == "passed") == torch.equal(one, other)
    if finding.result == "failed":
        assert "torch" in str(finding.remedy)


def gradient_of(tried: Any, seed: int) -> Tensor:
    run, _ = tried.run(tried.tuner.initial_values())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    values = tried.transformed(tried.tuner.initial_values())
    gradient: Tensor = tried.plain.gradient(values, run.batch(0))[0]
    return gradient


def test_initial_weights_from_a_source_of_their_own_are_caught() -> None:
    source = np.random.default_rng(0)

    def initialize(model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.copy_(torch.as_tensor(source.normal(size=tuple(parameter.shape))))

    finding = found(stated(initialize=initialize))
    assert finding.result == "failed"
    assert finding.where is not None
    assert finding.where.startswith("test_repeatable.py:")


class Augmented(Dataset[tuple[Tensor, int]]):
    """An item is another one at every read."""

    source = np.random.default_rng(0)

    def __len__(self) -> int:
        return 60

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.full((4,), float(self.source.normal())), row % 3


def test_items_that_change_from_read_to_read_are_refused() -> None:
    with pytest.raises(ProblemError, match="same under the same seeds") as error:
        found(Problem(net(), Augmented(), examples(30, 1)))
    assert error.value.field == "train"


def test_dropout_passes() -> None:
    assert found(stated(net(nn.Dropout(0.5), nn.Tanh()))).result == "passed"


def test_rounding_counts_only_to_the_bit() -> None:
    one = torch.linspace(0.1, 1.0, 7)
    nearly = one * (1.0 + 1e-6)
    assert same(one, one, to_the_bit=True)
    assert not same(one, nearly, to_the_bit=True)
    assert same(one, nearly, to_the_bit=False)
    assert not same(one, one * 1.01, to_the_bit=False)
