"""Problems that are tuned in one run, by restarts and by searches at equal work, and retrained."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
import torch
from torch import Tensor

from drmad_workers import (
    HypergradientError,
    MetaConfig,
    Method,
    Problem,
    Stored,
    TrainingConfig,
    TrainingDiverged,
    Tuner,
    TuningResult,
    tune,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.meta.state import initial_state
from drmad_workers.meta.update import bounds_of, meta_update

RETRAININGS = 3
"""The plain trainings over whose draws the figures of an arm are means."""
FIRST_DRAW = 1000
"""Their first draw, which had no part in any choice."""
DIVERGED = 1e3
"""Validation loss that the sampler gets for a trial whose training diverged."""

Values = Mapping[str, Tensor]
"""λ by name, before the transform."""
Figures = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A problem, and how it is tuned.

    Attributes:
        problem: of a seed, which draws the data.
        kinds: what is tuned.
        training: a training run, which work is counted in.
        restarts: the outer loop of restarts.
        method: that of restarts; an online run takes the exact one.
        space: the range of each entry of λ that a search draws, by name.
        shown: what a line has of the tuned values.
    """

    problem: Callable[[int], Problem]
    kinds: Sequence[Kind]
    training: TrainingConfig
    restarts: MetaConfig
    method: Method = field(default_factory=Stored)
    space: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    shown: Callable[[int, Values], Figures] = lambda seed, values: {}

    def tuner(self, seed: int, method: Method | None = None) -> Tuner:
        chosen = Stored() if method is None else method
        return Tuner(self.problem(seed), self.kinds, self.training, chosen, seed=seed)


def judged(study: Study, seed: int, values: Values, runs: float) -> Figures:
    """Plain trainings with these values, in draws of their own."""
    tuner = study.tuner(seed)
    each = [tuner.retrain(values, FIRST_DRAW + n)[0] for n in range(RETRAININGS)]
    means = {name: statistics.fmean(one[name] for one in each) for name in each[0]}
    return {"runs": runs, **means, **study.shown(seed, values)}


def online(
    study: Study,
    seed: int,
    steps: int,
    window: int,
    rate: float,
    horizon: int | None = None,
    passes: int = 1,
) -> Figures:
    """One run, or several one after the other; its work counts in runs of the study's training."""
    meta = MetaConfig("adam", rate, mode="online", window=window)
    training, method = replace(study.training, steps=steps), Stored(horizon=horizon)
    result = TuningResult()
    for _ in range(passes):
        result = tune(
            study.problem(seed), study.kinds, training, method, meta, seed=seed, state=result.state
        )
    assert result.state is not None
    return judged(study, seed, result.best, result.state.runs * steps / study.training.steps)


def restarts(study: Study, seed: int, iterations: int) -> Figures:
    """Restarts without a rollback; where one of them diverges, the best so far is taken."""
    tuner, meta = study.tuner(seed, study.method), study.restarts
    bounds = bounds_of(tuner.hyperparameters)
    state, tried = initial_state(tuner.hyperparameters), list[Values]()
    while state.iteration < iterations:
        values = state.hyperparameters
        try:
            found = tuner.evaluate(values, state.iteration)
        except (HypergradientError, TrainingDiverged):
            break
        tried.append(values)
        state = meta_update(
            state,
            found.validation_loss,
            found.hypergradient,
            meta,
            bounds,
            metrics=found.metrics,
            cost=found.cost,
        )
    best = tried[state.best_iteration or 0]
    return {"iterations_done": state.iteration, **judged(study, seed, best, state.runs)}


def fixed(study: Study, seed: int, values: Values | None = None) -> Figures:
    """The values with which tuning begins, or others."""
    return judged(study, seed, {**study.tuner(seed).initial_values(), **(values or {})}, 0.0)


def searched(study: Study, seed: int, trials: int) -> Figures:
    """Optuna's TPE over every entry of the tensors in `space`; a trial is one training run."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tuner = study.tuner(seed)
    search = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    tried: list[dict[str, Tensor]] = []
    for number in range(trials):
        trial, values = search.ask(), tuner.initial_values()
        for name, (low, high) in study.space.items():
            entries = values[name].view(-1)
            for i in range(len(entries)):
                entries[i] = trial.suggest_float(f"{name}[{i}]", low, high)
        tried.append(values)
        try:
            loss = tuner.train(values, number)["validation_loss"]
        except TrainingDiverged:
            loss = DIVERGED
        search.tell(trial, loss)
    return judged(study, seed, tried[search.best_trial.number], float(trials))


def mean_of(values: Tensor) -> float:
    return float(values.double().mean()) if len(values) else float("nan")


def transformed(values: Values, name: str, how: Callable[[Tensor], Tensor] = torch.exp) -> Any:
    """The entries of a tensor as the training takes them, for a line."""
    return [round(float(each), 5) for each in how(values[name]).flatten()]
