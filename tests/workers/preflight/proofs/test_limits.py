"""What training changes without a derivative is named, and every record carries it."""

from typing import Any

import torch
from torch import Tensor, nn

from drmad_client.records.job import PreflightReport, Proof
from drmad_client.spec.side_runs.preflight import PreflightSpec
from drmad_workers.preflight.proofs.second_derivatives import second_derivatives
from tests.workers.preflight.proofs.jobs import net, short, stated


class Monitored(nn.Module):
    """Keeps a mean of its inputs by NumPy, which its outputs do not depend on."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.mean = torch.as_tensor(inputs.detach().numpy().mean())
        return inputs


def found(problem: Any) -> Proof:
    finding = second_derivatives(short(problem), "exact", 8)
    return Proof(
        name="second_derivatives",
        result=finding.result,
        detail=finding.detail,
        where=finding.where,
        remedy=finding.remedy,
        seconds=0.0,
    )


def report(proof: Proof) -> PreflightReport:
    return PreflightReport(
        hyperparameters={}, validation_loss=1.0, training_loss=1.0, steps=1, seconds=1.0,
        method="stored", fidelity={}, job_seconds=1.0, memory_bytes=1, proofs=[proof],
    )  # fmt: skip


def test_a_buffer_without_a_derivative_is_named_in_every_record() -> None:
    proof = found(stated(net(Monitored(), nn.Tanh())))
    assert (proof.result, proof.where) == ("passed", "1.mean")
    (warning,) = report(proof).warnings(PreflightSpec())
    assert "1.mean" in warning
    assert report(proof).refusal(PreflightSpec()) == ""


def test_running_statistics_have_a_derivative() -> None:
    proof = found(stated(net(nn.BatchNorm1d(5), nn.Tanh())))
    assert (proof.result, proof.where) == ("passed", None)
    assert report(proof).warnings(PreflightSpec()) == []


def test_the_price_of_attention_is_named() -> None:
    class Attending(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            rows = inputs[:, None]
            found: Tensor = nn.functional.scaled_dot_product_attention(rows, rows, rows)
            return found[:, 0]

    assert "math kernel" in found(stated(net(Attending(), nn.Tanh()))).detail
    assert "math kernel" not in found(stated()).detail
