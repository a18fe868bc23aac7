"""Confirmation: its budget, its race on common draws, and figures that did not choose."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest

from drmad_workers.meta import confirmation
from drmad_workers.meta.confirmation import (
    Confirmation,
    Draw,
    Plan,
    allowed_draws,
    candidates_of,
    fewest_runs,
    next_draw,
    number_of,
    outcome,
    plan_of,
    race,
)
from drmad_workers.meta.estimates import Noise

Loss = Callable[[int, int], float | None]


def drawn(plan: Plan, loss: Loss) -> list[Draw]:
    """All draws of a plan; `loss` maps (meta-iteration, index) to a validation loss."""
    draws: list[Draw] = []
    while (following := next_draw(plan, draws)) is not None:
        assert following not in [(draw.iteration, draw.index) for draw in draws]
        found = loss(*following)
        metrics = {} if found is None else {"test_error": found / 2.0}
        draws.append(Draw(*following, found, metrics))
    return draws


def noisy(levels: dict[int, float], common: float = 1.0, own: float = 0.05) -> Loss:
    """Losses around a level for each meta-iteration, with a common part for each index."""

    def loss(iteration: int, index: int) -> float:
        shared = np.random.default_rng([index]).normal()
        single = np.random.default_rng([index, iteration + 1]).normal()
        return levels[iteration] + common * float(shared) + own * float(single)

    return loss


@pytest.mark.parametrize(("share", "runs", "draws"), [(0.1, 60, 6), (0.1, 17.9, 1), (0.5, 8, 8)])
def test_draws_take_at_most_their_share_of_all_training_runs(
    share: float, runs: float, draws: int
) -> None:
    assert allowed_draws(share, runs) == draws
    assert draws <= share * (runs + draws)
    assert draws + 1 > share * (runs + draws + 1)
    assert allowed_draws(0.0, runs) == 0


def test_the_fewest_runs_allow_a_confirmation() -> None:
    assert fewest_runs(0.1) == 18
    assert allowed_draws(0.1, 18) == confirmation.FEWEST_DRAWS
    assert allowed_draws(0.1, 17) < confirmation.FEWEST_DRAWS


@pytest.mark.parametrize("allowed", [*range(2, 40), 100, 400])
def test_a_confirmation_never_exceeds_what_is_allowed(allowed: int) -> None:
    levels = [(iteration, 1.0 + 0.01 * iteration) for iteration in range(100)]
    plan = plan_of(levels, 0, 0, allowed, [1.0, 1.1, 0.9, 1.0], [])
    draws = drawn(plan, noisy(dict(levels)))
    assert 2 <= len(draws) <= allowed
    found = outcome(plan, draws)
    assert found.best.draws >= 2
    if allowed >= 4:
        assert found.last is not None
        assert found.last.draws == found.best.draws


def test_few_draws_go_to_the_figures_of_the_best_by_the_smoothed_losses() -> None:
    plan = Plan(30, (21,), 29, 0, 6)
    draws = drawn(plan, noisy({21: 0.5, 29: 0.6, 0: 2.0}))
    assert {(draw.iteration, draw.index) for draw in draws} == {
        (iteration, 512 + k) for iteration in (21, 29) for k in range(3)
    }
    found = outcome(plan, draws)
    assert found.candidates == []
    assert found.best.iteration == 21
    assert found.first is None


def test_the_race_finds_the_better_candidate_under_common_noise() -> None:
    """Differences of .3 under a common noise of 1: single losses choose right in few cases."""
    levels = {10: 1.0, 20: 0.7, 30: 1.1, 39: 1.2, 0: 2.0}
    plan = Plan(40, (10, 20, 30, 39), 39, 0, 40)
    found = outcome(plan, drawn(plan, noisy(levels)))
    assert found.best.iteration == 20
    assert found.gain is not None
    assert found.gain.low is not None
    assert found.gain.low < 1.3 < (found.gain.high or 0.0)
    raced = {each.iteration: each.draws for each in found.candidates}
    assert raced[20] > raced[30], "draws go to those that can still win"


def test_figures_come_from_draws_without_a_part_in_the_choice() -> None:
    levels = {10: 1.0, 20: 1.0, 29: 1.0}
    plan = Plan(30, (10, 20, 29), 29, None, 24)
    draws = drawn(plan, noisy(levels))
    raced = race(plan, draws)
    lucky = [replace(d, validation_loss=-9.0) if d.index < 512 else d for d in draws]
    changed = outcome(plan, [d for d in lucky if d.iteration == raced.leader] + draws)
    own = [
        d.validation_loss
        for d in draws
        if d.iteration == raced.leader and d.index >= 512 and d.validation_loss is not None
    ]
    assert outcome(plan, draws).best.figures["validation_loss"].mean == pytest.approx(np.mean(own))
    assert changed.best.figures["test_error"].mean == pytest.approx(np.mean(own) / 2.0)


def test_the_chosen_one_has_no_luck_in_its_figures() -> None:
    """Over 200 jobs of equal candidates the mean error of the figures is that of any mean."""
    errors, raced = [], []
    for job in range(200):
        plan = Plan(30, (3, 12, 21, 29), 29, None, 24)
        random = np.random.default_rng(job)
        table: dict[tuple[int, int], float] = {}
        draws = drawn(plan, lambda *at, r=random, t=table: t.setdefault(at, float(r.normal())))
        found = outcome(plan, draws)
        errors.append(found.best.figures["validation_loss"].mean)
        won = [c.validation_loss for c in found.candidates if c.iteration == found.best.iteration]
        raced += [loss for loss in won if loss is not None]
    assert abs(np.mean(errors)) < 0.1
    assert np.mean(raced) < -0.3, "the race's own means are lucky"


def test_a_candidate_that_diverges_leaves_the_race() -> None:
    plan = Plan(30, (10, 20, 29), 29, None, 24)
    stable = noisy({20: 1.0, 29: 2.0})
    draws = drawn(plan, lambda i, index: None if i == 10 else stable(i, index))
    found = outcome(plan, draws)
    assert found.best.iteration == 20
    assert next(c for c in found.candidates if c.iteration == 10).draws == 1


def test_retrainings_that_diverge_are_counted() -> None:
    plan = Plan(30, (29,), 29, None, 4)
    found = outcome(plan, drawn(plan, lambda _, index: None if index == 513 else 1.0))
    assert (found.best.draws, found.best.diverged) == (4, 1)
    assert found.best.figures["validation_loss"].mean == 1.0
    none = outcome(plan, drawn(plan, lambda *_: None))
    assert (none.best.diverged, none.best.figures) == (4, {})


def test_an_interrupted_confirmation_continues_with_the_same_draws() -> None:
    plan = Plan(40, (10, 20, 30, 39), 39, 0, 40, plan_noise())
    restored = Plan.from_dict(json.loads(json.dumps(plan.as_dict())))
    assert restored == plan
    whole = drawn(plan, noisy({10: 1.0, 20: 0.9, 30: 1.1, 39: 1.2, 0: 2.0}))
    for stop in range(len(whole)):
        assert next_draw(restored, whole[:stop]) == (whole[stop].iteration, whole[stop].index)
    assert asdict(outcome(restored, whole)) == asdict(outcome(plan, whole))
    assert isinstance(outcome(plan, whole), Confirmation)


def plan_noise() -> dict[str, Noise]:
    return dict(plan_of([(0, 1.0)], 0, 0, 0, [1.0, 1.2, 0.9, 1.0], []).noise)


def test_candidates_lie_apart_and_the_last_one_is_among_them() -> None:
    levels = [(iteration, abs(iteration - 60.2)) for iteration in range(100)]
    found = candidates_of(levels, 60, 100)
    assert found[:2] == (60, 99)
    assert len(found) == confirmation.MOST_CANDIDATES
    assert min(abs(a - b) for a in found for b in found if a != b) >= 5
    assert candidates_of(levels, 60, 11) == (60,)


def test_no_two_confirmations_of_a_job_share_a_draw() -> None:
    first, extended = Plan(30, (1,), 29, 0, 9), Plan(31, (1,), 30, 0, 9)
    used = {number_of(plan, index) for plan in (first, extended) for index in range(1024)}
    assert len(used) == 2048
    assert min(used) > 101 * 2**32
