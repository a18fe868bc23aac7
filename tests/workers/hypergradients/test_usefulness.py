"""Where training is rough, auto judges a method by another draw and by retraining."""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import (
    Evaluation,
    MetaConfig,
    MetaState,
    Problem,
    Replay,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    Tuner,
    TuningResult,
    tune,
)
from drmad_workers.catalog import build_problem
from drmad_workers.evaluation import OTHER_DRAW
from drmad_workers.hypergradients.automatic import auto, probe
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.hypergradients.automatic.choice import draws_doubt, method_of
from drmad_workers.hypergradients.automatic.probe import SHARE, Budget
from drmad_workers.hypergradients.automatic.usefulness import OuterLoop, usefulness
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.meta.state import initial_state
from drmad_workers.meta.update import bounds_of, meta_update, outer_loop
from tests.workers.small import largest_difference

ROUGH = TrainingConfig("damped_sgd", steps=100, batch_size=20, learning_rate=2.0, momentum=0.9)
META = MetaConfig(optimizer="adam", learning_rate=0.3, iterations=20, confirmation=0.0)


def rough_problem() -> Problem:
    """200 digits, of which 60 % have a label drawn at random."""
    data = {"name": "digits", "train": 200, "valid": 200, "test": 0, "label_noise": 0.6}
    return build_problem({"name": "mlp", "hidden": [20]}, data, initialize="reset")


def rough_tuner(method: Auto | Stored | Shortcut) -> Tuner:
    return Tuner(rough_problem(), [SampleWeight()], ROUGH, method)


def looked(iterations: int = 20) -> OuterLoop:
    """The outer loop of the first meta-iteration."""
    tuner = rough_tuner(Auto())
    state = initial_state(tuner.hyperparameters)
    config = replace(META, iterations=iterations)
    return outer_loop(state, config, bounds_of(tuner.hyperparameters))


def tuned() -> TuningResult:
    return tune(rough_problem(), [SampleWeight()], ROUGH, Auto(), META)


def drawn(signal: Tensor, noise: float, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"weight": signal + noise * torch.randn(signal.shape, generator=generator)}


SIGNAL = torch.randn(2000, generator=torch.Generator().manual_seed(1))


def test_a_method_with_less_noise_predicts_another_draw_better_than_the_exact_one() -> None:
    exact = [drawn(SIGNAL, 2.0, seed) for seed in (2, 3)]
    steadier = [drawn(SIGNAL, 1.0, seed) for seed in (4, 5)]
    assert usefulness(steadier, exact) == pytest.approx((5.0 / 2.0) ** 0.5, rel=0.2)
    assert usefulness(exact, exact) == pytest.approx(1.0)


def test_a_method_that_finds_something_else_predicts_nothing() -> None:
    exact = [drawn(SIGNAL, 2.0, seed) for seed in (2, 3)]
    other = torch.randn(2000, generator=torch.Generator().manual_seed(9))
    assert abs(usefulness([drawn(other, 0.1, seed) for seed in (4, 5)], exact)) < 0.3


@pytest.mark.parametrize(
    ("signal", "noise"),
    [
        pytest.param(SIGNAL, 0.2, id="draws agree"),
        pytest.param(SIGNAL[:20], 2.0, id="few entries"),
        pytest.param(0.0 * SIGNAL, 1.0, id="draws share nothing"),
    ],
)
def test_elsewhere_the_cosine_of_the_same_draw_judges(signal: Tensor, noise: float) -> None:
    exact = [drawn(signal, noise, seed) for seed in (2, 3)]
    halved = [{"weight": each["weight"].clone()} for each in exact]
    for each in halved:
        each["weight"][::2] = 0.0
    cosines = [
        float(torch.cosine_similarity(a["weight"], e["weight"], dim=0))
        for a, e in zip(halved, exact, strict=True)
    ]
    assert usefulness(halved, exact) == pytest.approx(min(cosines), abs=1e-6)


def test_entries_that_one_of_the_draws_never_touched_do_not_count() -> None:
    exact = [drawn(SIGNAL, 2.0, seed) for seed in (2, 3)]
    steadier = [drawn(SIGNAL, 1.0, seed) for seed in (4, 5)]
    before = usefulness(
        [{"weight": each["weight"][200:]} for each in steadier],
        [{"weight": each["weight"][200:]} for each in exact],
    )
    exact[0]["weight"][:100] = 0.0
    exact[1]["weight"][100:200] = 0.0
    assert usefulness(steadier, exact) == pytest.approx(before)


def test_a_look_chooses_a_shorter_horizon_and_leaves_the_exact_hypergradient() -> None:
    tuner = rough_tuner(Auto())
    evaluation = tuner.evaluate(tuner.initial_values(), 0, outer=looked())
    choice = evaluation.choice
    assert choice is not None
    chosen = [each for each in choice.probes if each.method == choice.method]
    (figures,) = chosen
    assert method_of(choice.method) == Shortcut(horizon=25)
    assert choice.trial is None
    assert figures.cosine is not None
    assert figures.cosine < Auto().least_cosine
    assert figures.usefulness is not None
    assert figures.usefulness >= Auto().min_cosine
    assert figures.gain is not None
    assert figures.gain >= 1.0
    exact = rough_tuner(Stored())
    alone = exact.evaluate(exact.initial_values(), 0)
    assert largest_difference(evaluation, alone.hypergradient) == 0.0
    assert choice.spent == pytest.approx(evaluation.cost)


def test_the_gain_is_that_of_retraining_the_other_draw() -> None:
    """The same figure from plain retrainings: the loss before and after each of two outer steps."""
    outer, tuner = looked(), rough_tuner(Auto())
    values = tuner.initial_values()
    choice = tuner.evaluate(values, 0, outer=outer).choice
    assert choice is not None
    horizon = method_of(choice.method)

    def loss_at(moved: Mapping[str, Tensor]) -> float:
        return tuner.retrain(moved, OTHER_DRAW)[0]["validation_loss"]

    per_run = []
    for method in (horizon, Stored()):
        found, _ = tuner.compare(values, [method], 0)
        (result,) = found
        assert isinstance(result, BackwardPass)
        gain = loss_at(values) - loss_at(outer.step(result.hypergradient))
        per_run.append(gain / method.cost(ROUGH))
    figure = next(each.gain for each in choice.probes if each.method == choice.method)
    assert figure == pytest.approx(per_run[0] / per_run[1], rel=1e-4)


def test_a_method_whose_step_gains_nothing_in_retraining_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outer = looked()
    honest = outer.step

    def misled(hypergradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The step of the exact hypergradient is left, that of any other goes uphill."""
        steps.append(honest(hypergradient))
        if len(steps) == 1:
            return steps[0]
        return {n: 2.0 * value - steps[-1][n] for n, value in values.items()}

    steps: list[dict[str, Tensor]] = []
    tuner = rough_tuner(Auto())
    values = tuner.initial_values()
    choice = tuner.evaluate(values, 0, outer=replace(outer, step=misled)).choice
    assert choice is not None
    assert len(steps) >= 2
    assert any(each.gain is not None and each.gain < 0.0 for each in choice.probes)
    assert not any(
        each.trusted(1.0, Auto().min_cosine) and each.method == choice.method
        for each in choice.probes
    )


def test_a_short_job_does_not_look() -> None:
    tuner = rough_tuner(Auto())
    choice = tuner.evaluate(tuner.initial_values(), 0, outer=looked(iterations=4)).choice
    assert choice is not None
    assert all(each.usefulness is None for each in choice.probes)


def test_no_more_than_a_quarter_of_the_training_runs_goes_into_choosing() -> None:
    result = tuned()
    assert result.state is not None
    choice = result.state.choice
    assert choice is not None
    assert choice.spent == pytest.approx(sum(each.cost for each in result.evaluations))
    assert 0.0 < choice.choosing <= SHARE * choice.spent


def test_a_budget_whose_end_is_unknown_affords_everything() -> None:
    assert Budget(0.0, 0.0, None).affords(100.0, 100.0, 1.0)
    assert Budget(10.0, 1.0, 10).affords(3.0, 5.0, 1.0)
    assert not Budget(10.0, 1.0, 0).affords(3.0, 5.0, 1.0)


def test_a_state_that_goes_through_a_file_looks_and_chooses_alike() -> None:
    tuner = rough_tuner(Auto())
    bounds = bounds_of(tuner.hyperparameters)
    state = initial_state(tuner.hyperparameters)
    while state.iteration < META.iterations:
        outer = outer_loop(state, META, bounds)
        found = tuner.evaluate(
            state.hyperparameters, state.iteration, choice=state.choice, outer=outer
        )
        state = meta_update(state, found.validation_loss, found.hypergradient, META, bounds)
        state = replace(state, choice=found.choice)
        state = MetaState.restore(state.tensors(), json.loads(json.dumps(state.scalars())))
    undisturbed = tuned().state
    assert undisturbed is not None
    weights = (each.hyperparameters["sample_weight"] for each in (state, undisturbed))
    assert torch.equal(*weights)
    assert state.choice is not None
    assert undisturbed.choice is not None
    assert [each.usefulness for each in state.choice.probes] == [
        each.usefulness for each in undisturbed.choice.probes
    ]
    assert (state.choice.spent, state.choice.choosing) == (
        undisturbed.choice.spent,
        undisturbed.choice.choosing,
    )


def test_a_choice_among_disagreeing_draws_says_so_with_its_figures() -> None:
    tuner = rough_tuner(Auto())
    choice = tuner.evaluate(tuner.initial_values(), 0, outer=looked()).choice
    assert choice is not None
    message = draws_doubt(replace(choice, agreement=0.21))
    assert message is not None
    assert "a cosine of 0.21" in message
    assert "shortcut over the last 25 steps" in message
    assert "replicas: {count: 4}" in message
    assert draws_doubt(replace(choice, agreement=0.9)) is None
    assert draws_doubt(replace(choice, agreement=None)) is None


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch norm"])
def test_the_horizons_tried_after_a_look_have_the_figures_of_a_probe_without_one(
    norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other draw and its retraining leave nothing behind in the model that both share."""
    monkeypatch.setattr(auto, "STORED_BYTES", 0)  # replay is exact, and the whole shortcut cheaper
    monkeypatch.setattr(Auto, "least_cosine", 1.0)
    monkeypatch.setattr(probe, "LIKELY", -1.0)
    monkeypatch.setattr(probe, "ROUGH", 2.0)
    problem = rough_problem()
    if norm:
        problem.model = nn.Sequential(
            nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Linear(20, 10)
        )

    def uphill(hypergradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value + 0.3 * hypergradient[name].sign() for name, value in values.items()}

    def probed(outer: OuterLoop | None) -> Evaluation:
        tuner = Tuner(problem, [SampleWeight()], ROUGH, Auto(min_cosine=0.3))
        return tuner.evaluate(values, 0, outer=outer)

    values = Tuner(problem, [SampleWeight()], ROUGH, Replay()).initial_values()
    looked_at, plain = probed(OuterLoop(200, uphill)), probed(None)
    assert looked_at.choice is not None
    assert plain.choice is not None
    assert any(each.usefulness is not None for each in looked_at.choice.probes)
    assert plain.choice.probes[-1].method["horizon"] is None
    assert [(p.method, p.cosine, p.length) for p in looked_at.choice.probes] == [
        (p.method, p.cosine, p.length) for p in plain.choice.probes
    ]
    assert largest_difference(looked_at, plain.hypergradient) == 0.0
    assert looked_at.metrics == plain.metrics
