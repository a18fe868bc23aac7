"""Compares what a hypergradient predicts with what retraining does."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from drmad_client.spec import bounds, defaults
from drmad_workers.errors import HypergradientError, ProblemError, TrainingDiverged
from drmad_workers.evaluation import Evaluation
from drmad_workers.hypergradients import Replay
from drmad_workers.hypergradients.agreement import DrawAgreement, agreement, draw_agreement
from drmad_workers.hypergradients.automatic.auto import Auto
from drmad_workers.hypergradients.automatic.choice import settings_of
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.meta.config import MetaConfig
from drmad_workers.meta.state import MetaState, initial_state
from drmad_workers.meta.update import bounds_of, outer_update
from drmad_workers.training.progress import OnProgress
from drmad_workers.tuning import Tuner
from drmad_workers.validation.changes import (
    Change,
    ChangeKind,
    changed,
    changes_of,
    predicted,
)
from drmad_workers.validation.mean_interval import mean_interval
from drmad_workers.validation.rank_correlation import rank_correlation
from drmad_workers.validation.report import Correlation, ValidationReport, lds_of
from drmad_workers.validation.verdict import Findings, verdict

FIRST_DRAW = 2**48
"""The draw that is differentiated; no meta-iteration of a job has a draw as high."""


@dataclass(frozen=True)
class ValidationSettings:
    """What is retrained.

    Attributes:
        changes: the retrainings for every share that is left out, and for every radius.
        draws: the draws of weights and minibatches whose exact hypergradients are compared, and
            the draws on which an outer step is tried; at least 2.
        fractions: shares of the training examples that are left out, in (0, 1).
        radii: lengths of random directions, in outer steps.
        seed: that of the subsets and of the directions.
    """

    changes: int = defaults.Validation.changes
    draws: int = defaults.Validation.draws
    fractions: Sequence[float] = defaults.Validation.fractions
    radii: Sequence[float] = defaults.Validation.radii
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = bounds.Validation
        for name in ("changes", "draws", "seed", "fractions", "radii"):
            given = getattr(self, name)
            numbers, bound = (
                given if isinstance(given, Sequence) else [given],
                getattr(allowed, name),
            )
            for number in numbers:
                if not bound.hold(number):
                    raise ProblemError(f"{name} must be {bound}, got {number!r}", name)


@dataclass(frozen=True)
class Retraining:
    """One training run: at λ itself, after a change of it, or after an outer step.

    Attributes:
        draw: counts the draws; 0 is the one that was differentiated.
    """

    draw: int = 0
    change: Change | None = None
    stepped: bool = False


@dataclass(frozen=True)
class Differentiated:
    """What is known before anything is retrained.

    Attributes:
        method: the settings of the method, with its name under "method".
        cost: the cost of a meta-iteration by the method, in plain training runs.
        runs: the plain training runs that differentiating took, all draws together.
        outer_steps: by name, the root mean square of what one outer step adds to λ.
        predictions: the predicted change of the validation loss, one for every change.
        stepped: λ after one outer step, by name.
        fidelity: the cosine of the method's hypergradient to the exact one of the same draw.
        agreement: the agreement between draws; None if they are one and the same.
        unknown: why fidelity and agreement are not known; empty if they are.
    """

    method: dict[str, Any]
    cost: float
    runs: float
    outer_steps: dict[str, float]
    predictions: list[float]
    stepped: dict[str, Tensor] = field(repr=False)
    fidelity: float | None = None
    agreement: DrawAgreement | None = None
    unknown: str = ""


class Yardstick:
    """The validation of one problem's hypergradient at given hyperparameters.

    `differentiate` comes first. Each of `retrainings` then is a training run of its own, which any
    process with an equal yardstick may do. `report` needs the losses of all of them.
    """

    def __init__(
        self,
        tuner: Tuner,
        settings: ValidationSettings | None = None,
        meta: MetaConfig | None = None,
        state: MetaState | None = None,
    ) -> None:
        """
        Args:
            tuner: the problem with its method, whose hypergradient is validated.
            meta: the outer optimizer, whose step is tried and is the unit of all directions.
            state: λ, the memory of the outer optimizer and the choice of `auto`; None takes the
                state before the first meta-iteration.
        """
        self._tuner = tuner
        self._settings = settings or ValidationSettings()
        self._meta = meta or MetaConfig()
        self._state = state or initial_state(tuner.hyperparameters)
        self._bounds = bounds_of(tuner.hyperparameters)
        self._changes = changes_of(
            tuner.hyperparameters,
            self._settings.changes,
            self._settings.fractions,
            self._settings.radii,
        )

    @property
    def retrainings(self) -> list[Retraining]:
        """All training runs: at λ, after each change, then pairs before and after an outer step."""
        draws = range(1, 1 + self._fresh_draws)
        pairs = [Retraining(draw, None, stepped) for draw in draws for stepped in (False, True)]
        return [Retraining(), *(Retraining(change=change) for change in self._changes), *pairs]

    @property
    def _fresh_draws(self) -> int:
        return self._settings.draws if self._tuner.replica.training.resample else 1

    def differentiate(
        self,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
    ) -> Differentiated:
        """Differentiates one draw by the method, and several draws exactly.

        Raises:
            TrainingDiverged, Stopped; HypergradientError of the method itself.
        """
        tuner, state = self._tuner, self._state
        values, choice, iteration = state.hyperparameters, state.choice, state.iteration
        watch = (should_stop, on_progress)
        exact: list[Mapping[str, Tensor]] = []
        runs = 0.0
        while isinstance(tuner.replica.method, Auto) and (choice is None or choice.trial):
            # Until auto has chosen, every evaluation is a probe with the exact hypergradient.
            draw = FIRST_DRAW + 1 + len(exact)
            probe = tuner.evaluate(values, iteration, *watch, choice=choice, draw=draw)
            exact.append(probe.hypergradient)
            runs += probe.cost
            choice, iteration = probe.choice, iteration + 1
        found = tuner.evaluate(values, iteration, *watch, choice=choice, draw=FIRST_DRAW)
        runs += found.cost
        unknown = ""
        own: Mapping[str, Tensor] | None = None
        try:
            own, spent = self._exact(0, *watch)
            runs += spent
            while len(exact) + 1 < self._settings.draws and self._resamples:
                other, spent = self._exact(1 + len(exact), *watch)
                exact.append(other)
                runs += spent
        except (HypergradientError, TrainingDiverged) as error:
            unknown = f"the exact hypergradient could not be computed: {error}"
        fidelity = None if own is None else agreement(found.hypergradient, own).cosine
        between = None
        if own is not None and not unknown and self._resamples:
            between = draw_agreement([own, *exact])
        elif not unknown:
            unknown = "every training run has the same weights and minibatches (resample: false)"
        stepped, _ = outer_update(state, found.hypergradient, self._meta, self._bounds)
        outer_steps = {
            name: float((stepped[name] - value).double().square().mean().sqrt())
            for name, value in values.items()
        }
        predictions = [
            predicted(
                change,
                values[change.name],
                self._after(change, outer_steps),
                found.hypergradient[change.name],
            )
            for change in self._changes
        ]
        return Differentiated(
            method=self._method_used(found),
            cost=found.cost,
            runs=runs,
            outer_steps=outer_steps,
            predictions=predictions,
            stepped=stepped,
            fidelity=fidelity,
            agreement=between,
            unknown=unknown,
        )

    def retrain(
        self,
        known: Differentiated,
        retraining: Retraining,
        should_stop: Callable[[], bool] | None = None,
        on_progress: OnProgress | None = None,
    ) -> float | None:
        """The validation loss of one training run; None if training diverged.

        Raises:
            Stopped.
        """
        values: dict[str, Tensor] = dict(self._state.hyperparameters)
        if retraining.change is not None:
            values[retraining.change.name] = self._after(retraining.change, known.outer_steps)
        if retraining.stepped:
            values = dict(known.stepped)
        try:
            figures = self._tuner.train(
                values, FIRST_DRAW + retraining.draw, on_progress, should_stop
            )
        except TrainingDiverged:
            return None
        return figures["validation_loss"]

    def report(self, known: Differentiated, losses: Sequence[float | None]) -> ValidationReport:
        """What the losses of all `retrainings`, in their order, say of the hypergradient."""
        base, *rest = losses
        after, pairs = rest[: len(self._changes)], rest[len(self._changes) :]
        gains = [
            before - then
            for before, then in zip(pairs[::2], pairs[1::2], strict=True)
            if before is not None and then is not None
        ]
        correlations = self.correlations(known, after)
        gain = mean_interval(gains)
        findings = Findings(
            {name: lds_of(correlations, name) for name in self._tuner.hyperparameters},
            known.fidelity,
            known.agreement,
            gain,
        )
        return ValidationReport(
            method=known.method,
            cost=known.cost,
            runs=known.runs + len(losses),
            validation_loss=base,
            correlations=correlations,
            lds=findings.lds,
            fidelity=known.fidelity,
            agreement=known.agreement,
            unknown=known.unknown,
            gain=gain,
            gain_per_run=None if gain is None else gain.mean / known.cost,
            verdict=verdict(findings, self._tuner),
        )

    def correlations(
        self, known: Differentiated, after: Sequence[float | None]
    ) -> list[Correlation]:
        """The LDS of the predictions for every hyperparameter and size.

        Args:
            known: only its predictions count, which may come from any attribution.
            after: the losses after each change, in the order of the retrainings.
        """
        groups: dict[tuple[str, ChangeKind, float], list[int]] = {}
        for position, change in enumerate(self._changes):
            groups.setdefault((change.name, change.kind, change.size), []).append(position)
        found = []
        for (name, kind, size), positions in groups.items():
            losses = [after[position] for position in positions]
            ranked = [math.inf if loss is None else loss for loss in losses]
            predictions = [known.predictions[position] for position in positions]
            correlation = rank_correlation(predictions, ranked)
            found.append(
                Correlation(name, kind, size, len(losses), losses.count(None), correlation)
            )
        return found

    def _exact(
        self,
        draw: int,
        should_stop: Callable[[], bool] | None,
        on_progress: OnProgress | None,
    ) -> tuple[Mapping[str, Tensor], float]:
        """The exact hypergradient of a draw, and its cost in plain training runs."""
        replica = self._tuner.replica
        method = Replay(hvp=replica.method.hvp)
        (found,), _ = self._tuner.compare(
            self._state.hyperparameters, [method], FIRST_DRAW + draw, should_stop, on_progress
        )
        if not isinstance(found, BackwardPass):
            raise found
        return found.hypergradient, method.cost(replica.training)

    def _after(self, change: Change, outer_steps: Mapping[str, float]) -> Tensor:
        name = change.name
        bound, value = self._tuner.hyperparameters[name], self._state.hyperparameters[name]
        return changed(change, bound, value, outer_steps[name], self._settings.seed)

    def _method_used(self, found: Evaluation) -> dict[str, Any]:
        """The settings of the method that computed the hypergradient, chosen by auto or not."""
        chosen = None if found.choice is None else found.choice.method
        if chosen is not None and chosen["method"] == found.method:
            return chosen
        used = self._tuner.replica.method
        return settings_of(used) if used.name == found.method else {"method": found.method}

    @property
    def _resamples(self) -> bool:
        return self._tuner.replica.training.resample


def validate(
    tuner: Tuner,
    settings: ValidationSettings | None = None,
    meta: MetaConfig | None = None,
    state: MetaState | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ValidationReport:
    """The whole validation in this process.

    Args:
        tuner, settings, meta, state: see Yardstick.
        should_stop: see Tuner.evaluate.
        on_progress: called with the number of training runs done, and that of all of them.
    Raises:
        TrainingDiverged, HypergradientError, Stopped, ProblemError.
    """
    yardstick = Yardstick(tuner, settings, meta, state)
    known = yardstick.differentiate(should_stop)
    retrainings = yardstick.retrainings
    losses = []
    for number, retraining in enumerate(retrainings):
        if on_progress is not None:
            on_progress(number, len(retrainings))
        losses.append(yardstick.retrain(known, retraining, should_stop))
    return yardstick.report(known, losses)
