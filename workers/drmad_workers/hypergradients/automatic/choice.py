"""What `auto` measured and chose: a part of the state of a job, and of its records."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from drmad_client.spec import defaults
from drmad_workers.hypergradients.agreement import agreement
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.hypergradients.method import Method
from drmad_workers.hypergradients.replay import Replay
from drmad_workers.hypergradients.shortcut import Shortcut
from drmad_workers.hypergradients.stored import Stored

Reason = Literal["first", "confirmation", "scheduled", "moved", "growth", "diverged"]


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
        usefulness: what the method is worth to another draw, see the module of that name; None if
            no other draw judged it.
        gain: what the outer step along the hypergradient lowers the loss of the other draw by, in
            retraining, per training run of cost and beside that of the exact hypergradient; None
            if it was not retrained, or the exact one gains nothing.
    """

    method: dict[str, Any]
    cost: float
    cosine: float | None = None
    signs: float | None = None
    length: float | None = None
    products: int | None = None
    seconds: float | None = None
    usefulness: float | None = None
    gain: float | None = None

    def trusted(self, least_cosine: float, least_usefulness: float) -> bool:
        """Whether the cosine or the usefulness qualifies the method."""
        if self.usefulness is not None and self.usefulness >= least_usefulness:
            return True
        return self.cosine is not None and self.cosine >= least_cosine


@dataclass(frozen=True)
class Trial:
    """A candidate that qualified, in too few draws to be chosen.

    Attributes:
        method: the settings of the candidate, with its name under "method".
        draws: the number of successive draws in which it qualified.
        growth: the largest growth of the exact |dw| in these draws.
    """

    method: dict[str, Any]
    draws: int
    growth: float


@dataclass(frozen=True)
class Choice:
    """The decision of `auto`, and everything that its next decision depends on.

    Attributes:
        method: the settings of the chosen method, with its name under "method".
        reason: why the last probe or switch took place: "first", no choice for the present
            settings was there before; "confirmation", a trial goes on in another draw;
            "scheduled", the interval ended; "moved", the hyperparameters changed by more than
            MAX_MOVE; "growth", the growth of |dw| changed; "diverged", the chosen method diverged.
        last_probe: the meta-iteration of the last probe or switch.
        next_probe: the meta-iteration of the next probe.
        interval: the number of meta-iterations between the last probe and the next.
        growth: the growth of |dw| in the last probe, by the chosen method.
        moments: mean and standard deviation of every hyperparameter at the last probe.
        probes: the results of the last probe, cheapest method first.
        steps: the number of inner steps T at the last probe; None if an earlier release wrote it.
        trial: the candidate that the next probe confirms or drops; `method` is exact until then.
        spent: the plain training runs of all meta-iterations so far, by counting.
        choosing: those of them that went into choosing.
        agreement: the cosine of the exact hypergradients of two draws, of the hyperparameter where
            it is lowest, at the last look at another draw; None before.
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
    trial: Trial | None = None
    spent: float = 0.0
    choosing: float = 0.0
    agreement: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"probes": [asdict(probe) for probe in self.probes]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Choice":
        """The choice whose `as_dict` these fields are, also after a round trip through JSON."""
        moments = {name: (pair[0], pair[1]) for name, pair in fields["moments"].items()}
        probes = tuple(ProbeResult(**probe) for probe in fields["probes"])
        trial = Trial(**fields["trial"]) if fields.get("trial") else None
        return cls(**{**fields, "moments": moments, "probes": probes, "trial": trial})


def probe_result(approximate: BackwardPass, exact: BackwardPass, cost: float) -> ProbeResult:
    """Compares the hypergradient of one backward pass with the exact one."""
    return ProbeResult(
        settings_of(approximate.method),
        cost,
        **asdict(agreement(approximate.hypergradient, exact.hypergradient)),
        products=approximate.products,
        seconds=approximate.seconds,
    )


def draws_doubt(choice: Choice) -> str | None:
    """What a user should know of a choice whose draws disagree; None if they agree."""
    if choice.agreement is None or choice.agreement >= defaults.Fidelity.agreement:
        return None
    chosen = next((p for p in choice.probes if p.method == choice.method and p.usefulness), None)
    how = ""
    if chosen is not None:
        method = method_of(chosen.method)
        over = f" over the last {method.horizon} steps" if isinstance(method, Shortcut) else ""
        gains = "" if chosen.gain is None else f", and gains {chosen.gain:.1f}x per training run"
        how = (
            f" auto took {method.name}{over}, which predicts another draw {chosen.usefulness:.2f}x "
            f"as well as the exact method{gains};"
        )
    return (
        "training is rough: the exact hypergradients of two draws of weights and minibatches have "
        f"a cosine of {choice.agreement:.2f};{how} averaging over draws (replicas: {{count: 4}}) "
        "or smoother training (a lower learning rate, a longer warm-up) helps every method"
    )


def join_choices(choices: Sequence[Choice]) -> Choice:
    """The most conservative of the replicas' choices: the one whose method costs most.

    Among exact methods, the one whose trial is the most expensive and the youngest; none at all is
    more conservative still. Among equal choices that of the first replica is taken.
    """

    def length(settings: dict[str, Any]) -> float:
        """The horizon of a shortcut; infinite for an exact method."""
        method = method_of(settings)
        if not isinstance(method, Shortcut):
            return math.inf
        return method.horizon if method.horizon is not None else 2.0**62

    def conservatism(choice: Choice) -> tuple[float, float, int]:
        trial = choice.trial
        if trial is None:
            return length(choice.method), math.inf, 0
        return length(choice.method), length(trial.method), -trial.draws

    joined = max(choices, key=conservatism)
    alike = [choice for choice in choices if (choice.trial is None) == (joined.trial is None)]
    growths = [choice.trial.growth for choice in choices if choice.trial is not None]
    trial = joined.trial and replace(joined.trial, growth=max(growths))
    return replace(joined, next_probe=min(choice.next_probe for choice in alike), trial=trial)


def settings_of(method: Method) -> dict[str, Any]:
    """The settings of a method as JSON values, with its name under "method"."""
    return {"method": method.name, **asdict(method)}


def method_of(settings: Mapping[str, Any]) -> Method:
    """The method that has these settings."""
    known: dict[str, type[Method]] = {m.name: m for m in (Shortcut, Stored, Replay)}
    fields = {name: value for name, value in settings.items() if name != "method"}
    return known[settings["method"]](**fields)
