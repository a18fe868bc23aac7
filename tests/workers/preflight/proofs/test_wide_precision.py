"""A model that casts to float32 by name is proved in float64 all the same."""

import torch
from torch import Tensor, nn

from tests.workers.preflight.proofs.jobs import Calls, net, short, stated


def cast(_: nn.Module, inputs: Tensor) -> Tensor:
    """A norm as in Llama, which widens half precision."""
    wide = inputs.to(torch.float32)
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(inputs.dtype)


def cast_beside_float32(_: nn.Module, inputs: Tensor) -> Tensor:
    """The product of a cast with a tensor that stays in float32."""
    return (inputs.float() @ torch.eye(5)).to(inputs.dtype)


def test_a_cast_to_float32_is_no_rounding_of_the_proof() -> None:
    made = short(stated(net(Calls(cast))))
    assert made.precision == "float64, also where its code says float32"
    assert made.require_gradient()


def test_code_that_runs_in_no_other_type_is_proved_in_float32() -> None:
    made = short(stated(net(Calls(cast_beside_float32))))
    assert made.dtype == torch.float32
    assert made.precision == "float32, because in float64 its code raises RuntimeError"


def test_a_model_without_casts_is_taken_as_it_is() -> None:
    assert short(stated(net())).precision == "float64"
