"""Confirmation: the best meta-iteration, and its figures, from trainings that did not tune.

The lowest loss of a job is the luckiest one, and stays so however well it is smoothed. At its end
a job therefore trains again, without any derivative, at a few meta-iterations' hyperparameters:

1. A race [MM1994] compares candidates. All that are still in it train with the same initial weights
   and minibatches (common random numbers), so that their differences have little noise. Who is
   significantly worse than the leader leaves, and the draws go to those that can still win.
2. Fresh draws, which had no part in the choice, give the figures of the best, of the last and of
   the first meta-iteration, again with the same draws for all.

A tenth of the job's training runs, by default, is spent on it. Where that allows less than two
draws there is no confirmation; below RACE_DRAWS the best by the smoothed losses is confirmed
without a race. No draw depends on when or where it is computed: from the same plan and the same
draws follow the same next draw and the same outcome.

[MM1994]: Maron, Moore. Hoeffding races: accelerating model selection search for classification and
function approximation. NeurIPS 1994. Here with paired t-tests, as F-race does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drmad_client.student import quantile
from drmad_workers.meta.estimates import Noise, mean_of_draws, noise_of

FEWEST_DRAWS = 2
"""Fewer draws confirm nothing."""
RACE_DRAWS = 12
"""With fewer draws they all go to the figures, and the smoothed losses choose the best."""
MOST_CANDIDATES = 8
MOST_DRAWS = 20
"""The most draws of one meta-iteration in the race, and again for its figures."""

CONFIRMATION_DRAWS = 2**48
"""The first draw of confirmations: beyond those of all meta-iterations and rollbacks."""
_DRAWS_OF_A_CONFIRMATION = 2**10
_FIRST_FRESH = 2**9
"""Indices from this one on belong to draws that have no part in the choice."""


@dataclass(frozen=True)
class Plan:
    """What a confirmation may do.

    Attributes:
        iterations: the number of committed meta-iterations.
        candidates: the meta-iterations that may be the best, the one by the smoothed losses first.
        last: the last meta-iteration.
        first: the first one, if its hyperparameters are kept.
        allowed: the most draws.
        noise: the noise of one draw by name of the figure, from the last meta-iterations.
    """

    iterations: int
    candidates: tuple[int, ...]
    last: int
    first: int | None
    allowed: int
    noise: Mapping[str, Noise] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        noise = {name: [each.deviation, each.freedom] for name, each in self.noise.items()}
        return {
            "iterations": self.iterations,
            "candidates": list(self.candidates),
            "last": self.last,
            "first": self.first,
            "allowed": self.allowed,
            "noise": noise,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Plan":
        noise = {name: Noise(*each) for name, each in fields["noise"].items()}
        candidates = tuple(fields["candidates"])
        return cls(**{**fields, "candidates": candidates, "noise": noise})


@dataclass(frozen=True)
class Draw:
    """One training at a meta-iteration's hyperparameters.

    Attributes:
        iteration: the meta-iteration.
        index: the number of the initial weights and minibatches within the confirmation.
        validation_loss: None if training diverged.
        metrics: by name.
    """

    iteration: int
    index: int
    validation_loss: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Interval:
    """A mean of fresh draws, and where the mean of RETRAININGS further ones lies (95 %)."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ConfirmedFigures:
    """The figures of one meta-iteration's hyperparameters from fresh draws.

    Attributes:
        iteration: the meta-iteration.
        draws: the draws, of which `diverged` ended without a finite loss.
        figures: "validation_loss" and the metrics by name, over the draws that ended well.
    """

    iteration: int
    draws: int
    diverged: int
    figures: dict[str, Interval]


@dataclass(frozen=True)
class Candidate:
    """A candidate of the race, its draws there and their mean validation loss."""

    iteration: int
    draws: int
    validation_loss: float | None


@dataclass(frozen=True)
class Confirmation:
    """The outcome of a confirmation, as drmad_client.records.side_runs.confirmation describes it.

    Attributes:
        draws: the training runs that it took.
        best, last, first: the figures of these meta-iterations; None where the draws did not
            suffice for `last` and `first`.
        gain: the validation loss of `first` less that of `best`, by common draws.
        candidates: those of the race; empty if there was none.
    """

    draws: int
    best: ConfirmedFigures
    last: ConfirmedFigures | None
    first: ConfirmedFigures | None
    gain: Interval | None
    candidates: list[Candidate]


def allowed_draws(share: float, runs: float) -> int:
    """The most draws n with n ≤ share (runs + n): a share of the training runs of the whole job.

    Args:
        share: in [0, 1).
        runs: the cost of the meta-iterations and of a search, in training runs of a replica.
    """
    return math.floor(share / (1.0 - share) * runs + 1e-9)


def fewest_runs(share: float) -> int:
    """The training runs of a job from which on a share in (0, 1) allows a confirmation."""
    return math.ceil(FEWEST_DRAWS * (1.0 - share) / share - 1e-9)


def candidates_of(levels: Sequence[tuple[int, float]], best: int, allowed: int) -> tuple[int, ...]:
    """The meta-iterations that race, `best` first: the last one, and those of the lowest levels.

    Neighbours hardly differ, so candidates are at least a twentieth of the job apart.

    Args:
        levels: pairs (meta-iteration, smoothed loss) in ascending order, of those whose
            hyperparameters are kept; not empty.
        best: the best by the smoothed losses.
        allowed: the most draws of the confirmation.
    """
    count = min(MOST_CANDIDATES, allowed // 2 // 3) if allowed >= RACE_DRAWS else 1
    last = levels[-1][0]
    apart = max(1, (last + 1) // 20)
    chosen = [best]
    by_level = sorted(levels, key=lambda level: (level[1], level[0]))
    for iteration, _ in [levels[-1], *by_level]:
        if len(chosen) >= count:
            break
        is_last = iteration == last and iteration != best
        if is_last or all(abs(iteration - other) >= apart for other in chosen):
            chosen += [iteration] if iteration not in chosen else []
    return tuple(chosen)


def plan_of(
    levels: Sequence[tuple[int, float]],
    best: int,
    first: int | None,
    allowed: int,
    losses: Sequence[float],
    metrics: Sequence[Mapping[str, float]],
) -> Plan:
    """The plan of a confirmation.

    Args:
        levels, best, allowed: see `candidates_of`.
        first: the first meta-iteration, if its hyperparameters are kept.
        losses, metrics: those of the last meta-iterations if each had its own draw, else none.
    """
    series = {"validation_loss": list(losses)}
    for name in metrics[-1] if metrics else ():
        series[name] = [each[name] for each in metrics if name in each]
    noise = {name: noise_of(values) for name, values in series.items()}
    last = levels[-1][0]
    return Plan(
        last + 1,
        candidates_of(levels, best, allowed),
        last,
        first,
        allowed,
        {name: each for name, each in noise.items() if each is not None},
    )


def number_of(plan: Plan, index: int) -> int:
    """The draw of an index, see MetaState.draw; no two confirmations of a job share one."""
    return CONFIRMATION_DRAWS + plan.iterations * _DRAWS_OF_A_CONFIRMATION + index


@dataclass(frozen=True)
class Race:
    """The state of a race after some draws.

    Attributes:
        remaining: who can still win, in the order of the candidates.
        leader: the one with the lowest mean among them.
        next: the next draw as (meta-iteration, index); None when the race has ended.
        spent: the draws of the race so far.
    """

    remaining: tuple[int, ...]
    leader: int
    next: tuple[int, int] | None
    spent: int


def race(plan: Plan, draws: Sequence[Draw]) -> Race:
    """The race after these draws, of which it counts those that belong to it."""
    losses = {(d.iteration, d.index): d.validation_loss for d in draws if d.index < _FIRST_FRESH}
    remaining, leader = plan.candidates, plan.candidates[0]
    budget = plan.allowed // 2 if len(plan.candidates) > 1 else 0
    spent = 0
    for index in range(MOST_DRAWS):
        if len(remaining) < 2 or spent + len(remaining) > budget:
            break
        for candidate in remaining:
            if (candidate, index) not in losses:
                return Race(remaining, leader, (candidate, index), spent)
            spent += 1
        finite = tuple(c for c in remaining if losses[c, index] is not None)
        if not finite:
            break
        series = {c: [losses[c, i] or 0.0 for i in range(index + 1)] for c in finite}
        leader = min(finite, key=lambda c: math.fsum(series[c]))
        remaining = tuple(c for c in finite if not _is_worse(series[c], series[leader]))
    return Race(remaining, leader, None, spent)


def _is_worse(losses: Sequence[float], leader: Sequence[float]) -> bool:
    """Whether the paired differences to the leader are significant at 2.5 %, one-sided."""
    differences = [one - other for one, other in zip(losses, leader, strict=True)]
    count = len(differences)
    if count < 2:
        return False
    mean = math.fsum(differences) / count
    variance = math.fsum((d - mean) ** 2 for d in differences) / (count - 1)
    return mean > 0.0 and mean > quantile(count - 1) * math.sqrt(variance / count)


def shown(plan: Plan, race: Race) -> tuple[list[int], int]:
    """The meta-iterations whose figures are confirmed, the best first, and the draws for each."""
    left = plan.allowed - race.spent
    iterations = [race.leader]
    for other, needed in ((plan.last, 2 * FEWEST_DRAWS), (plan.first, 3 * FEWEST_DRAWS + 3)):
        if other is not None and other not in iterations and left >= needed:
            iterations.append(other)
    return iterations, min(MOST_DRAWS, left // len(iterations))


def next_draw(plan: Plan, draws: Sequence[Draw]) -> tuple[int, int] | None:
    """The next draw as (meta-iteration, index); None when the confirmation is complete."""
    state = race(plan, draws)
    if state.next is not None:
        return state.next
    known = {(draw.iteration, draw.index) for draw in draws}
    iterations, count = shown(plan, state)
    for index in range(_FIRST_FRESH, _FIRST_FRESH + count):
        for iteration in iterations:
            if (iteration, index) not in known:
                return iteration, index
    return None


def is_fresh(index: int) -> bool:
    """Whether the draw of this index has no part in the choice of the best."""
    return index >= _FIRST_FRESH


def outcome(plan: Plan, draws: Sequence[Draw]) -> Confirmation:
    """The confirmation by these draws, among which there is a fresh one."""
    state = race(plan, draws)
    iterations, _ = shown(plan, state)
    fresh = [draw for draw in draws if is_fresh(draw.index)]
    figures = {iteration: _figures(plan, iteration, fresh) for iteration in iterations}
    return Confirmation(
        draws=len(draws),
        best=figures[state.leader],
        last=figures.get(plan.last),
        first=None if plan.first is None else figures.get(plan.first),
        gain=None if plan.first is None else _gain(state.leader, plan.first, fresh),
        candidates=[_candidate(c, draws) for c in plan.candidates] if state.spent else [],
    )


def _figures(plan: Plan, iteration: int, fresh: Sequence[Draw]) -> ConfirmedFigures:
    own = [draw for draw in fresh if draw.iteration == iteration]
    finite = [draw for draw in own if draw.validation_loss is not None]
    # The noise of the last meta-iterations says nothing about the first one's.
    noise = {} if iteration == plan.first and iteration != plan.last else plan.noise
    series = {"validation_loss": _losses(finite)} if finite else {}
    for name in finite[0].metrics if finite else ():
        if all(name in draw.metrics for draw in finite):
            series[name] = [draw.metrics[name] for draw in finite]
    figures = {name: _interval(values, noise.get(name)) for name, values in series.items()}
    return ConfirmedFigures(iteration, len(own), len(own) - len(finite), figures)


def _losses(draws: Sequence[Draw]) -> list[float]:
    return [draw.validation_loss for draw in draws if draw.validation_loss is not None]


def _interval(values: Sequence[float], noise: Noise | None) -> Interval:
    estimate = mean_of_draws(values, noise)
    return Interval(estimate.mean, *estimate.interval())


def _gain(best: int, first: int, fresh: Sequence[Draw]) -> Interval | None:
    losses = {(draw.iteration, draw.index): draw.validation_loss for draw in fresh}
    differences = []
    for iteration, index in losses:
        if iteration == first and first != best:
            before, after = losses[first, index], losses.get((best, index))
            if before is not None and after is not None:
                differences.append(before - after)
    return _interval(differences, None) if differences else None


def _candidate(iteration: int, draws: Sequence[Draw]) -> Candidate:
    own = [d for d in draws if d.iteration == iteration and not is_fresh(d.index)]
    losses = _losses(own)
    return Candidate(iteration, len(own), math.fsum(losses) / len(losses) if losses else None)
