"""A fidelity probe of `auto`: backward passes of one draw, and of another where that decides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from drmad_workers.errors import HypergradientDiverged, HypergradientError, TrainingDiverged
from drmad_workers.hypergradients.agreement import agreement, draw_agreement
from drmad_workers.hypergradients.automatic.choice import ProbeResult, probe_result, settings_of
from drmad_workers.hypergradients.automatic.usefulness import (
    ROUGH,
    OtherDraw,
    OuterLoop,
    usefulness,
)
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.hypergradients.method import Method
from drmad_workers.training.config import TrainingConfig

LIKELY = 0.6
"""The least cosine to the exact hypergradient with which a candidate is worth a look at another
draw."""

SHARE = 0.25
"""The most of a job's training runs that may go into choosing: what its meta-iterations cost above
the method in charge, which is exact until one is chosen."""

Backward = Callable[[Method], BackwardPass]
"""Runs the backward pass of a method over the training run at hand."""


@dataclass(frozen=True)
class Budget:
    """What a job may still spend on choosing, in plain training runs.

    Attributes:
        spent: the cost of the meta-iterations before this one.
        choosing: the part of it that went into choosing.
        rest: the number of meta-iterations after this one; None if it is not known.
    """

    spent: float
    choosing: float
    rest: int | None

    def affords(self, choosing: float, cost: float, later: float) -> bool:
        """Whether this meta-iteration may cost so much, so much of it for choosing.

        `later` is the cost of every meta-iteration after it. Without a known end all is afforded.
        """
        if self.rest is None:
            return True
        return self.choosing + choosing <= SHARE * (self.spent + cost + self.rest * later)


class Probe:
    """The backward passes of a probe, and what they cost.

    Attributes:
        exact: the exact backward pass.
        results: what was measured of each candidate, cheapest first.
        cost: the plain training runs of the meta-iteration so far, by counting.
        agreement: the cosine of the exact hypergradients of two draws, once `look` knows it.
    """

    def __init__(
        self,
        training: TrainingConfig,
        budget: Budget,
        in_charge: Method,
        least_cosine: float,
        least_usefulness: float,
        backward: Backward,
        exact: Method,
    ) -> None:
        """
        Args:
            in_charge: the method that would give the hypergradient without the probe.
            least_cosine: the least cosine that qualifies a method by one draw.
            least_usefulness: the least usefulness that qualifies it by two.
        """
        self._training = training
        self._budget = budget
        self._least = (least_cosine, least_usefulness)
        self._backward = backward
        self._in_charge = in_charge.cost(training)
        self._failed: list[BackwardPass] = []
        self.exact = backward(exact)
        self.cost = exact.cost(training)
        self.results: list[ProbeResult] = []
        self.agreement: float | None = None

    @property
    def choosing(self) -> float:
        """The part of the cost that went into choosing."""
        return self.cost - self._in_charge

    def first_of(self, methods: Sequence[Method]) -> BackwardPass | None:
        """The backward pass of the first method whose cosine qualifies it."""
        for method in methods:
            cost = method.cost(self._training)
            if not self._affords(cost - 1.0, cost):
                return None
            self.cost += cost - 1.0
            try:
                found = self._backward(method)
            except HypergradientDiverged:
                self.results.append(ProbeResult(settings_of(method), cost))
                continue
            self.results.append(probe_result(found, self.exact, cost))
            if self.results[-1].trusted(*self._least):
                return found
            self._failed.append(found)
        return None

    def look(
        self, other: OtherDraw, outer: OuterLoop, qualified: BackwardPass | None
    ) -> BackwardPass | None:
        """The backward pass of the cheapest failed method that another draw qualifies.

        Its usefulness reaches the least one, and retraining the other draw gains at least as much
        per training run by its step as by the exact one. There is no look that costs more than the
        method would save in the rest of the job, beside the one that `qualified`.
        """
        likely = [each for each in self._failed if self._cosine(each) >= LIKELY]
        costs = [each.method.cost(self._training) for each in likely]
        exact = self.exact.method
        exact_cost = exact.cost(self._training)
        if not likely:
            return None
        price = exact_cost + sum(costs) - len(costs) + 2.0
        instead = exact if qualified is None else qualified.method
        saved = (instead.cost(self._training) - costs[0]) * (self._budget.rest or 0)
        if saved < price or not self._affords(price, costs[0]):
            return None
        self.cost += exact_cost
        try:
            loss = other.forward([exact, *(each.method for each in likely)])
            second = other.backward(exact)
        except (TrainingDiverged, HypergradientError):
            return None
        self.agreement = draw_agreement(
            [each.hypergradient for each in (self.exact, second)]
        ).cosine
        if self.agreement >= ROUGH:
            return None
        both = [self.exact.hypergradient, second.hypergradient]
        exact_gain: float | None = None
        for found, cost in zip(likely, costs, strict=True):
            self.cost += cost - 1.0
            try:
                again = other.backward(found.method)
            except HypergradientError:
                continue
            useful = usefulness([found.hypergradient, again.hypergradient], both)
            self._note(found, useful)
            if useful < self._least[1]:
                continue
            if exact_gain is None:
                self.cost += 1.0
                exact_gain = loss - other.retrained(outer.step(self.exact.hypergradient))
            self.cost += 1.0
            gain = loss - other.retrained(outer.step(found.hypergradient))
            per_run, exact_per_run = gain / cost, exact_gain / exact_cost
            if exact_gain > 0.0:
                self._note(found, useful, per_run / exact_per_run)
            if gain > 0.0 and per_run >= exact_per_run:
                return found
        return None

    def _affords(self, additional: float, later: float) -> bool:
        return self._budget.affords(self.choosing + additional, self.cost + additional, later)

    def _cosine(self, found: BackwardPass) -> float:
        return agreement(found.hypergradient, self.exact.hypergradient).cosine

    def _note(
        self, found: BackwardPass, usefulness: float | None = None, gain: float | None = None
    ) -> None:
        settings = settings_of(found.method)
        number = [each.method for each in self.results].index(settings)
        self.results[number] = replace(self.results[number], usefulness=usefulness, gain=gain)
