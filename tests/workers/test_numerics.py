"""How a GPU is told to compute, as far as it can be seen without one."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import L2, ProblemError, Replay, TrainingConfig, Tuner
from drmad_workers.numerics import Precision, numerics, rounding_of
from drmad_workers.objective.parameters.initial_weights import initialize
from drmad_workers.objective.parameters.weight_draw import draw_weights, on_cpu
from drmad_workers.objective.products.finite_difference import finite_difference_product
from tests.workers.small import small_problem

GPU, CPU = torch.device("cuda"), torch.device("cpu")
BACKENDS: Any = torch.backends


def flags() -> tuple[object, ...]:
    memory: Any = torch.utils.deterministic
    return (
        BACKENDS.cuda.matmul.fp32_precision,
        BACKENDS.cudnn.conv.fp32_precision,
        BACKENDS.cudnn.rnn.fp32_precision,
        torch.are_deterministic_algorithms_enabled(),
        BACKENDS.cudnn.deterministic,
        BACKENDS.cudnn.benchmark,
        memory.fill_uninitialized_memory,
    )


@pytest.mark.parametrize(
    ("precision", "deterministic", "expected"),
    [
        ("float32", True, ("ieee", "ieee", "ieee", True, True, False, False)),
        ("tf32", True, ("tf32", "tf32", "tf32", True, True, False, False)),
        ("bfloat16", True, ("ieee", "ieee", "ieee", True, True, False, False)),
        ("tf32", False, ("tf32", "tf32", "tf32", False, False, False, True)),
    ],
)
def test_a_gpu_computes_as_the_training_states_and_afterwards_as_before(
    precision: Precision,
    deterministic: bool,
    expected: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # the user's own value stays
    before = flags()
    with numerics(GPU, precision, deterministic):
        assert flags() == expected
    assert flags() == before
    with numerics(CPU, precision, deterministic):
        assert flags() == before


def test_an_operation_without_a_deterministic_form_is_named_with_the_field() -> None:
    before = flags()
    values, index = torch.zeros(3), torch.tensor([0, 0])
    refused = pytest.raises(ProblemError, match="put_ has none: use another one")
    with refused as caught, numerics(GPU, "float32"):
        values.put_(index, torch.ones(2))
    assert caught.value.field == "training.deterministic"
    assert flags() == before
    with numerics(GPU, "float32", deterministic=False):
        values.put_(index, torch.ones(2))


def test_weights_that_the_cpu_draws_lie_where_they_lay() -> None:
    def layer() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    model, other = layer(), layer()
    places = [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
    torch.manual_seed(1)
    with on_cpu(model):
        inside = [tensor.data_ptr() for tensor in model.parameters()]
        draw_weights(model, "reset")
    assert not set(inside) & set(places)
    assert [t.data_ptr() for t in (*model.parameters(), *model.buffers())] == places
    torch.manual_seed(1)
    draw_weights(other, "reset")
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def product(tuner: Tuner, rounding: float | None = None) -> Tensor:
    """A product by differences, with the step of a rounding; the exact one for None."""
    objective = tuner.objective
    objective.parameters.attach()
    objective.set_hyperparameters(tuner.initial_values())
    initialize(objective, 0)
    weights = objective.parameters.weights
    cotangent = torch.linspace(-1.0, 1.0, len(weights)).to(weights)
    out = torch.zeros_like(weights)
    if rounding is not None:
        objective.losses.rounding = rounding
    objective.begin_products()
    by = None if rounding is None else finite_difference_product
    objective.subtract_product(tuner.train_examples.chunk(0, 60), cotangent, out, product=by)
    objective.end_products()
    return out.double()


def test_the_step_of_differences_follows_the_rounding_of_the_losses() -> None:
    rounded, exact = (
        Tuner(
            small_problem(rows=60),
            [L2()],
            TrainingConfig(steps=2, batch_size=60, precision=p),
            Replay(),
        )
        for p in ("bfloat16", "float64")
    )
    rounding = rounded.objective.losses.rounding
    assert rounding == torch.finfo(torch.bfloat16).eps
    expected = product(exact)

    def error(rounding: float) -> float:
        return float((product(rounded, rounding) - expected).norm() / expected.norm())

    assert error(rounding) < 0.1 < error(torch.finfo(torch.float32).eps)


def test_tf32_is_float32_on_a_cpu() -> None:
    assert rounding_of("tf32", CPU) == torch.finfo(torch.float32).eps
    assert rounding_of("tf32", GPU) == 2.0**-10
    one, other = (
        Tuner(small_problem(), [L2()], TrainingConfig(steps=4, precision=p, batch_size=4), Replay())
        for p in ("tf32", "float32")
    )
    values = one.initial_values()
    assert one.evaluate(values, 0).validation_loss == other.evaluate(values, 0).validation_loss
