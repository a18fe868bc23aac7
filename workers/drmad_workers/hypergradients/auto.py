"""The default: the cheapest method whose hypergradient can be trusted on the problem at hand."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from drmad_workers.errors import HypergradientDiverged, ProblemError
from drmad_workers.hypergradients.agreement import agreement
from drmad_workers.hypergradients.method import Adjoint, Method
from drmad_workers.hypergradients.replay import Replay
from drmad_workers.hypergradients.shortcut import Shortcut
from drmad_workers.hypergradients.stored import Stored
from drmad_workers.hyperparameters.kinds import BoundHyperparameter
from drmad_workers.training.run import TrainingConfig, TrainingRun, TrajectoryRecorder

if TYPE_CHECKING:
    from drmad_workers.hypergradients.backward_pass import BackwardPass

FIRST_INTERVAL, LONGEST_INTERVAL = 5, 40
"""Meta-iterations to the next look; doubled as often as a look confirms the choice."""

MARGIN = 0.25
"""Of the way from the threshold to 1: fresh weights and minibatches move the cosine."""

MOVED = 3.0
"""So far, in raw units, the mean or the spread of a hyperparameter may move between two looks."""

GROWN = 3.0
"""By such a factor the growth of |dw| may change between two looks."""

PATH_BYTES = 2**28
"""A path up to this size is stored in the place of being replayed."""

Reason = Literal["first", "scheduled", "moved", "growth", "diverged"]


@dataclass(frozen=True)
class ProbeResult:
    """What a look found of one method.

    Attributes:
        method: its settings, with its name under "method".
        cost: in plain training runs, by counting (Method.cost).
        cosine, signs, length: see Agreement; None where |dw| left its bound.
        products: Hessian-vector products; fewer than steps where strides joined them.
        seconds: of its walk back. No decision reads them.
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
    """What auto decided, when and why, and all that its next decision depends on.

    Attributes:
        method: settings of the method chosen, with its name under "method".
        reason: of the last probe or switch: the "first" one; "scheduled"; the hyperparameters
            "moved"; the "growth" of |dw| changed; the method "diverged".
        last_probe: meta-iteration of it.
        next_probe: meta-iteration of the next probe.
        interval: between the last look and the next.
        growth: of |dw| at the last look, by the method chosen.
        moments: (mean, standard deviation) of every hyperparameter at the last look.
        probes: of the methods that the last look measured, cheapest first.
    """

    method: dict[str, Any]
    reason: Reason
    last_probe: int
    next_probe: int
    interval: int
    growth: float
    moments: dict[str, tuple[float, float]]
    probes: tuple[ProbeResult, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self) | {"probes": [asdict(probe) for probe in self.probes]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Choice":
        """The choice whose `as_dict` this is, also after JSON."""
        moments = {name: (pair[0], pair[1]) for name, pair in fields["moments"].items()}
        probes = tuple(ProbeResult(**probe) for probe in fields["probes"])
        return cls(**{**fields, "moments": moments, "probes": probes})


@dataclass(frozen=True)
class Auto(Method):
    """Measures candidates on the problem itself, at its full T, and takes the cheapest to trust.

    A look walks one training run back exactly, and then by the candidates, cheapest first, until
    one has a cosine above the threshold (by a margin, as the next run is another). If none that
    costs less has, the exact method is the choice: `stored` where the path is small, else
    `replay`. The first meta-iteration looks; later ones look again after 5, 10, 20, 40, 40, ...
    meta-iterations, and when the hyperparameters moved far or |dw| grows otherwise than it did. A
    meta-iteration that looks returns the exact hypergradient. A method that diverges gives way to
    the exact one.

    Costs are counted, not timed, so that a job that resumes takes the same decisions.

    Cost: that of the choice; a look in addition the exact walk and those of the candidates tried.
    Memory: that of the choice; in a look the exact method's and K + 1 copies a candidate.

    Attributes:
        min_cosine: least cosine to the exact hypergradient, in (0, 1].
    """

    min_cosine: float = 0.8

    name: ClassVar[str] = "auto"

    def check(self, training: TrainingConfig) -> None:
        if not 0.0 < self.min_cosine <= 1.0:
            raise ProblemError(
                f"min_cosine must be above 0 and at most 1, got {self.min_cosine}",
                "hypergradient.min_cosine",
            )

    def recorder(self, run: TrainingRun) -> TrajectoryRecorder:
        """That of replay: without its memory of earlier looks, auto is exact."""
        return Replay(hvp=self.hvp).recorder(run)

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
        """What this meta-iteration has to do.

        Args:
            choice: of the meta-iteration before; None in the first.
            iteration: number of this one.
            values: λ by name.
            training: whose run is differentiated.
            bound: what is tuned; a method that refuses one of them is no candidate.
            copy_bytes: size of one copy of the state's rows that a walk back reads.
        """
        moments = {name: _moments(value) for name, value in values.items()}
        small = training.steps * copy_bytes <= PATH_BYTES
        exact: Method = Stored() if small else Replay()
        reason = self._reason(choice, iteration, moments)
        cheaper = [
            m for m in candidates(training, bound) if m.cost(training) < exact.cost(training)
        ]
        tried = [replace(m, hvp=self.hvp) for m in (exact, *cheaper)]
        return Plan(self, choice, iteration, moments, training, tried, reason)

    def _reason(
        self, choice: Choice | None, iteration: int, moments: Mapping[str, tuple[float, float]]
    ) -> Reason | None:
        if choice is None:
            return "first"
        for name, pair in moments.items():
            before = choice.moments[name]
            if any(abs(a - b) > MOVED for a, b in zip(pair, before, strict=True)):
                return "moved"
        if iteration >= choice.next_probe:
            return (
                "growth" if choice.next_probe < choice.last_probe + choice.interval else "scheduled"
            )
        return None


@dataclass(frozen=True)
class Plan:
    """One meta-iteration of auto: the methods that must see the training run, then `settle`."""

    auto: Auto
    choice: Choice | None
    iteration: int
    moments: dict[str, tuple[float, float]]
    training: TrainingConfig
    tried: list[Method]
    """In a look: the exact method, and then the candidates."""
    reason: Reason | None
    """To look; None to go on with the choice."""

    def methods(self) -> list[Method]:
        if self.reason is None and self.choice is not None:
            return [method_of(self.choice.method)]
        return self.tried

    def settle(self, walk: Callable[[Method], "BackwardPass"]) -> tuple["BackwardPass", Choice]:
        """The walk to take, and the choice to go on with."""
        if self.reason is None and self.choice is not None:
            return self._continue(self.choice, walk)
        return self._probe(walk)

    def _continue(
        self, choice: Choice, walk: Callable[[Method], "BackwardPass"]
    ) -> tuple["BackwardPass", Choice]:
        try:
            walked = walk(method_of(choice.method))
        except HypergradientDiverged:
            walked = walk(self.tried[0])
            return walked, replace(
                choice,
                method=settings_of(walked.method),
                reason="diverged",
                last_probe=self.iteration,
                next_probe=self.iteration + FIRST_INTERVAL,
                interval=FIRST_INTERVAL,
                growth=walked.growth,
                moments=self.moments,
            )
        if abs(math.log(max(walked.growth, 1e-30) / max(choice.growth, 1e-30))) > math.log(GROWN):
            choice = replace(choice, next_probe=self.iteration + 1)
        return walked, choice

    def _probe(self, walk: Callable[[Method], "BackwardPass"]) -> tuple["BackwardPass", Choice]:
        exact = walk(self.tried[0])
        chosen, growth = exact.method, exact.growth
        least = self.auto.min_cosine + MARGIN * (1.0 - self.auto.min_cosine)
        probes: list[ProbeResult] = []
        for candidate in self.tried[1:]:
            figure = ProbeResult(settings_of(candidate), candidate.cost(self.training))
            try:
                walked = walk(candidate)
            except HypergradientDiverged:
                probes.append(figure)
                continue
            found = agreement(walked.hypergradient, exact.hypergradient)
            probes.append(
                replace(figure, **asdict(found), products=walked.products, seconds=walked.seconds)
            )
            if found.cosine >= least:
                chosen, growth = candidate, walked.growth
                break
        settings = settings_of(chosen)
        interval = FIRST_INTERVAL
        if (
            self.choice is not None
            and self.choice.method == settings
            and self.reason == "scheduled"
        ):
            interval = min(2 * self.choice.interval, LONGEST_INTERVAL)
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
        )


def candidates(training: TrainingConfig, bound: Iterable[BoundHyperparameter]) -> list[Method]:
    """The shortcut over the last tenth, quarter, half and all of the steps: cheapest first."""
    horizons = {max(1, training.steps // part) for part in (10, 4, 2)} - {training.steps}
    methods = [*(Shortcut(horizon=horizon) for horizon in sorted(horizons)), Shortcut()]
    tuned = list(bound)
    return [m for m in methods if not any(m.refuses(one, training) for one in tuned)]


def join_choices(choices: Sequence[Choice]) -> Choice:
    """One choice of several replicas: the most careful, that is the costliest method.

    The first of equals, so that the order of the replicas decides nothing but ties.
    """

    def care(choice: Choice) -> tuple[bool, int]:
        method = method_of(choice.method)
        steps = method.horizon if isinstance(method, Shortcut) else None
        return not isinstance(method, Shortcut), steps if steps is not None else 2**62

    return replace(max(choices, key=care), next_probe=min(choice.next_probe for choice in choices))


def settings_of(method: Method) -> dict[str, Any]:
    """The fields of a method, and its name under "method"; JSON takes it."""
    return {"method": method.name, **asdict(method)}


def method_of(settings: Mapping[str, Any]) -> Method:
    """The method whose settings these are."""
    known: dict[str, type[Method]] = {m.name: m for m in (Shortcut, Stored, Replay)}
    fields = {name: value for name, value in settings.items() if name != "method"}
    return known[settings["method"]](**fields)


def _moments(value: Tensor) -> tuple[float, float]:
    value = value.double()
    return float(value.mean()), float(value.std(unbiased=False))
