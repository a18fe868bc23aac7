"""One meta-iteration of `auto`: a probe, or a backward pass by the method that it chose."""

import math
from dataclasses import dataclass, replace

from drmad_workers.errors import HypergradientDiverged
from drmad_workers.hypergradients.automatic.choice import (
    Choice,
    Reason,
    Trial,
    method_of,
    settings_of,
)
from drmad_workers.hypergradients.automatic.probe import Backward, Budget, Probe
from drmad_workers.hypergradients.automatic.usefulness import ROUGH, OtherDraw, OuterLoop
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.hypergradients.method import Method
from drmad_workers.hypergradients.shortcut import Shortcut
from drmad_workers.training.config import TrainingConfig

FIRST_INTERVAL, MAX_INTERVAL = 5, 40
"""Meta-iterations to the next probe. The interval doubles whenever a probe confirms the choice."""

MAX_GROWTH_RATIO = 3.0
"""Bounds the factor by which the growth of |dw| may change between two probes."""

CALM_DRAWS, DRAWS = 2, 4
"""The successive draws in which a candidate must qualify: where |dw| stays calm, and elsewhere.
With source weights of an LSTM, T/10 agreed to .99 in two draws and to -.02 in the third."""

CALM_GROWTH = 1.5
"""Bounds the growth of the exact |dw| in these draws up to which CALM_DRAWS of them are enough."""


@dataclass(frozen=True)
class Plan:
    """One meta-iteration of auto: `methods` is announced to the forward pass, then `settle` runs.

    Attributes:
        choice: the choice of the meta-iteration before; None if there is none that holds.
        iteration: the number of the meta-iteration.
        moments: the mean and the standard deviation of every hyperparameter.
        probed: the exact method, followed by the candidates; the methods of a probe.
        reason: why this meta-iteration is a probe; None if it uses the choice without a probe.
        least_cosine: the least cosine that qualifies a method by one draw.
        least_usefulness: the least usefulness that qualifies it by two.
        outer: the outer loop; None if it is not known.
    """

    choice: Choice | None
    iteration: int
    moments: dict[str, tuple[float, float]]
    training: TrainingConfig
    probed: list[Method]
    reason: Reason | None
    least_cosine: float
    least_usefulness: float
    outer: OuterLoop | None = None

    def methods(self) -> list[Method]:
        if self.reason is None and self.choice is not None:
            return [method_of(self.choice.method)]
        return self.probed

    def settle(
        self, backward: Backward, other: OtherDraw | None = None
    ) -> tuple[BackwardPass, Choice]:
        """Runs the backward passes.

        Args:
            other: another draw; None if there is none, or every draw is the same.

        Returns the one that gives the hypergradient, and the choice for the next meta-iteration.
        """
        if self.reason is None and self.choice is not None:
            return self._continue(self.choice, backward)
        return self._probe(backward, other)

    def affords_its_probe(self) -> bool:
        """Whether a further probe keeps to SHARE of the training runs of the job.

        The first one and those of a trial take place in any case, and those after a change, where
        the exact method would be in charge without them.
        """
        choice, exact = self.choice, self.probed[0].cost(self.training)
        if choice is None or self.reason in (None, "first", "confirmation"):
            return True
        chosen = method_of(choice.method).cost(self.training)
        probe = exact + chosen - 1.0
        if any(p.usefulness is not None and p.method == choice.method for p in choice.probes):
            with_look = 2.0 * probe + 2.0
            return self._budget.affords(with_look - chosen, with_look, chosen)
        return self.reason != "scheduled" or self._budget.affords(probe - chosen, probe, chosen)

    @property
    def _budget(self) -> Budget:
        before = (0.0, 0.0) if self.choice is None else (self.choice.spent, self.choice.choosing)
        rest = None if self.outer is None else max(0, self.outer.iterations - self.iteration - 1)
        return Budget(*before, rest)

    def _continue(self, choice: Choice, backward: Backward) -> tuple[BackwardPass, Choice]:
        method = method_of(choice.method)
        try:
            backward_pass = backward(method)
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
                spent=choice.spent + backward_pass.method.cost(self.training),
            )
        choice = replace(choice, spent=choice.spent + method.cost(self.training))
        ratio = max(backward_pass.growth, 1e-30) / max(choice.growth, 1e-30)
        if abs(math.log(ratio)) > math.log(MAX_GROWTH_RATIO):
            choice = replace(choice, next_probe=self.iteration + 1)
        return backward_pass, choice

    def _probe(self, backward: Backward, other: OtherDraw | None) -> tuple[BackwardPass, Choice]:
        assert self.reason is not None
        exact, tried = self.probed[0], self._tried()
        scheduled = self.reason == "scheduled" and self.choice is not None
        in_charge = method_of(self.choice.method) if self.choice and scheduled else exact
        budget = self._budget
        least = (self.least_cosine, self.least_usefulness)
        probe = Probe(self.training, budget, in_charge, *least, backward, exact)
        short = [method for method in tried if isinstance(method, Shortcut) and method.horizon]
        qualified, looked = probe.first_of(short), None
        known = self.choice if self.reason in ("scheduled", "confirmation") else None
        smooth = known is not None and (known.agreement or 0.0) >= ROUGH
        if other is not None and self.outer is not None and not smooth:
            looked = probe.look(other, self.outer, qualified)
        if qualified is None and looked is None:
            qualified = probe.first_of(tried[len(short) :])
        chosen, trial = (looked, None) if looked else self._decide(probe.exact, qualified)
        settings = settings_of(chosen.method)
        interval = FIRST_INTERVAL
        if (
            self.choice is not None
            and self.choice.method == settings
            and self.reason == "scheduled"
            and trial is None
        ):
            interval = min(2 * self.choice.interval, MAX_INTERVAL)
        agreement = probe.agreement
        if agreement is None and self.choice is not None:
            agreement = self.choice.agreement
        return probe.exact, Choice(
            method=settings,
            reason=self.reason,
            last_probe=self.iteration,
            next_probe=self.iteration + (interval if trial is None else 1),
            interval=interval,
            growth=chosen.growth,
            moments=self.moments,
            probes=tuple(probe.results),
            steps=self.training.steps,
            trial=trial,
            spent=budget.spent + probe.cost,
            choosing=budget.choosing + probe.choosing,
            agreement=agreement,
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
