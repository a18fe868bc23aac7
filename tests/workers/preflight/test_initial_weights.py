"""The line about initial weights in a report, and the proof of training from those given."""

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import spec_adapter
from drmad_workers.objective.parameters import flat_parameters
from drmad_workers.objective.parameters.weight_draw import reset_parameters
from drmad_workers.preflight.initial_weights import described_weights
from drmad_workers.preflight.proofs.training import training
from drmad_workers.problem import Initialize
from tests.workers.preflight.proofs.jobs import CLASSES, job, short, stated


class Tokens(nn.Module):
    """Nobody resets the token; the frozen layer counts as none that is reset."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(torch.zeros(5))
        self.first, self.norm, self.last = nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, CLASSES)
        self.fixed = nn.Linear(5, 5).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.fixed(self.norm(self.first(inputs) + self.token)))
        return outputs


def zero_token(model: nn.Module) -> None:
    nn.init.zeros_(model.get_parameter("token"))


@pytest.mark.parametrize(
    ("initialize", "words"),
    [
        (None, "as build() returned them"),
        (
            "reset",
            "drawn again by reset_parameters in 3 modules; as build() returned them in token, "
            "which no module resets",
        ),
        (
            zero_token,
            f"drawn by initialize (test_initial_weights.py:{zero_token.__code__.co_firstlineno}) "
            "from those given",
        ),
    ],
    ids=["given", "reset", "function"],
)
def test_the_report_says_where_the_weights_come_from(initialize: Initialize, words: str) -> None:
    problem = stated(Tokens(), initialize=initialize)
    tuner = spec_adapter.tuner(job(), built=problem)
    before = {name: tensor.clone() for name, tensor in problem.model.state_dict().items()}
    state = torch.get_rng_state()
    assert described_weights(job(), problem, tuner) == words
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in problem.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_training_from_other_weights_than_those_given_fails_the_proof(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert training(short(stated(initialize=None))).result == "passed"

    def drawn(model: nn.Module, initialize: Initialize) -> None:
        reset_parameters(model)

    monkeypatch.setattr(flat_parameters, "draw_weights", drawn)
    finding = training(short(stated(initialize=None)))
    assert finding.result == "failed"
    assert "at the start" in finding.detail
