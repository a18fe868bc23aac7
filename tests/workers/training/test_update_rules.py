"""Optimizers that are stated by their update: torch's steps, and derivatives of whole trainings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from drmad_workers import (
    L2,
    Forward,
    Implicit,
    InitScale,
    LearningRate,
    Method,
    Momentum,
    OneStep,
    Problem,
    ProblemError,
    Replay,
    Reversible,
    SampleWeight,
    Shortcut,
    StepRates,
    Stored,
    TrainingConfig,
    UpdateRule,
    WeightDecay,
    spec_adapter,
    square_root,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.preflight.short_run import report
from drmad_workers.replica_batch import ReplicaBatch
from drmad_workers.training.optimizers import RuleOptimizer
from drmad_workers.training.optimizers.lion import Lion
from drmad_workers.training.optimizers.rates import Rate
from drmad_workers.training.optimizers.rmsprop import RMSprop
from tests.workers.judge import optimizers as plain
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.verdict import assert_right
from tests.workers.preflight.proofs.jobs import job, stated
from tests.workers.small import largest_difference, relative, shaken, small_problem, tuner_of

STEPS = 6
TRAINING = TrainingConfig(
    "rmsprop", STEPS, 4, learning_rate=0.02, momentum=0.6, weight_decay=0.1, eps=1e-3
)
OWN = replace(TRAINING, optimizer="custom")


class Normalised(UpdateRule):
    """Momentum, of which a step takes the direction for each parameter by itself."""

    memory_rows = 1
    elementwise = False

    def update(
        self,
        step: int,
        weights: Tensor,
        memory: Sequence[Tensor],
        gradient: Tensor,
        rates: StepRates,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        velocity = rates.momentum * memory[0] + gradient + rates.weight_decay * weights
        size = (velocity.square().mean() + 0.01).sqrt()
        return weights - rates.learning_rate * velocity / size, [velocity]


@dataclass
class AdamW(UpdateRule):
    """AdamW once more, whose derivatives the engine has written out."""

    second_decay: float = 0.999
    eps: float = 1e-3

    memory_rows: ClassVar[int] = 2

    def update(
        self,
        step: int,
        weights: Tensor,
        memory: Sequence[Tensor],
        gradient: Tensor,
        rates: StepRates,
    ) -> tuple[Tensor, Sequence[Tensor]]:
        first = rates.momentum * memory[0] + (1.0 - rates.momentum) * gradient
        second = self.second_decay * memory[1] + (1.0 - self.second_decay) * gradient.square()
        scale = square_root(second / (1.0 - self.second_decay ** (step + 1))) + self.eps
        mean = first / (1.0 - rates.momentum ** (step + 1))
        shrunk = weights * (1.0 - rates.learning_rate * rates.weight_decay)
        return shrunk - rates.learning_rate * mean / scale, (first, second)


def problem_of(rule: UpdateRule | None) -> Problem:
    return replace(small_problem(), optimizer=rule)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_that_of_torch_step_by_step(momentum: float, weight_decay: float) -> None:
    require_steps(
        RMSprop(0.99, 1e-8),
        momentum,
        weight_decay,
        lambda group: torch.optim.RMSprop(
            [group], 0.1, momentum=momentum, weight_decay=weight_decay
        ),
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lion_is_the_loop_of_its_paper(weight_decay: float) -> None:
    def loop(group: dict[str, Any]) -> torch.optim.Optimizer:
        return plain.Lion([group | {"lr": 0.1, "weight_decay": weight_decay}], (0.9, 0.99))

    require_steps(Lion(0.99), 0.9, weight_decay, loop)


def require_steps(
    rule: UpdateRule,
    momentum: float,
    weight_decay: float,
    made: Callable[[dict[str, Any]], torch.optim.Optimizer],
) -> None:
    """Both take the same steps at the learning rate 0.1, also where the first gradient is 0."""
    draw = torch.Generator().manual_seed(1)
    weights, targets = torch.randn(2, 7, dtype=torch.float64, generator=draw)
    targets[0] = weights[0]
    parameter = torch.nn.Parameter(weights.clone())
    reference = made({"params": [parameter]})
    shapes = [torch.Size([3]), torch.Size([2, 2])]
    dynamics = RuleOptimizer(rule, Rate(0.1), Rate(momentum), Rate(weight_decay), shapes)
    state = torch.zeros(1 + rule.memory_rows, 7, dtype=torch.float64)
    state[0] = weights
    for step in range(12):
        parameter.grad = 4.0 * (parameter.detach() - targets) ** 3
        reference.step()
        dynamics.step(step, state, 4.0 * (state[0] - targets) ** 3)
        torch.testing.assert_close(state[0], parameter.detach(), rtol=1e-12, atol=1e-14)


KINDS: dict[str, tuple[Kind, ...]] = {
    "rates": (
        LearningRate(per="step_and_layer"),
        Momentum(per="layer"),
        WeightDecay(per="layer"),
    ),
    "losses": (SampleWeight(), L2(init=-3.0, per="layer"), InitScale()),
}
RULES: dict[str, UpdateRule | None] = {"rmsprop": None, "muon": None, "custom": Normalised()}


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("name", RULES)
def test_exact_methods_are_central_differences_of_whole_trainings(name: str, kinds: str) -> None:
    training = replace(TRAINING, optimizer=name, nesterov=name == "muon")  # type: ignore[arg-type]
    methods: list[Method] = [Stored(), Replay()]
    if kinds == "losses" or name == "custom":
        methods.append(Forward())
    recipe = Recipe(lambda: problem_of(RULES[name]), KINDS[kinds], training)
    assert_right(recipe, methods, step=1e-6)


def test_lion_has_the_derivatives_by_its_rates_and_the_initial_weights() -> None:
    training = replace(TRAINING, optimizer="lion", eps=1e-8, momentum=0.9)
    kinds = (LearningRate(per="layer"), WeightDecay(), InitScale())
    assert_right(Recipe(small_problem, kinds, training), [Stored(), Replay(), Forward()])


def test_lion_has_none_by_the_training_loss() -> None:
    training = replace(TRAINING, optimizer="lion", eps=1e-8, momentum=0.9)
    tuner = tuner_of(small_problem(), [SampleWeight(), LearningRate()], training, Stored())
    found = tuner.evaluate(tuner.initial_values(), 0).hypergradient
    assert not found["sample_weight"].any()
    assert found["learning_rate"].any()
    assert "only learning_rate" in (training.traits.limit or "")


@pytest.mark.parametrize("method", [Stored(), Replay(), Forward(), OneStep()])
def test_a_rule_of_adamw_has_the_derivatives_that_are_written_out(method: Method) -> None:
    training = replace(TRAINING, optimizer="adamw", momentum=0.9, betas=(0.6, 0.999))
    kinds: list[Kind] = [L2(init=-3.0), LearningRate(per="layer"), WeightDecay()]
    if not isinstance(method, OneStep):
        kinds.append(Momentum(per="step", init=0.5))
    written = tuner_of(small_problem(), kinds, training, method)
    own = tuner_of(
        problem_of(AdamW()), kinds, replace(training, optimizer="custom", momentum=0.6,
        betas=(0.9, 0.999), eps=1e-8), method,
    )  # fmt: skip
    values = shaken(written, 0.2)
    expected = written.evaluate(values, 0).hypergradient
    assert largest_difference(own.evaluate(values, 0), expected) < 1e-9


@pytest.mark.parametrize(("name", "rule"), RULES.items())
def test_the_shortcut_is_exact_with_a_node_at_every_step(
    name: str, rule: UpdateRule | None
) -> None:
    everywhere = Shortcut(interpolation_nodes=STEPS, max_stride=1, minibatch_subsampling=1)
    training = replace(TRAINING, optimizer=name)  # type: ignore[arg-type]
    kinds: list[Kind] = [SampleWeight(), LearningRate()]
    exact, shortcut = (
        tuner_of(problem_of(rule), kinds, training, method) for method in (Replay(), everywhere)
    )
    values = shaken(exact, 0.3)
    expected = exact.evaluate(values, 0).hypergradient
    assert largest_difference(shortcut.evaluate(values, 0), expected) < 1e-9


def test_a_joint_stride_of_a_rule_is_its_steps_under_one_gradient() -> None:
    draw = torch.Generator().manual_seed(2)
    shapes = [torch.Size([3]), torch.Size([2, 2])]
    rates = [Rate(torch.full((1, 1), 0.1).double(), [3, 4], torch.zeros(1, 1).double())]
    dynamics = RuleOptimizer(Normalised(), rates[0], Rate(0.5), Rate(0.1), shapes)
    state, adjoint = torch.randn(2, 2, 7, dtype=torch.float64, generator=draw)
    gradient = torch.randn(7, dtype=torch.float64, generator=draw)
    inputs = [leaf.clone().requires_grad_() for leaf in (state, gradient)]
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    weights, velocity = inputs[0]
    for _ in range(3):
        velocity = 0.5 * velocity + inputs[1] + 0.1 * weights
        sizes = [(part.square().mean() + 0.01).sqrt() for part in velocity.split([3, 4])]
        scale = torch.cat([s.expand(n) for s, n in zip(sizes, [3, 4], strict=True)])
        weights = weights - rate * velocity / scale
    after = torch.stack([weights, velocity])
    d_state, d_gradient, d_rate = torch.autograd.grad(after, [*inputs, rate], adjoint)
    cotangent = torch.empty_like(gradient)
    dynamics.pull_back(0, 3, adjoint, cotangent, state, gradient)
    torch.testing.assert_close(adjoint, d_state)
    torch.testing.assert_close(-cotangent, d_gradient)
    assert rates[0].total is not None
    torch.testing.assert_close(rates[0].total.squeeze(), d_rate)


def test_replicas_side_by_side_keep_a_rule_of_parameters_apart() -> None:
    kinds: list[Kind] = [L2(init=-2.0, per="layer")]
    batch = ReplicaBatch(
        problem_of(Normalised()), kinds, OWN, Replay(), replicas=(0, 1), dtype=torch.float64
    )
    assert batch.reason is None
    values = batch.initial_values()
    for tuner, together in zip(batch.tuners, batch.evaluate(values, 0), strict=True):
        alone = tuner.evaluate(values, 0).hypergradient["l2"]
        assert relative(together.hypergradient["l2"], alone) < 1e-9


class InPlace(Normalised):
    def update(self, step: int, weights: Tensor, *rest: Any) -> tuple[Tensor, Sequence[Tensor]]:
        moved, memory = super().update(step, weights, *rest)
        weights.data.copy_(moved)
        return moved, memory


class Detached(Normalised):
    def update(self, step: int, weights: Tensor, *rest: Any) -> tuple[Tensor, Sequence[Tensor]]:
        moved, memory = super().update(step, weights, *rest)
        return moved.detach(), memory


class Forgetful(Normalised):
    def update(self, step: int, weights: Tensor, *rest: Any) -> tuple[Tensor, Sequence[Tensor]]:
        return super().update(step, weights, *rest)[0], ()


class Mixing(Normalised):
    elementwise = True


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (InPlace(), "must not write into its arguments"),
        (Detached(), "must be differentiable"),
        (Forgetful(), "must return shapes"),
        (Mixing(), "set elementwise = False"),
    ],
)
def test_a_rule_that_breaks_its_contract_is_refused(rule: UpdateRule, words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        tuner_of(problem_of(rule), [L2()], OWN)


@pytest.mark.parametrize(("name", "rule"), [("custom", None), ("adam", Normalised())])
def test_a_rule_and_another_optimizer_contradict_each_other(
    name: str, rule: UpdateRule | None
) -> None:
    training = replace(OWN, optimizer=name, momentum=0.9)  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match=r"exactly where training\.optimizer is custom"):
        tuner_of(problem_of(rule), [L2()], training)


def test_a_problem_takes_no_optimizer_of_torch() -> None:
    with pytest.raises(ProblemError, match="optimizer must be an UpdateRule"):
        problem_of(torch.optim.SGD)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "words"),
    [(Reversible(), "reversible undoes"), (Implicit(solver="neumann"), "step_size must be stated")],
)
def test_methods_that_need_sgd_refuse_a_rule_by_field(method: Method, words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        tuner_of(problem_of(Normalised()), [L2()], replace(OWN, weight_decay=0.0), method)


def test_a_job_with_a_rule_of_its_own_passes_the_preflight() -> None:
    problem, spec = replace(stated(), optimizer=Normalised()), job(optimizer="custom")
    found = report(spec, problem, spec_adapter.tuner(spec, built=problem))
    assert not [proof for proof in found["proofs"] if proof["result"] == "failed"]
    assert found["memory_bytes"] > 0


def test_the_preflight_says_what_lion_leaves_out() -> None:
    problem, spec = stated(), job({"kind": "learning_rate"}, optimizer="lion")
    limits = report(spec, problem, spec_adapter.tuner(spec, built=problem))["limits"]
    assert [limit for limit in limits if "whose derivative is 0 almost everywhere" in limit]
