"""The default method: selects the cheapest method that agrees with the exact hypergradient."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from drmad_client.spec import bounds, defaults
from drmad_workers.data.pass_order import Order
from drmad_workers.errors import HypergradientDiverged, ProblemError, require_bounds
from drmad_workers.hypergradients.agreement import agreement
from drmad_workers.hypergradients.backward_pass import BackwardPass
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

STORED_BYTES = 2**28
"""Bounds the size of a full trajectory that is stored instead of replayed, in bytes (256 MiB)."""

Reason = Literal["first", "scheduled", "moved", "growth", "diverged"]


@dataclass(frozen=True)
class ProbeResult:
    """What a fidelity probe measured of one method.

    Attributes:
        method: the settings of the method, with its name under "method".
        cost: the counted cost of the method in plain training runs (Method.cost).
        cosine, signs, length: see Agreement; None if the backward pass diverged.
        products: the number of Hessian-vector products; less than the number of steps if strides
            joined steps.
        seconds: the wall-clock time of the backward pass, on which no decision depends.
    """

    method: dict[str, Any]
    cost: float
    cosine: float | None = None
    signs: float | None = None
    length: float | None = None
    products: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Choice:
    """The decision of `auto`, and everything that its next decision depends on.

    Attributes:
        method: the settings of the chosen method, with its name under "method".
        reason: why the last probe or switch took place: "first", no choice for the present
            settings was there before;
            "scheduled", the interval ended; "moved", the hyperparameters changed by more than
            MAX_MOVE; "growth", the growth of |dw| changed; "diverged", the chosen method diverged.
        last_probe: the meta-iteration of the last probe or switch.
        next_probe: the meta-iteration of the next probe.
        interval: the number of meta-iterations between the last probe and the next.
        growth: the growth of |dw| in the last probe, by the chosen method.
        moments: mean and standard deviation of every hyperparameter at the last probe.
        probes: the results of the last probe, cheapest method first.
        steps: the number of inner steps T at the last probe; None if an earlier release wrote it.
    """

    method: dict[str, Any]
    reason: Reason
    last_probe: int
    next_probe: int
    interval: int
    growth: float
    moments: dict[str, tuple[float, float]]
    probes: tuple[ProbeResult, ...] = ()
    steps: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"probes": [asdict(probe) for probe in self.probes]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Choice":
        """The choice whose `as_dict` these fields are, also after a round trip through JSON."""
        moments = {name: (pair[0], pair[1]) for name, pair in fields["moments"].items()}
        probes = tuple(ProbeResult(**probe) for probe in fields["probes"])
        return cls(**{**fields, "moments": moments, "probes": probes})


@dataclass(frozen=True)
class Auto(Method):
    """Probes candidate methods on the problem itself and selects the cheapest adequate one.

    A fidelity probe takes one training run, at its full length T, computes the exact hypergradient,
    and then that of the candidates, cheapest first, until the cosine of one to the exact
    hypergradient exceeds min_cosine by a margin (see MARGIN). This candidate is the choice. If no
    method that costs less than the exact one qualifies, the choice is the exact method: `stored` if
    the full trajectory is small, else `replay`.

    The first meta-iteration is a probe. Further probes follow after 5, 10, 20, 40, 40, ...
    meta-iterations as long as they confirm the choice. A probe also follows when a hyperparameter
    has moved far, or when the growth of |dw| has changed. A meta-iteration with a probe returns the
    exact hypergradient. When the chosen method diverges, the exact method replaces it.

    Decisions depend on counted costs and never on time, so that a resumed job repeats them.

    Cost: that of the choice; a probe adds one exact backward pass and those of the candidates.
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
        try:
            method = method_of(choice.method)
            method.check(training)
        except (KeyError, TypeError, ProblemError):  # a method or a setting of another release
            return False
        cosines = [probe.cosine for probe in choice.probes if probe.method == choice.method]
        return (
            method.hvp == self.hvp
            and choice.steps in (None, training.steps)
            and choice.moments.keys() == values.keys()
            and not any(method.refuses(one, training) for one in bound)
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
        exact = backward(self.probed[0])
        chosen, growth = exact.method, exact.growth
        probes: list[ProbeResult] = []
        for candidate in self.probed[1:]:
            cost = candidate.cost(self.training)
            try:
                candidate_pass = backward(candidate)
            except HypergradientDiverged:
                probes.append(ProbeResult(settings_of(candidate), cost))
                continue
            probe = probe_result(candidate_pass, exact, cost)
            probes.append(probe)
            if probe.cosine is not None and probe.cosine >= self.auto.least_cosine:
                chosen, growth = candidate, candidate_pass.growth
                break
        settings = settings_of(chosen)
        interval = FIRST_INTERVAL
        if (
            self.choice is not None
            and self.choice.method == settings
            and self.reason == "scheduled"
        ):
            interval = min(2 * self.choice.interval, MAX_INTERVAL)
        assert self.reason is not None
        return exact, Choice(
            method=settings,
            reason=self.reason,
            last_probe=self.iteration,
            next_probe=self.iteration + interval,
            interval=interval,
            growth=growth,
            moments=self.moments,
            probes=tuple(probes),
            steps=self.training.steps,
        )


def probe_result(approximate: BackwardPass, exact: BackwardPass, cost: float) -> ProbeResult:
    """Compares the hypergradient of one backward pass with the exact one."""
    return ProbeResult(
        settings_of(approximate.method),
        cost,
        **asdict(agreement(approximate.hypergradient, exact.hypergradient)),
        products=approximate.products,
        seconds=approximate.seconds,
    )


def candidates(training: TrainingConfig, bound: Iterable[BoundHyperparameter]) -> list[Method]:
    """The shortcut over the last tenth, quarter, half and all of the steps, cheapest first."""
    horizons = {max(1, training.steps // part) for part in (10, 4, 2)} - {training.steps}
    methods = [*(Shortcut(horizon=horizon) for horizon in sorted(horizons)), Shortcut()]
    tuned = list(bound)
    return [m for m in methods if not any(m.refuses(one, training) for one in tuned)]


def join_choices(choices: Sequence[Choice]) -> Choice:
    """The most conservative of the replicas' choices: the one whose method costs most.

    Among equal methods the choice of the first replica is taken.
    """

    def conservatism(choice: Choice) -> tuple[bool, int]:
        method = method_of(choice.method)
        steps = method.horizon if isinstance(method, Shortcut) else None
        return not isinstance(method, Shortcut), steps if steps is not None else 2**62

    return replace(
        max(choices, key=conservatism), next_probe=min(choice.next_probe for choice in choices)
    )


def settings_of(method: Method) -> dict[str, Any]:
    """The settings of a method as JSON values, with its name under "method"."""
    return {"method": method.name, **asdict(method)}


def method_of(settings: Mapping[str, Any]) -> Method:
    """The method that has these settings."""
    known: dict[str, type[Method]] = {m.name: m for m in (Shortcut, Stored, Replay)}
    fields = {name: value for name, value in settings.items() if name != "method"}
    return known[settings["method"]](**fields)


def _moments(value: Tensor) -> tuple[float, float]:
    value = value.double()
    return float(value.mean()), float(value.std(unbiased=False))
