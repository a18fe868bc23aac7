"""The default method: selects the cheapest method that predicts as well as the exact one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from drmad_client.spec import bounds, defaults
from drmad_workers.data.pass_order import Order
from drmad_workers.errors import (
    ProblemError,
    require_bounds,
)
from drmad_workers.hypergradients.automatic.choice import (
    Choice,
    Reason,
    method_of,
)
from drmad_workers.hypergradients.automatic.plan import Plan
from drmad_workers.hypergradients.automatic.usefulness import OuterLoop
from drmad_workers.hypergradients.method import Adjoint, Method
from drmad_workers.hypergradients.replay import Replay
from drmad_workers.hypergradients.shortcut import Shortcut
from drmad_workers.hypergradients.stored import Stored
from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.run import TrainingRun, TrajectoryRecorder

MARGIN = 0.25
"""The fraction of the distance from min_cosine to 1 by which a cosine must exceed min_cosine. Fresh
weights and minibatches change the cosine from one meta-iteration to the next."""

MAX_MOVE = 3.0
"""Bounds the change of a hyperparameter's mean or spread between two probes, in raw units."""

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

    For the short horizons that failed with a cosine of at least LIKELY, the probe may look at
    another draw of weights and minibatches, and differentiate that too, exactly and by them. Where
    the exact hypergradients of the two draws agree little, the cosine of a candidate to the exact
    one of the *other* draw counts, beside what the exact one reaches there (see usefulness). The
    cheapest candidate that reaches min_cosine by it is retrained: the other draw trains
    once after the outer step along the candidate's hypergradient of the first draw, and once after
    that along the exact one. It is the choice if it gains at least as much per training run. A look
    takes place if the rest of the job can save what it costs, and where draws agreed not again
    before another change.

    The first meta-iteration is a probe. Further probes follow after 5, 10, 20, 40, 40, ...
    meta-iterations as long as they confirm the choice; these try it and what is more expensive. A
    probe of all candidates also follows when a hyperparameter has moved far, or when the growth of
    |dw| has changed. A meta-iteration with a probe returns the exact hypergradient. When the chosen
    method diverges, the exact method replaces it.

    Decisions depend on counted costs and never on time, so that a resumed job repeats them.

    Cost: that of the choice; a probe adds one exact backward pass and those of the candidates, and
    a look as much again with two training runs. A candidate takes DRAWS probes at most until it is
    chosen or dropped. At most SHARE of the training runs of a job go into choosing.
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
        outer: OuterLoop | None = None,
    ) -> Plan:
        """Plans one meta-iteration: a probe, or a backward pass by the chosen method.

        Args:
            choice: the choice of the previous meta-iteration; None in the first one. A choice that
                other settings led to is dropped, and this meta-iteration is a probe.
            iteration: the number of this meta-iteration.
            values: λ by name.
            training: the settings of the training run that is differentiated.
            bound: the hyperparameters; a method that refuses one of them is not a candidate.
            copy_bytes: the size of one copy of the state's rows that a backward pass reads.
            outer: the outer loop; None, where it is not known, looks at no other draw.
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
        least = (self.least_cosine, self.min_cosine)
        plan = Plan(choice, iteration, moments, training, probed, reason, *least, outer)
        return plan if plan.affords_its_probe() else replace(plan, reason=None)

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
        known = [probe for probe in choice.probes if probe.method in used]
        return (
            all(method.hvp == self.hvp for method in methods)
            and choice.steps in (None, training.steps)
            and choice.moments.keys() == values.keys()
            and not any(method.refuses(one, training) for method in methods for one in bound)
            and all(probe.trusted(self.least_cosine, self.min_cosine) for probe in known)
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


def candidates(training: TrainingConfig, bound: Iterable[BoundHyperparameter]) -> list[Method]:
    """The shortcut over the last tenth, quarter, half and all of the steps, cheapest first."""
    horizons = {max(1, training.steps // part) for part in (10, 4, 2)} - {training.steps}
    methods = [*(Shortcut(horizon=horizon) for horizon in sorted(horizons)), Shortcut()]
    tuned = list(bound)
    return [m for m in methods if not any(m.refuses(one, training) for one in tuned)]


def _moments(value: Tensor) -> tuple[float, float]:
    value = value.double()
    return float(value.mean()), float(value.std(unbiased=False))
