"""The engine against hypergradients that independent code computed; see oracle/README.md."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    L2,
    CustomTensor,
    Evaluation,
    Hyperparameter,
    LearningRate,
    Method,
    Momentum,
    Problem,
    Replay,
    Reversible,
    Shortcut,
    Stored,
    TrainingConfig,
    Tuner,
)
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.hyperparameters.rates import PerStep
from drmad_workers.problem import Batch
from tests.workers.small import relative

FIXTURE = {
    key: torch.from_numpy(value)
    for key, value in np.load(Path(__file__).parent / "oracle" / "fixture.npz").items()
}
CPU = torch.device("cpu")


def network() -> nn.Sequential:
    """The fixture's net at its x0, whose matrices are (in, out): the transpose of torch's."""
    inputs, hidden, classes = (int(size) for size in FIXTURE["in/sizes"])
    net = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes)).double()
    with torch.no_grad():
        for parameter, part in zip(net.parameters(), parts(net, FIXTURE["in/x0"]), strict=True):
            parameter.copy_(part)
    return net


def parts(net: nn.Module, flat: Tensor) -> list[Tensor]:
    """A flat vector of the fixture, cut into torch's shapes."""
    shapes = [parameter.shape for parameter in net.parameters()]
    sections = torch.split(flat, [shape.numel() for shape in shapes])
    return [
        part.view(shape[::-1]).t() if len(shape) == 2 else part
        for part, shape in zip(sections, shapes, strict=True)
    ]


def flat(state: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.t().reshape(-1) for value in state.values()])


def nll(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets)


def penalty_problem() -> Problem:
    """nll(x) + Σ exp(m) x², biases penalised too."""

    def inner(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        strengths = parts(forward, hyperparameters["meta"])
        penalties = [
            (strength.exp() * parameter.square()).sum()
            for strength, parameter in zip(strengths, forward.parameters(), strict=True)
        ]
        return nll(forward(batch.inputs), batch.targets) + torch.stack(penalties).sum()

    def outer(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return nll(forward(batch.inputs), batch.targets)

    return problem(inner, outer, "meta_penalty")


def scaled_problem() -> Problem:
    """nll(x exp(m)) + exp(log_l2) Σ x²; the validation loss takes m as well."""
    strength = FIXTURE["in/log_l2_scaled"].exp()

    def outputs(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        scales = parts(forward, hyperparameters["meta"])
        weights = {
            name: parameter * scale.exp()
            for (name, parameter), scale in zip(forward.named_parameters(), scales, strict=True)
        }
        made: Tensor = torch.func.functional_call(forward, weights, (batch.inputs,))
        return made

    def inner(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        squares = torch.stack([p.square().sum() for p in forward.parameters()]).sum()
        return nll(outputs(forward, hyperparameters, batch), batch.targets) + strength * squares

    def outer(forward: nn.Module, hyperparameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return nll(outputs(forward, hyperparameters, batch), batch.targets)

    return problem(inner, outer, "meta_scaled")


def problem(inner: object, outer: object, meta: str) -> Problem:
    """Laid out so that the engine's shuffle of its rows gives the fixture's minibatches."""
    steps, size = FIXTURE["in/batches"].shape
    blank = torch.zeros(steps * size, 1)
    minibatches = Minibatches(Examples((blank, blank), "train", CPU, blank.dtype), size, (0, 0, 0))
    order = torch.cat([minibatches.join(step).index for step in range(steps)])
    rows = torch.empty_like(order)
    rows[order] = FIXTURE["in/batches"].reshape(-1)
    return Problem(
        network(),
        train=(FIXTURE["in/X_train"][rows], FIXTURE["in/Y_train"][rows]),
        valid=(FIXTURE["in/X_valid"], FIXTURE["in/Y_valid"]),
        loss=nn.CrossEntropyLoss(reduction="none"),
        inner_loss=inner,  # type: ignore[arg-type]
        outer_loss=outer,  # type: ignore[arg-type]
        hyperparameters={"meta": Hyperparameter(FIXTURE[f"in/{meta}"])},
    )


PROBLEMS = {"penalty": penalty_problem, "scaled": scaled_problem}


def evaluate(name: str, method: Method, optimizer: str = "damped_sgd") -> Evaluation:
    alpha, gamma = float(FIXTURE["in/alpha_const"]), float(FIXTURE["in/gamma_const"])
    steps, size = FIXTURE["in/batches"].shape
    training = TrainingConfig(
        optimizer="damped_sgd" if optimizer == "damped_sgd" else "sgd",
        steps=steps,
        batch_size=size,
        learning_rate=alpha if optimizer == "damped_sgd" else alpha * (1.0 - gamma),
        momentum=gamma,
    )
    tuner = Tuner(PROBLEMS[name](), [CustomTensor("meta")], training, method, dtype=torch.float64)
    return tuner.evaluate(tuner.initial_values(), 0)


@pytest.mark.parametrize("optimizer", ["damped_sgd", "sgd"])
@pytest.mark.parametrize(
    ("method", "published"),
    [
        (Replay(), "exact"),
        (Stored(), "exact"),
        (
            Shortcut(
                interpolation_nodes=30, max_stride=1, minibatch_subsampling=1, contraction=False
            ),
            "exact",
        ),
        (Shortcut(preset="paper"), "mad"),
        (Shortcut(preset="paper_tenth"), "mad_tenth"),
    ],
)
@pytest.mark.parametrize("name", PROBLEMS)
def test_hypergradient_is_the_oracles(
    name: str, method: Method, published: str, optimizer: str
) -> None:
    result = evaluate(name, method, optimizer)
    expected = {
        quantity: FIXTURE[f"out/{name}/const/{published}/{quantity}"]
        for quantity in ("x_final", "loss", "d_meta")
    }
    assert relative(flat(result.model), expected["x_final"]) < 1e-12
    assert abs(result.validation_loss - float(expected["loss"])) < 1e-12
    assert relative(result.hypergradient["meta"], expected["d_meta"]) < 1e-9


@pytest.mark.parametrize(
    ("method", "published"),
    [
        (Replay(), "exact"),
        (
            Shortcut(
                interpolation_nodes=30, max_stride=1, minibatch_subsampling=1, contraction=False
            ),
            "exact",
        ),
        (Shortcut(preset="paper"), "mad"),
    ],
)
@pytest.mark.parametrize(
    ("schedule", "per", "suffix"), [("steps", "step", ""), ("groups", "step_and_layer", "_groups")]
)
@pytest.mark.parametrize("name", PROBLEMS)
def test_rates_are_differentiated_as_the_oracle_does(
    name: str, schedule: str, per: PerStep, suffix: str, method: Method, published: str
) -> None:
    """At step 0 the published method's index wraps around, so that entry is left out of it."""
    steps, size = FIXTURE["in/batches"].shape
    rates, momenta = (FIXTURE[f"in/{rate}{suffix}"].t() for rate in ("alphas", "gammas"))
    tuner = Tuner(
        PROBLEMS[name](),
        [CustomTensor("meta"), LearningRate(per=per), Momentum(per=per)],
        TrainingConfig("damped_sgd", steps=steps, batch_size=size),
        method,
        dtype=torch.float64,
    )
    values = tuner.initial_values() | {"learning_rate": rates.log(), "momentum": momenta.logit()}
    result = tuner.evaluate(values, 0)
    expected = {
        quantity: FIXTURE[f"out/{name}/{schedule}/{published}/{quantity}"]
        for quantity in ("x_final", "d_meta", "d_alphas", "d_gammas")
    }
    found = result.hypergradient
    first = 1 if published == "mad" else 0
    assert relative(flat(result.model), expected["x_final"]) < 1e-12
    assert relative(found["meta"], expected["d_meta"]) < 1e-9
    d_rates = (found["learning_rate"] / rates).t()
    d_momenta = (found["momentum"] / momenta / (1.0 - momenta)).t()
    assert relative(d_rates[first:], expected["d_alphas"][first:]) < 1e-9
    assert relative(d_momenta[first:], expected["d_gammas"][first:]) < 1e-9


@pytest.mark.parametrize("name", PROBLEMS)
def test_reversible_takes_the_path_of_the_oracles(name: str) -> None:
    """The oracle multiplies v by the next larger n / 65536 and takes 1 - γ and the reverse at γ.

    Its path is that of sgd at its two numbers; its hypergradient is off by its rounding of γ.
    """
    alpha, gamma = float(FIXTURE["in/alpha_const"]), float(FIXTURE["in/gamma_const"])
    steps, size = FIXTURE["in/batches"].shape
    rounded = int(65536 * gamma + 1) / 65536
    training = TrainingConfig("sgd", steps, size, alpha * (1.0 - gamma), rounded)
    found = [
        tuner.evaluate(tuner.initial_values(), 0)
        for method in (Reversible(), Replay())
        for tuner in [
            Tuner(PROBLEMS[name](), [CustomTensor("meta")], training, method, dtype=torch.float64)
        ]
    ]
    expected = {
        quantity: FIXTURE[f"out/{name}/const/reversible/{quantity}"]
        for quantity in ("x_final", "loss", "d_meta")
    }
    assert relative(flat(found[0].model), expected["x_final"]) < 1e-9
    assert abs(found[0].validation_loss - float(expected["loss"])) < 1e-9
    assert relative(found[0].hypergradient["meta"], expected["d_meta"]) < 1e-3
    assert relative(found[0].hypergradient["meta"], found[1].hypergradient["meta"]) < 1e-10


@pytest.mark.parametrize("name", PROBLEMS)
def test_published_tenth_is_what_the_original_code_printed(name: str) -> None:
    result = evaluate(name, Shortcut(preset="paper_tenth"))
    original = FIXTURE[f"orig/{name}/const/mad_tenth/d_meta"]
    assert relative(result.hypergradient["meta"], original) < 1e-9


def test_penalty_written_out_is_the_penalty_differentiated() -> None:
    """The engine's own l2 per weight, on the fixture with its biases left unpenalised."""
    by_autograd = penalty_problem()
    net = by_autograd.model
    off = torch.cat(
        [torch.full((p.numel(),), -1e9 if p.ndim < 2 else -3.0) for p in net.parameters()]
    ).double()
    by_autograd.hyperparameters = {"meta": Hyperparameter(off)}
    by_hand = penalty_problem()
    by_hand.inner_loss = by_hand.outer_loss = None
    by_hand.hyperparameters = {}
    training = TrainingConfig("damped_sgd", 30, 10, 0.2, 0.9)
    found: list[Tensor] = []
    for stated, kind in (
        (by_autograd, CustomTensor("meta")),
        (by_hand, L2(init=-3.0, per="weight")),
    ):
        tuner = Tuner(stated, [kind], training, Replay(), dtype=torch.float64)
        found += tuner.evaluate(tuner.initial_values(), 0).hypergradient.values()
    matrices = [part for part in parts(net, found[0]) if part.ndim == 2]
    expected = torch.cat([matrix.reshape(-1) for matrix in matrices])
    assert relative(found[1], expected) < 1e-10
