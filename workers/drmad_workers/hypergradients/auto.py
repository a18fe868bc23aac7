"""The default method: selects the cheapest method that agrees with the exact hypergradient."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from drmad_client.spec import bounds, defaults
from drmad_workers.data.pass_order import Order
from drmad_workers.errors import HypergradientDiverged, ProblemError, require_bounds
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.hypergradients.choice import (
    Choice,
    ProbeResult,
    Reason,
    Trial,
    method_of,
    probe_result,
    settings_of,
)
from drmad_workers.hypergradients.method import Adjoint, Method
from drmad_workers.hypergradients.replay import Replay
from drmad_workers.hypergradients.shortcut import Shortcut
from drmad_workers.hypergradients.stored import Stored
from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.run import TrainingRun, TrajectoryRecorder

FIRST_INTERVAL, MAX_INTERVAL = 5, 40
"""Meta-iterations to the next probe. The interval doubles whenever a probe confirms the choice."""

MARGIN = 0.25
"""The fraction of the distance from min_cosine to 1 by which a cosine must exceed min_cosine. Fresh
weights and minibatches change the cosine from one meta-iteration to the next."""

MAX_MOVE = 3.0
"""Bounds the change of a hyperparameter's mean or spread between two probes, in raw units."""

MAX_GROWTH_RATIO = 3.0
"""Bounds the factor by which the growth of |dw| may change between two probes."""

CALM_DRAWS, DRAWS = 2, 4
"""The successive draws in which a candidate must qualify: where |dw| stays calm, and elsewhere.
With source weights of an LSTM, T/10 agreed to .99 in two draws and to -.02 in the third."""

CALM_GROWTH = 1.5
"""Bounds the growth of the exact |dw| in these draws up to which CALM_DRAWS of them are enough."""

STORED_BYTES = 2**28
"""Bounds the size of a full trajectory that is stored instead of replayed, in bytes (256 MiB)."""


@dataclass(frozen=True)
class Auto(Method):
    """Probes candidate methods on the problem itself and selects the cheapest adequate one.

    A fidelity probe takes one training run, at its full length T, computes the exact hypergradient,
    and then that of the candidates, cheapest first, until the cosine of one to the exact
    hypergradient exceeds min_cosine by a margin (see MARGIN). This candidate is on trial: the next
    meta-iterations, which have other draws, are probes too, and it becomes the choice once it has
    qualified in CALM_DRAWS successive ones, or in DRAWS where |dw| grew by more than CALM_GROWTH.
    Where it fails, a more expensive candidate that qualifies is on trial instead. If no method that
    costs less than the exact one qualifies, the choice is the exact method: `stored` if the full
    trajectory is small, else `replay`.

    The first meta-iteration is a probe. Further probes follow after 5, 10, 20, 40, 40, ...
    meta-iterations as long as they confirm the choice; these try it and what is more expensive. A
    probe of all candidates also follows when a hyperparameter has moved far, or when the growth of
    |dw| has changed. A meta-iteration with a probe returns the exact hypergradient. When the chosen
    method diverges, the exact method replaces it.

    Decisions depend on counted costs and never on time, so that a resumed job repeats them.

    Cost: that of the choice; a probe adds one exact backward pass and those of the candidates. A
    candidate takes DRAWS probes at most until it is chosen or dropped.
    Memory: that of the choice; a probe needs that of the exact method, and K + 1 copies of the
    weights per candidate.

    Attributes:
        min_cosine: the least cosine to the exact hypergradient, in (0, 1].
    """

    min_cosine: float = defaults.Method.min_cosine

    name: ClassVar[str] = "auto"

    def check(self, training: TrainingConfig) -> None:
        require_bounds(self, bounds.Auto, "hypergradient")

    def recorder(self, run: TrainingRun) -> TrajectoryRecorder:
        """The recorder of replay: without a choice from an earlier probe, auto is exact."""
        return Replay(hvp=self.hvp).recorder(run)

    def order(self, run: TrainingRun, recorder: TrajectoryRecorder) -> Order:
        return Replay().order(run, recorder)

    def backward(self, run: TrainingRun, recorder: TrajectoryRecorder, adjoint: Adjoint) -> None:
        Replay().backward(run, recorder, adjoint)

    def plan(
        self,
        choice: Choice | None,
        iteration: int,
        values: Mapping[str, Tensor],
        training: TrainingConfig,
        bound: Iterable[BoundHyperparameter],
        copy_bytes: int,
    ) -> "Plan":
        """Plans one meta-iteration: a probe, or a backward pass by the chosen method.

        Args:
            choice: the choice of the previous meta-iteration; None in the first one. A choice that
                other settings led to is dropped, and this meta-iteration is a probe.
            iteration: the number of this meta-iteration.
            values: λ by name.
            training: the settings of the training run that is differentiated.
            bound: the hyperparameters; a method that refuses one of them is not a candidate.
            copy_bytes: the size of one copy of the state's rows that a backward pass reads.
        """
        bound = list(bound)
        if choice is not None and not self._holds(choice, values, training, bound):
            choice = None
        moments = {name: _moments(value) for name, value in values.items()}
        small = training.steps * copy_bytes <= STORED_BYTES
        exact: Method = Stored() if small else Replay()
        reason = self._reason(choice, iteration, moments)
        cheaper = [
            m for m in candidates(training, bound) if m.cost(training) < exact.cost(training)
        ]
        probed = [replace(m, hvp=self.hvp) for m in (exact, *cheaper)]
        return Plan(self, choice, iteration, moments, training, probed, reason)

    def _holds(
        self,
        choice: Choice,
        values: Mapping[str, Tensor],
        training: TrainingConfig,
        bound: Sequence[BoundHyperparameter],
    ) -> bool:
        """Whether a choice of an earlier meta-iteration could follow from the present settings."""
        used = [choice.method, *([choice.trial.method] if choice.trial else [])]
        try:
            methods = [method_of(settings) for settings in used]
            for method in methods:
                method.check(training)
        except (KeyError, TypeError, ProblemError):  # a method or a setting of another release
            return False
        cosines = [probe.cosine for probe in choice.probes if probe.method in used]
        return (
            all(method.hvp == self.hvp for method in methods)
            and choice.steps in (None, training.steps)
            and choice.moments.keys() == values.keys()
            and not any(method.refuses(one, training) for method in methods for one in bound)
            and all(cosine is not None and cosine >= self.least_cosine for cosine in cosines)
        )

    @property
    def least_cosine(self) -> float:
        """The cosine from which a candidate is chosen: min_cosine and the margin."""
        return self.min_cosine + MARGIN * (1.0 - self.min_cosine)

    def _reason(
        self, choice: Choice | None, iteration: int, moments: Mapping[str, tuple[float, float]]
    ) -> Reason | None:
        if choice is None:
            return "first"
        for name, pair in moments.items():
            before = choice.moments[name]
            if any(abs(a - b) > MAX_MOVE for a, b in zip(pair, before, strict=True)):
                return "moved"
        if choice.trial is not None:
            return "confirmation"
        if iteration >= choice.next_probe:
            return (
                "growth" if choice.next_probe < choice.last_probe + choice.interval else "scheduled"
            )
        return None


Backward = Callable[[Method], BackwardPass]
"""Runs the backward pass of a method over the training run at hand."""


@dataclass(frozen=True)
class Plan:
    """One meta-iteration of auto: `methods` is announced to the forward pass, then `settle` runs.

    Attributes:
        probed: the exact method, followed by the candidates; the methods of a probe.
        reason: why this meta-iteration is a probe; None if it uses the choice without a probe.
    """

    auto: Auto
    choice: Choice | None
    iteration: int
    moments: dict[str, tuple[float, float]]
    training: TrainingConfig
    probed: list[Method]
    reason: Reason | None

    def methods(self) -> list[Method]:
        if self.reason is None and self.choice is not None:
            return [method_of(self.choice.method)]
        return self.probed

    def settle(self, backward: Backward) -> tuple[BackwardPass, Choice]:
        """Runs the backward passes.

        Returns the one that gives the hypergradient, and the choice for the next meta-iteration.
        """
        if self.reason is None and self.choice is not None:
            return self._continue(self.choice, backward)
        return self._probe(backward)

    def _continue(self, choice: Choice, backward: Backward) -> tuple[BackwardPass, Choice]:
        try:
            backward_pass = backward(method_of(choice.method))
        except HypergradientDiverged:
            backward_pass = backward(self.probed[0])
            return backward_pass, replace(
                choice,
                method=settings_of(backward_pass.method),
                reason="diverged",
                last_probe=self.iteration,
                next_probe=self.iteration + FIRST_INTERVAL,
                interval=FIRST_INTERVAL,
                growth=backward_pass.growth,
                moments=self.moments,
            )
        ratio = max(backward_pass.growth, 1e-30) / max(choice.growth, 1e-30)
        if abs(math.log(ratio)) > math.log(MAX_GROWTH_RATIO):
            choice = replace(choice, next_probe=self.iteration + 1)
        return backward_pass, choice

    def _probe(self, backward: Backward) -> tuple[BackwardPass, Choice]:
        assert self.reason is not None
        exact = backward(self.probed[0])
        qualified: BackwardPass | None = None
        probes: list[ProbeResult] = []
        for candidate in self._tried():
            cost = candidate.cost(self.training)
            try:
                candidate_pass = backward(candidate)
            except HypergradientDiverged:
                probes.append(ProbeResult(settings_of(candidate), cost))
                continue
            probe = probe_result(candidate_pass, exact, cost)
            probes.append(probe)
            if probe.cosine is not None and probe.cosine >= self.auto.least_cosine:
                qualified = candidate_pass
                break
        chosen, trial = self._decide(exact, qualified)
        settings = settings_of(chosen.method)
        interval = FIRST_INTERVAL
        if (
            self.choice is not None
            and self.choice.method == settings
            and self.reason == "scheduled"
            and trial is None
        ):
            interval = min(2 * self.choice.interval, MAX_INTERVAL)
        return exact, Choice(
            method=settings,
            reason=self.reason,
            last_probe=self.iteration,
            next_probe=self.iteration + (interval if trial is None else 1),
            interval=interval,
            growth=chosen.growth,
            moments=self.moments,
            probes=tuple(probes),
            steps=self.training.steps,
            trial=trial,
        )

    def _tried(self) -> list[Method]:
        """The candidates, without those that are cheaper than the choice or the trial at hand."""
        tried = self.probed[1:]
        if self.choice is None or self.reason not in ("confirmation", "scheduled"):
            return tried
        held = self.choice.trial.method if self.choice.trial else self.choice.method
        settings = [settings_of(method) for method in tried]
        return tried[settings.index(held) :] if held in settings else tried

    def _decide(
        self, exact: BackwardPass, qualified: BackwardPass | None
    ) -> tuple[BackwardPass, Trial | None]:
        """The backward pass of the method that is chosen, and the trial that goes on."""
        if qualified is None:
            return exact, None
        settings, before = settings_of(qualified.method), self.choice
        if before is not None and self.reason == "scheduled" and before.method == settings:
            return qualified, None
        draws, growth = 1, exact.growth
        trial = before.trial if before is not None and self.reason == "confirmation" else None
        if trial is not None and trial.method == settings:
            draws, growth = trial.draws + 1, max(growth, trial.growth)
        needed = CALM_DRAWS if growth <= CALM_GROWTH else DRAWS
        if draws >= needed or not self.training.resample:  # else every draw is the same
            return qualified, None
        return exact, Trial(settings, draws, growth)


def candidates(training: TrainingConfig, bound: Iterable[BoundHyperparameter]) -> list[Method]:
    """The shortcut over the last tenth, quarter, half and all of the steps, cheapest first."""
    horizons = {max(1, training.steps // part) for part in (10, 4, 2)} - {training.steps}
    methods = [*(Shortcut(horizon=horizon) for horizon in sorted(horizons)), Shortcut()]
    tuned = list(bound)
    return [m for m in methods if not any(m.refuses(one, training) for one in tuned)]


def _moments(value: Tensor) -> tuple[float, float]:
    value = value.double()
    return float(value.mean()), float(value.std(unbiased=False))
