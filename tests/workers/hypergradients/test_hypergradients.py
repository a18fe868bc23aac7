"""Methods against finite differences, against unrolled autograd, and against each other."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from drmad_client.spec.inner.optimizers import OptimizerName
from drmad_workers import (
    L2,
    METHODS,
    CustomTensor,
    HypergradientDiverged,
    LearningRate,
    Method,
    ProblemError,
    Replay,
    SampleWeight,
    Shortcut,
    TrainingConfig,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.hyperparameters.penalty import Per
from drmad_workers.trajectory.interpolation import node_steps
from tests.workers.small import (
    finite_difference,
    largest_difference,
    mixing_problem,
    relative,
    shaken,
    small_problem,
    tuner_of,
    unrolled,
)

TRAINING = TrainingConfig("damped_sgd", steps=17, batch_size=4, learning_rate=0.8, momentum=0.7)

trainings = st.builds(
    TrainingConfig,
    optimizer=st.sampled_from(["sgd", "damped_sgd"]),
    steps=st.integers(1, 20),
    batch_size=st.integers(1, 12),
    learning_rate=st.floats(0.01, 0.5),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
)


@settings(settings.get_profile("engine"))
@given(trainings, st.sampled_from(["weight", "unit", "layer", "model"]), st.booleans(), st.data())
def test_replay_is_autograd_through_the_unrolled_training(
    training: TrainingConfig, per: Per, own_loss: bool, data: st.DataObject
) -> None:
    problem = (mixing_problem if own_loss else small_problem)(seed=data.draw(st.integers(0, 99)))
    kinds: list[Kind] = [L2(per=per, init=-2.0), SampleWeight()]
    kinds += [CustomTensor("mixing")] if own_loss else []
    tuner = tuner_of(problem, kinds, training)
    values = shaken(tuner)
    expected = unrolled(problem, training, values, per)
    assert largest_difference(tuner.evaluate(values, 0), expected) < 1e-10


@pytest.mark.parametrize("optimizer", ["sgd", "damped_sgd"])
@pytest.mark.parametrize("per", ["weight", "unit", "layer", "model"])
def test_replay_is_the_finite_difference_of_whole_training_runs(
    optimizer: OptimizerName, per: Per
) -> None:
    training = replace(TRAINING, optimizer=optimizer, learning_rate=0.3)
    kinds: list[Kind] = [L2(per=per, init=-2.0), SampleWeight(), CustomTensor("mixing")]
    tuner = tuner_of(mixing_problem(), kinds, training)
    values = shaken(tuner)
    hypergradient = tuner.evaluate(values, 0).hypergradient
    for name, gradient in hypergradient.items():
        for coordinate in range(0, gradient.numel(), max(1, gradient.numel() // 3)):
            difference = finite_difference(tuner, values, name, coordinate)
            error = abs(difference - float(gradient.view(-1)[coordinate]))
            assert error < 1e-6 * max(1e-2, float(gradient.abs().max()))


@pytest.mark.parametrize("training", [TRAINING, replace(TRAINING, steps=1)])
def test_shortcut_with_a_node_at_every_step_is_replay(training: TrainingConfig) -> None:
    kinds: list[Kind] = [L2(per="unit", init=-2.0), SampleWeight()]
    exact = tuner_of(small_problem(), kinds, training)
    everywhere = Shortcut(
        interpolation_nodes=training.steps, max_stride=1, minibatch_subsampling=1, contraction=False
    )
    differentiated = tuner_of(small_problem(), kinds, training, everywhere)
    values = shaken(exact)
    expected = exact.evaluate(values, 3).hypergradient
    assert largest_difference(differentiated.evaluate(values, 3), expected) < 1e-10


def test_one_step_needs_no_path_at_all() -> None:
    training = replace(TRAINING, steps=1)
    values: dict[str, Tensor] = {}
    found = []
    for method in (Replay(), Shortcut(), Shortcut(max_stride=5, interpolation_nodes=3)):
        tuner = tuner_of(small_problem(), [SampleWeight()], training, method)
        values = values or shaken(tuner)
        found.append(tuner.evaluate(values, 0))
    for other in found[1:]:
        assert largest_difference(other, found[0].hypergradient) < 1e-12


@pytest.mark.parametrize("horizon", [1, 5, 16])
def test_horizon_of_shortcut_is_that_of_truncated_replay(horizon: int) -> None:
    methods = [
        Replay(horizon),
        Shortcut(
            horizon,
            interpolation_nodes=horizon,
            max_stride=1,
            minibatch_subsampling=1,
            contraction=False,
        ),
    ]
    replayed, shortcut = (
        tuner_of(small_problem(), [SampleWeight()], TRAINING, method) for method in methods
    )
    values = shaken(replayed)
    expected = replayed.evaluate(values, 0)
    assert expected.backward_steps == horizon
    assert largest_difference(shortcut.evaluate(values, 0), expected.hypergradient) < 1e-10


@pytest.mark.parametrize(
    "method",
    [
        Shortcut(),
        Shortcut(interpolation_nodes=4),
        Shortcut(interpolation_nodes=6, averaging_window=4),
        Shortcut(max_stride=3, interpolation_nodes=8),
    ],
)
def test_shortcut_points_the_way_of_the_exact_hypergradient(method: Method) -> None:
    training = replace(TRAINING, steps=60, learning_rate=0.2, batch_size=6)
    exact, short = (
        tuner_of(small_problem(), [L2(per="unit", init=-4.0)], training, m)
        for m in (Replay(), method)
    )
    values = shaken(exact)
    expected = exact.evaluate(values, 0).hypergradient["l2"]
    actual = short.evaluate(values, 0).hypergradient["l2"]
    assert float(torch.cosine_similarity(actual, expected, dim=0)) > 0.97


def test_stride_counts_its_products() -> None:
    tuner = tuner_of(
        small_problem(), [SampleWeight()], TRAINING, Shortcut(max_stride=5, max_adjoint_change=None)
    )
    assert tuner.evaluate(tuner.initial_values(), 0).backward_steps == 4


def test_a_subsampled_half_is_the_whole_where_all_minibatches_are_equal() -> None:
    """Minibatches of all examples: one of two stands for both, and every example is visited."""
    training = replace(TRAINING, steps=16, batch_size=12)
    kinds: list[Kind] = [L2(per="unit", init=-2.0), SampleWeight()]
    full, subsampled = (
        tuner_of(
            small_problem(),
            kinds,
            training,
            Shortcut(max_stride=4, max_adjoint_change=None, minibatch_subsampling=subsampling),
        )
        for subsampling in (1, 2)
    )
    values = shaken(full)
    expected, actual = full.evaluate(values, 0), subsampled.evaluate(values, 0)
    assert actual.backward_steps == expected.backward_steps == 4
    assert largest_difference(actual, expected.hypergradient) < 1e-12


@pytest.mark.parametrize(
    ("kind", "default"), [(L2(per="layer", init=-3.0), 6), (SampleWeight(), 1)]
)
def test_models_with_convolutions_are_subsampled_by_default_unless_rows_have_weights(
    kind: Kind, default: int
) -> None:
    model = nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 2), nn.Flatten(), nn.Linear(9, 3)
    )
    training = replace(TRAINING, steps=36)

    def found(subsampling: int | None) -> Tensor:
        tuner = tuner_of(
            small_problem(model),
            [kind],
            training,
            Shortcut(minibatch_subsampling=subsampling),
        )
        values = tuner.initial_values()
        return tuner.evaluate(values, 0).hypergradient[kind.name]

    assert torch.equal(found(None), found(default))
    assert not torch.equal(found(None), found(7 - default))


def test_a_subsampled_half_makes_up_for_the_examples_it_omits() -> None:
    """Two epochs, of which the first is visited by half; each example counts for its draws."""
    training = TrainingConfig("sgd", steps=12, batch_size=2, learning_rate=1e-4, momentum=0.0)
    exact, subsampled = (
        tuner_of(small_problem(), [SampleWeight()], training, method)
        for method in (Replay(), Shortcut(max_stride=2, minibatch_subsampling=2))
    )
    values = exact.initial_values()
    expected = exact.evaluate(values, 0).hypergradient["sample_weight"]
    result = subsampled.evaluate(values, 0)
    assert result.backward_steps < training.steps
    assert relative(result.hypergradient["sample_weight"], expected) < 1e-2


def test_cost_of_the_shortcut_counts_the_minibatches_it_visits() -> None:
    training = replace(TRAINING, steps=100)
    shortcuts = (
        Shortcut(),
        Shortcut(minibatch_subsampling=2),
        Shortcut(horizon=50),
        Shortcut(horizon=60, minibatch_subsampling=2),
    )
    assert [shortcut.cost(training) for shortcut in shortcuts] == [3.0, 2.5, 2.0, 2.1]


def test_cost_of_the_shortcut_counts_the_half_that_it_trains_again() -> None:
    training = replace(TRAINING, steps=2000)
    shortcuts = (
        Shortcut(),
        Shortcut(budget=40),
        Shortcut(horizon=1000),
        Shortcut(interpolation_nodes=15),
    )
    assert [shortcut.cost(training) for shortcut in shortcuts] == [3.5, 3.0, 2.0, 3.0]
    assert [shortcut.copies(training) for shortcut in shortcuts] == [16.0, 40.0, 16.0, 16.0]


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one.flatten(), other.flatten(), dim=0))


def test_a_half_trained_again_points_the_way_of_the_exact_hypergradient() -> None:
    """Few copies, so that of 480 steps the first half is trained again, in two segments."""
    training = replace(TRAINING, steps=480, learning_rate=0.2, batch_size=6)
    kinds: list[Kind] = [L2(per="unit", init=-4.0), SampleWeight(), LearningRate(per="layer")]
    methods = (Replay(), Shortcut(budget=4), Shortcut(interpolation_nodes=1, averaging_window=1))
    exact, shortcut, line = (tuner_of(small_problem(), kinds, training, m) for m in methods)
    values = shaken(exact)
    expected = exact.evaluate(values, 0).hypergradient
    found, crude = shortcut.evaluate(values, 0), line.evaluate(values, 0)
    assert found.cost == pytest.approx(3.5)
    for name, gradient in expected.items():
        assert cosine(found.hypergradient[name], gradient) > 0.99
        assert cosine(found.hypergradient[name], gradient) > cosine(
            crude.hypergradient[name], gradient
        )


def test_growth_of_the_adjoint_is_reported_and_contraction_prevents_it() -> None:
    wild = replace(TRAINING, steps=300, learning_rate=1.0, momentum=0.9)
    problem = small_problem()
    problem.train = (3.0 * problem.train[0], problem.train[1])
    problem.valid = (3.0 * problem.valid[0], problem.valid[1])
    drmad = Shortcut(
        interpolation_nodes=1,
        averaging_window=1,
        max_stride=1,
        minibatch_subsampling=1,
        contraction=False,
    )
    line = tuner_of(problem, [SampleWeight()], wild, drmad)
    with pytest.raises(HypergradientDiverged, match="use contraction") as error:
        line.evaluate(line.initial_values(), 0)
    assert error.value.norm > error.value.bound
    assert 0 <= error.value.step < wild.steps
    exact = HypergradientDiverged(3, 1e9, 1e8)
    assert "replay" not in str(exact)
    assert "lower the learning rate" in str(exact)
    held = tuner_of(problem, [SampleWeight()], wild, replace(drmad, contraction=True))
    gradient = held.evaluate(held.initial_values(), 0).hypergradient["sample_weight"]
    assert 0.0 < float(gradient.norm()) < 10.0


@pytest.mark.parametrize("nodes", [1, 2, 7, 30])
def test_nodes_are_distinct_and_denser_towards_the_end(nodes: int) -> None:
    steps = node_steps(10, 40, nodes)
    assert steps[0] == 10
    assert len(set(steps)) == nodes
    assert steps == sorted(steps)
    assert steps[-1] < 40
    assert node_steps(0, 5, 100) == [0, 1, 2, 3, 4]
    assert node_steps(0, 1000, 4) == [0, 438, 750, 938]


def test_a_node_is_the_mean_of_its_window() -> None:
    """On a path that the polyline of window means passes through: a straight one."""
    training = replace(TRAINING, steps=40, momentum=0.0, learning_rate=1e-6)
    methods = (
        Replay(),
        Shortcut(
            interpolation_nodes=5,
            averaging_window=6,
            max_stride=1,
            minibatch_subsampling=1,
            contraction=False,
        ),
    )
    exact, averaged = (
        tuner_of(small_problem(), [SampleWeight()], training, method) for method in methods
    )
    values = shaken(exact)
    expected = exact.evaluate(values, 0).hypergradient["sample_weight"]
    actual = averaged.evaluate(values, 0).hypergradient["sample_weight"]
    assert relative(actual, expected) < 1e-6


@pytest.mark.parametrize(
    ("method", "field"),
    [
        (Shortcut(horizon=18), "hypergradient.horizon"),
        (Replay(horizon=0), "hypergradient.horizon"),
        (Shortcut(interpolation_nodes=0), "hypergradient.interpolation_nodes"),
        (Shortcut(max_stride=0), "hypergradient.max_stride"),
        (Shortcut(averaging_window=0), "hypergradient.averaging_window"),
        (Shortcut(minibatch_subsampling=0), "hypergradient.minibatch_subsampling"),
        (Shortcut(preset="paper", interpolation_nodes=3), "hypergradient.preset"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(method: Method, field: str) -> None:
    with pytest.raises(ProblemError) as error:
        tuner_of(small_problem(), [SampleWeight()], TRAINING, method)
    assert error.value.field == field


def test_registry_knows_every_method_by_its_name() -> None:
    assert {name: method.name for name, method in METHODS.items()} == {
        name: name for name in METHODS
    }
