"""Jobs in float64, and complex numbers in a model."""

import pytest
import torch
from torch import Tensor, nn

from drmad_client.spec.job import JobSpec
from drmad_workers import (
    Hyperparameter,
    Problem,
    ProblemError,
    SampleWeight,
    TrainingConfig,
    Tuner,
    spec_adapter,
)
from drmad_workers.hypergradients import Stored
from tests.workers.small import finite_difference, small_problem

JOB = {
    "problem": {
        "model": {"name": "mlp", "hidden": [5]},
        "data": {"name": "digits", "train": 60, "valid": 40, "test": 20},
    },
    "hyperparameters": [{"kind": "l2", "per": "layer", "init": -4.0}],
    "training": {"steps": 20, "batch_size": 10, "precision": "float64"},
    "hypergradient": {"method": "stored"},
}


def test_a_job_in_float64_computes_everything_in_float64() -> None:
    tuner = spec_adapter.tuner(JobSpec.model_validate(JOB))
    values = tuner.initial_values()
    found = tuner.evaluate(values, 0)
    types = {tensor.dtype for tensor in [*values.values(), *found.model.values()]}
    types |= {tensor.dtype for tensor in found.hypergradient.values()}
    assert types == {torch.float64}
    for coordinate in range(2):
        expected = finite_difference(tuner, values, "l2", coordinate)
        assert float(found.hypergradient["l2"][coordinate]) == pytest.approx(expected, rel=1e-6)
    training = {**JOB["training"], "precision": "float32"}  # type: ignore[dict-item]
    single = spec_adapter.tuner(JobSpec.model_validate(JOB | {"training": training}))
    assert single.evaluate(values, 0).hypergradient["l2"].dtype == torch.float32


class Rotary(nn.Module):
    """Multiplies pairs of features by complex numbers of a buffer, as rotary positions are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        turns = torch.linspace(0.5, 2.5, 4, dtype=torch.float64)
        self.register_buffer("turns", torch.polar(torch.ones_like(turns), turns))

    def forward(self, inputs: Tensor) -> Tensor:
        assert isinstance(self.turns, Tensor)
        pairs = torch.view_as_complex(torch.tanh(self.first(inputs)).view(-1, 4, 2))
        turned = torch.view_as_real(pairs * self.turns).flatten(1)
        outputs: Tensor = self.last(turned + turned.square())
        return outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_complex_buffers_keep_their_values(dtype: torch.dtype) -> None:
    model = Rotary()
    turns = model.turns
    assert isinstance(turns, Tensor)
    given = turns.clone()
    problem = small_problem()
    problem.model = model
    training = TrainingConfig(steps=5, batch_size=4, learning_rate=0.1)
    tuner = Tuner(problem, [SampleWeight()], training, Stored(), dtype=dtype)
    found = tuner.evaluate(tuner.initial_values(), 0)
    assert found.model["turns"].dtype == dtype.to_complex()
    assert torch.equal(found.model["turns"], given.to(dtype.to_complex()))
    if dtype == torch.float64:
        values = tuner.initial_values()
        expected = finite_difference(tuner, values, "sample_weight", 3)
        assert float(found.hypergradient["sample_weight"][3]) == pytest.approx(expected, rel=1e-6)


def test_complex_inputs_stay_complex() -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(8, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.last(torch.view_as_real(inputs).flatten(1))
            return outputs

    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(20, 4, dtype=torch.complex64, generator=draw)
    targets = torch.arange(20) % 3
    problem = Problem(Spectrum(), (inputs[:12], targets[:12]), (inputs[12:], targets[12:]))
    training = TrainingConfig(steps=3, batch_size=4, precision="float64")
    tuner = Tuner(problem, [SampleWeight()], training, Stored())
    assert tuner.train_examples.take(torch.arange(2)).inputs.dtype == torch.complex128
    assert torch.isfinite(torch.tensor(tuner.evaluate(tuner.initial_values(), 0).validation_loss))


def test_complex_weights_are_refused_with_a_remedy() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    model.register_parameter("mix", nn.Parameter(torch.ones(3, dtype=torch.complex64)))
    problem = small_problem()
    problem.model = model
    with pytest.raises(ProblemError, match=r"'mix' is torch\.complex64") as error:
        Tuner(problem, [SampleWeight()], TrainingConfig(steps=1, batch_size=2), Stored())
    assert error.value.field == "model"
    assert "view_as_complex" in str(error.value)


def test_complex_hyperparameters_are_refused() -> None:
    problem = small_problem()
    with pytest.raises(ProblemError, match="real numbers") as error:
        Problem(
            problem.model,
            problem.train,
            problem.valid,
            hyperparameters={"mix": Hyperparameter(torch.ones(2, dtype=torch.complex64))},
        )
    assert error.value.field == "hyperparameters.mix"
