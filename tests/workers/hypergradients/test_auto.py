"""What auto picks, that it says why, and that a resumed job decides as an undisturbed one."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from drmad_workers import (
    HypergradientDiverged,
    MetaConfig,
    MetaState,
    Method,
    Problem,
    ProblemError,
    Replay,
    SampleWeight,
    Shortcut,
    TrainingConfig,
    Tuner,
    TuningResult,
    tune,
)
from drmad_workers.hypergradients.agreement import agreement
from drmad_workers.hypergradients.automatic import auto
from drmad_workers.hypergradients.automatic.auto import Auto, candidates
from drmad_workers.hypergradients.automatic.choice import (
    Choice,
    ProbeResult,
    Trial,
    join_choices,
    method_of,
    settings_of,
)
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.hyperparameters.init_scale import InitScale
from drmad_workers.hyperparameters.learning_rate import LearningRate
from tests.workers.small import largest_difference, small_problem, tuner_of

CALM = TrainingConfig("damped_sgd", steps=60, batch_size=6, learning_rate=0.2, momentum=0.9)
DIVERGING = replace(CALM, steps=300, learning_rate=1.0, momentum=0.9, batch_size=4)
DRMAD = Shortcut(
    interpolation_nodes=1,
    averaging_window=1,
    max_stride=1,
    minibatch_subsampling=1,
    contraction=False,
)


@pytest.fixture(autouse=True)
def paths_are_never_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "STORED_BYTES", 0)


def run(
    iterations: int, training: TrainingConfig = CALM, state: MetaState | None = None
) -> TuningResult:
    return tune(
        small_problem(),
        [SampleWeight()],
        training,
        Auto(),
        MetaConfig(iterations=iterations),
        dtype=torch.float64,
        state=state,
    )


def tripled() -> Problem:
    """Large inputs, on which DrMAD's line leaves the path."""
    problem = small_problem()
    problem.train = (3.0 * problem.train[0], problem.train[1])
    problem.valid = (3.0 * problem.valid[0], problem.valid[1])
    return problem


def choices(result: TuningResult) -> list[Choice]:
    found = [evaluation.choice for evaluation in result.evaluations]
    assert all(choice is not None for choice in found)
    return [choice for choice in found if choice is not None]


def chosen(tuner: Tuner) -> Choice:
    """The choice after two calm draws."""
    choice = None
    for iteration in range(2):
        choice = tuner.evaluate(tuner.initial_values(), iteration, choice=choice).choice
    assert choice is not None
    assert choice.trial is None
    return choice


def test_auto_takes_the_cheapest_method_above_the_threshold_in_two_draws() -> None:
    first, choice = choices(run(2))
    assert (first.reason, choice.reason) == ("first", "confirmation")
    assert first.method == settings_of(Replay())
    assert first.trial is not None
    assert choice.method == first.trial.method
    assert choice.method["method"] == "shortcut"
    trusted = [f for f in first.probes if f.cosine is not None and f.cosine >= 0.85]
    assert [f.method for f in trusted] == [choice.method]
    assert [f.method for f in choice.probes] == [choice.method]
    costs = [figure.cost for figure in first.probes]
    assert costs == sorted(costs)


def test_one_draw_is_enough_where_every_draw_is_the_same() -> None:
    (choice,) = choices(run(1, replace(CALM, resample=False)))
    assert choice.method["method"] == "shortcut"
    assert choice.trial is None


Figures = tuple[float, float, float, float]
"""The growth of the exact |dw|, and the cosines over a tenth, a quarter and half of the steps."""

CALMLY: Figures = (1.2, 0.99, 0.99, 0.99)
WILDLY: Figures = (4.0, 0.99, 0.99, 0.99)
WRONG: Figures = (1.0, -0.5, 0.99, 0.99)
NOWHERE: Figures = (1.0, -0.5, -0.5, -0.5)


def horizon_of(method: Method) -> int | None:
    assert isinstance(method, Shortcut)
    return method.horizon


def decided(draws: Sequence[Figures]) -> list[Choice]:
    """The choices of auto where the backward passes of the draws have these figures."""
    horizons: list[int | None] = [6, 15, 30]
    found: list[Choice] = []
    choice = None
    for iteration, (growth, *cosines) in enumerate(draws):

        def backward(
            method: Method, growth: float = growth, cosines: Sequence[float] = cosines
        ) -> BackwardPass:
            cosine = 1.0 if method == Replay() else cosines[horizons.index(horizon_of(method))]
            across = (1.0 - cosine**2) ** 0.5
            hypergradient = {"rate": torch.tensor([cosine, across], dtype=torch.float64)}
            return BackwardPass(method, 0.0, hypergradient, 60, growth, 0.0)

        values = {"rate": torch.zeros(2)}
        plan = Auto().plan(choice, iteration, values, CALM, [], copy_bytes=2**30)
        plan = replace(plan, probed=[m for m in plan.probed if m == Replay() or horizon_of(m)])
        choice = plan.settle(backward)[1]
        found.append(choice)
    return found


@pytest.mark.parametrize(
    ("draws", "horizons"),
    [
        pytest.param([CALMLY] * 3, [None, 6, 6], id="two calm draws"),
        pytest.param([WILDLY] * 5, [None, None, None, 6, 6], id="four wild draws"),
        pytest.param([CALMLY, WILDLY, CALMLY, CALMLY], [None, None, None, 6], id="one is wild"),
        pytest.param([CALMLY, WRONG, CALMLY], [None, None, 15], id="a longer horizon follows"),
        pytest.param([CALMLY, NOWHERE, CALMLY], [None, None, None], id="the exact method follows"),
    ],
)
def test_a_candidate_is_chosen_once_it_qualified_in_enough_draws(
    draws: Sequence[Figures], horizons: Sequence[int | None]
) -> None:
    assert [choice.method.get("horizon") for choice in decided(draws)] == horizons


def test_a_scheduled_probe_that_fails_begins_a_trial_of_what_is_more_expensive() -> None:
    found = decided([CALMLY, CALMLY, CALMLY, CALMLY, CALMLY, CALMLY, WRONG, CALMLY, CALMLY])
    assert [choice.method.get("horizon") for choice in found] == [None, *[6] * 5, None, 15, 15]
    assert [choice.reason for choice in found[5:8]] == ["confirmation", "scheduled", "confirmation"]
    assert found[7].next_probe == 12


def test_the_cost_of_a_probe_counts_all_methods_tried() -> None:
    tuner = tuner_of(small_problem(), [SampleWeight()], CALM, Auto(min_cosine=1.0))
    probe = tuner.evaluate(tuner.initial_values(), 0)
    assert probe.choice is not None
    tried = sum(figure.cost - 1.0 for figure in probe.choice.probes)
    assert probe.cost == pytest.approx(Replay().cost(CALM) + tried)
    after = tuner.evaluate(tuner.initial_values(), 1, choice=probe.choice)
    assert after.cost == Replay().cost(CALM)


def test_auto_replays_where_nothing_else_is_trusted() -> None:
    tuner = tuner_of(small_problem(), [SampleWeight()], CALM, Auto(min_cosine=1.0))
    first = tuner.evaluate(tuner.initial_values(), 0)
    assert first.choice is not None
    assert first.choice.method == settings_of(Replay())
    assert [figure.method["horizon"] for figure in first.choice.probes] == [6, 15, 30, None]
    second = tuner.evaluate(tuner.initial_values(), 1, choice=first.choice)
    assert second.method == "replay"
    spent = first.choice.spent + Replay().cost(CALM)
    assert second.choice == replace(first.choice, spent=spent)


def test_a_small_path_is_stored_in_the_place_of_being_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auto, "STORED_BYTES", 2**20)
    tuner = tuner_of(small_problem(), [SampleWeight()], CALM, Auto(min_cosine=1.0))
    first = tuner.evaluate(tuner.initial_values(), 0)
    assert first.choice is not None
    assert first.choice.method == {"method": "stored", "horizon": None, "hvp": "exact"}


def test_a_probe_returns_the_exact_hypergradient() -> None:
    probing, exact = (
        tuner_of(small_problem(), [SampleWeight()], CALM, method) for method in (Auto(), Replay())
    )
    values = exact.initial_values()
    probed = probing.evaluate(values, 0)
    assert probed.method == "replay"
    assert probed.backward_steps == CALM.steps
    assert largest_difference(probed, exact.evaluate(values, 0).hypergradient) == 0.0


def test_figures_are_those_of_the_methods_on_their_own() -> None:
    tuner = tuner_of(small_problem(), [SampleWeight()], CALM, Auto(min_cosine=1.0))
    values = tuner.initial_values()
    probed = tuner.evaluate(values, 0)
    assert probed.choice is not None
    for figure in probed.choice.probes:
        method = method_of(figure.method)
        alone = tuner_of(small_problem(), [SampleWeight()], CALM, method).evaluate(values, 0)
        found = agreement(alone.hypergradient, probed.hypergradient)
        assert (figure.cosine, figure.signs, figure.length) == (
            found.cosine,
            found.signs,
            found.length,
        )
        assert figure.products == alone.backward_steps


def test_auto_probes_at_growing_intervals_while_its_choice_is_confirmed() -> None:
    found = choices(run(18))
    probes = [n for n, choice in enumerate(found) if choice.last_probe == n]
    assert probes == [0, 1, 6, 16]
    reasons = ["first", "confirmation", "scheduled", "scheduled"]
    assert [found[n].reason for n in probes] == reasons


def test_a_resumed_job_takes_the_same_decisions() -> None:
    whole, part = run(8), run(1)
    assert part.state is not None
    tensors, scalars = part.state.tensors(), json.loads(json.dumps(part.state.scalars()))
    rest = run(8, state=MetaState.restore(tensors, scalars))
    assert [asdict(c) | {"probes": ()} for c in choices(whole)[1:]] == [
        asdict(c) | {"probes": ()} for c in choices(rest)
    ]
    assert whole.state is not None
    assert rest.state is not None
    assert torch.equal(
        whole.state.hyperparameters["sample_weight"], rest.state.hyperparameters["sample_weight"]
    )


@pytest.mark.parametrize(
    ("training", "method", "kinds"),
    [
        pytest.param(replace(CALM, steps=4), Auto(), [SampleWeight()], id="fewer steps"),
        pytest.param(replace(CALM, steps=600), Auto(), [SampleWeight()], id="more steps"),
        pytest.param(CALM, Auto(hvp="finite_difference"), [SampleWeight()], id="other product"),
        pytest.param(CALM, Auto(min_cosine=1.0), [SampleWeight()], id="higher min_cosine"),
        pytest.param(CALM, Auto(), [SampleWeight(), InitScale()], id="other hyperparameters"),
    ],
)
def test_a_choice_that_other_settings_led_to_is_dropped(
    training: TrainingConfig, method: Auto, kinds: list[Kind]
) -> None:
    tuner = tuner_of(small_problem(), kinds, training, method)
    values = tuner.initial_values()
    before = tuner_of(small_problem(), [SampleWeight()], CALM, Auto())
    choice = chosen(before)
    assert choice.method == settings_of(Shortcut(horizon=6))
    probed = tuner.evaluate(values, 1, choice=choice)
    fresh = tuner.evaluate(values, 1)
    assert probed.choice is not None
    assert fresh.choice is not None
    without_times = [
        replace(c, probes=tuple(replace(p, seconds=None) for p in c.probes))
        for c in (probed.choice, fresh.choice)
    ]
    assert without_times[0] == without_times[1]
    assert (probed.choice.reason, probed.choice.last_probe) == ("first", 1)
    assert probed.choice.method["hvp"] == method.hvp


def test_a_choice_of_a_method_that_this_release_lacks_is_dropped() -> None:
    tuner = tuner_of(small_problem(), [SampleWeight()], CALM, Auto())
    values = tuner.initial_values()
    choice = chosen(tuner)
    for method in ({"method": "gone"}, {"method": "shortcut", "gone": 1}):
        probed = tuner.evaluate(values, 2, choice=replace(choice, method=method)).choice
        assert probed is not None
        assert probed.reason == "first"


def test_a_choice_survives_json_whole() -> None:
    for choice in choices(run(2)):
        assert Choice.from_dict(json.loads(json.dumps(choice.as_dict()))) == choice


def test_auto_probes_again_when_the_hyperparameters_moved_far() -> None:
    tuner = tuner_of(small_problem(), [SampleWeight()], CALM, Auto())
    values, before = tuner.initial_values(), chosen(tuner)
    near, far = ({name: value + shift for name, value in values.items()} for shift in (1.0, 4.0))
    stays = tuner.evaluate(near, 2, choice=before).choice
    probes = tuner.evaluate(far, 2, choice=before).choice
    assert stays is not None
    assert probes is not None
    assert stays.last_probe == 1
    assert (probes.last_probe, probes.reason) == (2, "moved")


def test_another_growth_of_the_adjoint_makes_the_next_meta_iteration_probe() -> None:
    tuner = tuner_of(small_problem(), [SampleWeight()], CALM, Auto())
    values, before = tuner.initial_values(), chosen(tuner)
    other = replace(before, growth=100.0 * before.growth)
    warned = tuner.evaluate(values, 2, choice=other).choice
    assert warned is not None
    assert warned.next_probe == 3
    probed = tuner.evaluate(values, 3, choice=warned).choice
    assert probed is not None
    assert (probed.last_probe, probed.reason) == (3, "growth")


def test_a_method_that_diverges_gives_way_to_the_exact_one() -> None:
    before = chosen(tuner_of(small_problem(), [SampleWeight()], CALM, Auto()))
    values = tuner_of(small_problem(), [SampleWeight()], CALM, Auto()).initial_values()
    with pytest.raises(HypergradientDiverged):
        tuner_of(tripled(), [SampleWeight()], DIVERGING, DRMAD).evaluate(values, 1)
    diverging = tuner_of(tripled(), [SampleWeight()], DIVERGING, Auto())
    known = replace(before, method=settings_of(DRMAD), steps=DIVERGING.steps)
    switched = diverging.evaluate(values, 1, choice=known)
    assert switched.choice is not None
    assert switched.method == "replay"
    assert (switched.choice.reason, switched.choice.next_probe) == ("diverged", 6)
    assert method_of(switched.choice.method) == Replay()
    exact = tuner_of(tripled(), [SampleWeight()], DIVERGING, Replay()).evaluate(values, 1)
    assert largest_difference(switched, exact.hypergradient) == 0.0


def test_methods_that_cannot_differentiate_a_kind_are_no_candidates() -> None:
    tuner = tuner_of(small_problem(), [InitScale(), SampleWeight()], CALM, Auto())
    assert candidates(CALM, tuner.hyperparameters.values()) == [Shortcut()]
    tuner = tuner_of(small_problem(), [LearningRate(per="model")], CALM, Auto())
    assert len(candidates(CALM, tuner.hyperparameters.values())) == 4


def test_replicas_agree_on_the_most_careful_choice() -> None:
    def choice(method: Method, due: int) -> Choice:
        return Choice(settings_of(method), "scheduled", 1, due, 5, 1.0, {}, (ProbeResult({}, 1.0),))

    short, long = choice(Shortcut(horizon=6), 6), choice(Shortcut(), 2)
    exact = choice(Replay(), 6)
    assert method_of(join_choices([short, long]).method) == Shortcut()
    assert method_of(join_choices([short, exact, long]).method) == Replay()
    assert join_choices([short, long, exact]).next_probe == 2
    tenth, quarter = settings_of(Shortcut(horizon=6)), settings_of(Shortcut(horizon=15))
    trials = Trial(tenth, 1, 9.0), Trial(quarter, 3, 1.0), Trial(quarter, 2, 1.0)
    tried = [replace(exact, next_probe=2, trial=trial) for trial in trials]
    joined = join_choices([short, *tried]).trial
    assert joined == Trial(quarter, 2, 9.0)
    without = join_choices([*tried, exact])
    assert (without.trial, without.next_probe) == (None, 6)


def test_an_impossible_threshold_is_refused_by_name() -> None:
    with pytest.raises(ProblemError) as error:
        tuner_of(small_problem(), [SampleWeight()], CALM, Auto(min_cosine=1.5))
    assert error.value.field == "hypergradient.min_cosine"


def test_agreement_speaks_for_the_worst_of_the_hyperparameters() -> None:
    exact = {"one": torch.tensor([1e6, 1e6]), "other": torch.tensor([1.0, -1.0, 0.0])}
    found = agreement({**exact, "other": torch.tensor([2.0, 2.0, 1.0])}, exact)
    assert found.cosine == pytest.approx(0.0)
    assert found.signs == 0.5
    assert found.length == pytest.approx(3.0 / 2.0**0.5)
    zero: dict[str, Tensor] = {"one": torch.zeros(2)}
    assert agreement(zero, zero).cosine == 1.0
    assert agreement({"one": torch.ones(2)}, zero).cosine == 0.0
