"""The influence of training examples, judged by separate hypergradients and by plain loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    AllRows,
    Forward,
    Method,
    Problem,
    ProblemError,
    Replay,
    Shortcut,
    Stopped,
    Stored,
    TrainingConfig,
    Tuner,
)
from drmad_workers.attribution.attribution import LdsSettings, attribute
from drmad_workers.attribution.attributor import Attributor
from drmad_workers.attribution.queries import Query
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.hyperparameters.example_weight import NAME, ExampleWeight
from drmad_workers.validation.rank_correlation import rank_correlation
from tests.workers.small import small_problem

TRAINING = TrainingConfig("sgd", steps=40, batch_size=10, learning_rate=0.05, momentum=0.9)
ROWS: list[list[int]] = [list(range(9)), [0], [1], [2], [3], [4]]
"""The validation rows of the queries valid and rows:0-4."""


def attributor_of(problem: Problem, training: TrainingConfig, method: Method) -> Attributor:
    return Attributor(problem, training, method, ["valid", "rows:0-4"], dtype=torch.float64)


def largest_difference(
    model: Any, training: TrainingConfig, method: Method, own_loss: bool = False
) -> float:
    """The scores of six queries against six hypergradients, relative to the largest of each."""

    def problem() -> Problem:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            made = small_problem(model() if model else None, rows=40)
        if own_loss:
            made.inner_loss = weighted_loss
        return made

    attributor = attributor_of(problem(), training, method)
    found = attributor.scores(draw=3)
    worst = 0.0
    for query, rows in enumerate(ROWS):
        alone = problem()
        alone.valid = (alone.valid[0][rows], alone.valid[1][rows])
        tuner = Tuner(alone, [ExampleWeight()], training, method, dtype=torch.float64)
        expected = tuner.evaluate(tuner.initial_values(), 0, draw=3)
        assert float(found.values[query]) == pytest.approx(expected.validation_loss, rel=1e-12)
        gradient = expected.hypergradient[NAME]
        assert gradient.abs().max() > 1e-6
        difference = (found.influence[query] + gradient).abs().max() / gradient.abs().max()
        worst = max(worst, float(difference))
    return worst


def weighted_loss(forward: nn.Module, hyperparameters: Any, batch: Any) -> Tensor:
    losses = nn.functional.cross_entropy(forward(batch.inputs), batch.targets, reduction="none")
    weighted: Tensor = losses * hyperparameters["sample_weight"][batch.index]
    return weighted.mean()


def batch_normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def group_normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.Tanh(), nn.Linear(6, 3))


def dropped() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 3))


STRIDES = Shortcut(max_adjoint_change=None, max_stride=2, minibatch_subsampling=2)


@pytest.mark.parametrize(
    ("model", "changes", "method"),
    [
        (None, {}, Replay()),
        (None, {}, Stored(horizon=15)),
        (None, {}, Replay(hvp="finite_difference")),
        (None, {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}, Replay()),
        (None, {"optimizer": "muon", "learning_rate": 0.01}, Stored()),
        (None, {"accumulate": 2, "clip_norm": 0.5, "weight_decay": 0.01}, Replay()),
        (None, {}, STRIDES),
        (batch_normed, {"optimizer": "adam", "learning_rate": 0.01}, Stored()),
        (batch_normed, {"accumulate": 2}, Replay()),
        (batch_normed, {}, STRIDES),
        (group_normed, {}, Replay()),
        (dropped, {}, Replay()),
        (dropped, {"clip_norm": 0.5}, Replay(hvp="finite_difference")),
    ],
)
def test_many_queries_in_one_pass_equal_as_many_hypergradients(
    model: Any, changes: dict[str, Any], method: Method
) -> None:
    training = replace(TRAINING, **({"steps": 20} | changes))
    if changes.get("optimizer") == "adam":
        # Where a gradient is almost 0, the derivative of Adam's square root magnifies rounding.
        assert largest_difference(model, training, method) < 1e-7
    else:
        assert largest_difference(model, training, method) < 1e-10


def test_a_loss_of_the_users_own_takes_the_weights_by_name() -> None:
    assert largest_difference(None, replace(TRAINING, steps=20), Replay(), own_loss=True) < 1e-10


def plainly_trained(problem: Problem, weights: Tensor, draw: int) -> Tensor:
    """The loss of every validation row after SGD of torch.optim, shape (rows,)."""
    model = problem.model
    given = [parameter.detach().clone() for parameter in model.parameters()]
    examples = Examples(problem.train, "train", torch.device("cpu"), torch.float64)
    minibatches = Minibatches(examples, TRAINING.batch_size, (0, draw, 0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(TRAINING.steps):
        batch = minibatches.join(step)
        losses = nn.functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")
        optimizer.zero_grad()
        (losses * weights[batch.index]).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        losses = nn.functional.cross_entropy(
            model(problem.valid[0]), problem.valid[1], reduction="none"
        )
        for parameter, before in zip(model.parameters(), given, strict=True):
            parameter.copy_(before)
    return losses


def test_the_influence_is_the_central_difference_of_whole_training_runs() -> None:
    problem = small_problem(rows=40)
    scores = attributor_of(problem, TRAINING, Replay()).scores(draw=2)
    for row in (0, 7, 39):
        ends = []
        for sign in (1.0, -1.0):
            weights = torch.ones(40, dtype=torch.float64)
            weights[row] += sign * 1e-5
            ends.append(plainly_trained(problem, weights, 2))
        slopes = (ends[0] - ends[1]) / 2e-5
        expected = torch.stack([slopes[rows].mean() for rows in ROWS])
        torch.testing.assert_close(-scores.influence[:, row], expected, rtol=1e-6, atol=1e-9)


def test_the_influence_ranks_the_rows_as_leaving_each_of_them_out_does() -> None:
    problem = small_problem(rows=40)
    scores = attributor_of(problem, TRAINING, Replay()).scores()
    base = plainly_trained(problem, torch.ones(40, dtype=torch.float64), 0)
    changes = []
    for row in range(40):
        weights = torch.ones(40, dtype=torch.float64)
        weights[row] = 0.0
        changes.append(plainly_trained(problem, weights, 0) - base)
    actual = torch.stack(changes, 1)
    for query, rows in enumerate(ROWS):
        found = rank_correlation(
            scores.influence[query].tolist(), actual[rows].mean(0).tolist()
        ).value
        assert found is not None
        assert found > 0.97


def test_values_after_leaving_rows_out_are_those_of_a_plain_loop() -> None:
    problem = small_problem(rows=40)
    attributor = attributor_of(problem, TRAINING, Replay())
    left_out = torch.tensor([3, 5, 8])
    found = attributor.values_without(left_out, draw=1)
    weights = torch.ones(40, dtype=torch.float64)
    weights[left_out] = 0.0
    losses = plainly_trained(problem, weights, 1)
    expected = torch.stack([losses[rows].mean() for rows in ROWS])
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0.0)


def test_more_queries_than_memory_holds_take_several_passes_and_give_the_same() -> None:
    together = attributor_of(small_problem(rows=40), TRAINING, Replay())
    asked = ["valid", "rows:0-4"]
    in_parts = Attributor(
        small_problem(rows=40), TRAINING, Replay(), asked, dtype=torch.float64, pass_bytes=10_000
    )
    one, other = together.scores(), in_parts.scores()
    assert one.passes == 1 < other.passes
    assert other.cost > one.cost
    torch.testing.assert_close(one.influence, other.influence, rtol=1e-10, atol=1e-15)


def test_the_model_and_the_sums_are_as_before_after_a_pass_and_after_a_stop() -> None:
    problem = small_problem(rows=40)
    given = [parameter.detach().clone() for parameter in problem.model.parameters()]
    attributor = attributor_of(problem, TRAINING, Replay())
    first = attributor.scores()
    with pytest.raises(Stopped):
        attributor.scores(should_stop=lambda: True)
    torch.testing.assert_close(attributor.scores().influence, first.influence, rtol=0, atol=0)
    for parameter, before in zip(problem.model.parameters(), given, strict=True):
        assert torch.equal(parameter, before)


def margin(outputs: Tensor, targets: Tensor) -> Tensor:
    """Minus the log-odds of the target, a mean over the rows."""
    chosen = outputs.log_softmax(1).gather(1, targets[:, None])[:, 0]
    return ((-chosen.exp()).log1p() - chosen).mean()


def error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) != targets).double().mean()


def test_a_query_may_be_a_class_or_a_measure_of_the_users_own() -> None:
    problem = small_problem(rows=40)
    problem.metrics = {"margin": margin, "error": error, "all": AllRows(error)}
    asked = ["classes", "measure:margin"]
    attributor = Attributor(problem, TRAINING, Replay(), asked, dtype=torch.float64)
    targets = problem.valid[1]
    labels = [f"class {c}" for c in range(3) if (targets == c).any()]
    assert [query.label for query in attributor.queries] == [*labels, "measure margin"]
    scores = attributor.scores()
    by_row = Attributor(problem, TRAINING, Replay(), ["each"], dtype=torch.float64).scores()
    for number, label in enumerate(labels):
        rows = (targets == int(label[6:])).nonzero()[:, 0]
        expected = by_row.influence[rows].mean(0)
        torch.testing.assert_close(scores.influence[number], expected, rtol=1e-9, atol=1e-14)
    tuner = Tuner(
        replace(problem, outer_loss=lambda m, _, b: margin(m(b.inputs), b.targets)),
        [ExampleWeight()],
        TRAINING,
        Replay(),
        dtype=torch.float64,
    )
    expected = tuner.evaluate(tuner.initial_values(), 0).hypergradient[NAME]
    torch.testing.assert_close(-scores.influence[-1], expected, rtol=1e-9, atol=1e-14)
    own = Query("own", torch.tensor([1, 2]), margin)
    stated = Attributor(problem, TRAINING, Replay(), [own], dtype=torch.float64)
    inputs, classes = problem.valid
    after = stated.values_without(None)
    assert after is not None
    torch.testing.assert_close(after, stated.scores().values)
    assert len(inputs) == len(classes) == 9


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["rows:3,9"], "below 9"),
        (["class:7"], "class:7 must have validation rows"),
        (["measure:loss"], "one of margin, error, got 'loss'"),
        (["measure:all"], "a mean over the rows"),
        (["each", "rows:2"], "'row 2' twice"),
        ([], "at least one query"),
    ],
)
def test_queries_that_the_data_cannot_answer_are_refused(asked: list[str], words: str) -> None:
    problem = small_problem(rows=40)
    problem.metrics = {"margin": margin, "error": error, "all": AllRows(error)}
    with pytest.raises(ProblemError, match=words):
        Attributor(problem, TRAINING, Replay(), asked)


def test_a_measure_without_a_derivative_and_a_method_without_adjoints_are_refused() -> None:
    problem = small_problem(rows=40)
    problem.metrics = {"error": error}
    with pytest.raises(ProblemError, match="smooth measure"):
        Attributor(problem, TRAINING, Replay(), ["measure:error"]).scores()
    with pytest.raises(ProblemError, match="auto takes replay"):
        Attributor(problem, TRAINING, Forward())


def test_the_lds_ranks_predictions_against_plain_retraining() -> None:
    problem = small_problem(rows=40)
    attributor = attributor_of(problem, TRAINING, Replay())
    lds = LdsSettings(12, 0.2, seed=5)
    found = attribute(attributor, draws=2, lds=lds)
    assert found.scores.influence.dtype == "float32"
    mean = torch.stack([attributor.scores(draw).influence for draw in (0, 1)]).mean(0)
    torch.testing.assert_close(torch.from_numpy(found.scores.influence), mean.float())
    bases = [plainly_trained(problem, torch.ones(40, dtype=torch.float64), d) for d in (0, 1)]
    predicted, actual = [], []
    for number in range(12):
        rows = lds.subset(number, 40)
        assert len(rows) == 8
        weights = torch.ones(40, dtype=torch.float64)
        weights[rows] = 0.0
        change = plainly_trained(problem, weights, number % 2) - bases[number % 2]
        predicted.append(float(mean[0][rows].sum()))
        actual.append(float(change.mean()))
    assert found.lds[0].value == pytest.approx(rank_correlation(predicted, actual).value)
    assert found.agreement is not None
    assert 0.0 < found.agreement < 1.0
    one = attribute(attributor)
    assert (one.agreement, one.lds, one.left_out) == (None, [], None)
