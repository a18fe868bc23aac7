"""Compares methods with the exact hypergradient on a problem, and predicts the cost of a job."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from drmad_client.spec import defaults
from drmad_workers.errors import TrainingDiverged
from drmad_workers.hypergradients import Method, Replay
from drmad_workers.hypergradients.agreement import DrawAgreement, draw_agreement
from drmad_workers.hypergradients.automatic.auto import candidates
from drmad_workers.hypergradients.automatic.choice import ProbeResult, probe_result, settings_of
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.problem import Problem
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.progress import OnProgress
from drmad_workers.tuning import Tuner

MIN_COSINE = defaults.Fidelity.cosine
"""A method whose cosine to the exact hypergradient is lower is reported as doubtful."""


@dataclass(frozen=True)
class Prediction:
    """The measured fidelity of a method, and the predicted cost of a job that uses it.

    Attributes:
        figure: the agreement with the exact hypergradient, the cost and the products.
        job_seconds: the predicted duration of all meta-iterations, forward and backward, at the
            present speed of this machine; None if the backward pass diverged.
        path_bytes: the maximum size of what the method keeps of the trajectory.
    """

    figure: ProbeResult
    job_seconds: float | None
    path_bytes: int

    @property
    def doubtful(self) -> bool:
        return self.figure.cosine is None or self.figure.cosine < MIN_COSINE


@dataclass(frozen=True)
class FidelityReport:
    """The fidelity of several methods on one training run.

    Attributes:
        steps: T, the number of inner steps.
        iterations: the number of meta-iterations of the job.
        training_seconds: the duration of the training run, while it recorded what all of these
            methods need.
        exact: the prediction for `replay`, the reference.
        predictions: one per method, in the order of the argument.
        agreement: the agreement of the exact hypergradients of two draws, which no method can
            exceed from one meta-iteration to the next; None if it is not known, or if every
            training run has the same draw.
    """

    steps: int
    iterations: int
    training_seconds: float
    exact: Prediction
    predictions: tuple[Prediction, ...]
    agreement: DrawAgreement | None = None

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values, with `doubtful` in every prediction."""

        def fields(prediction: Prediction) -> dict[str, Any]:
            return asdict(prediction) | {"doubtful": prediction.doubtful}

        return asdict(self) | {
            "exact": fields(self.exact),
            "predictions": [fields(prediction) for prediction in self.predictions],
        }


def compare_with_exact(
    problem: Problem,
    kinds: Sequence[Kind],
    training: TrainingConfig | None = None,
    methods: Sequence[Method] | None = None,
    iterations: int = 30,
    values: Mapping[str, Tensor] | None = None,
    iteration: int = 0,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_progress: OnProgress | None = None,
) -> FidelityReport:
    """Compares methods with `replay` on one training run of the problem, at its full length.

    Args:
        problem, kinds, training, seed, device, dtype: see Tuner.
        methods: the methods to compare; None takes the candidates of `auto`.
        iterations: the number of meta-iterations of the job whose duration is predicted.
        values: λ by name; None takes the initial values.
        iteration: the meta-iteration whose initial weights and minibatches are used.
        should_stop, on_progress: see Tuner.evaluate.
    Raises:
        TrainingDiverged, Stopped, ProblemError; HypergradientDiverged if `replay` itself diverges.
    """
    training = training or TrainingConfig()
    tuner = Tuner(problem, kinds, training, Replay(), seed=seed, device=device, dtype=dtype)
    if methods is None:
        methods = candidates(training, tuner.hyperparameters.values())
    for method in methods:
        tuner.require(method)
    values = tuner.initial_values() if values is None else values
    return fidelity_report(
        tuner, training, methods, values, iterations, iteration, should_stop, on_progress
    )


def fidelity_report(
    tuner: Tuner,
    training: TrainingConfig,
    methods: Sequence[Method],
    values: Mapping[str, Tensor],
    iterations: int,
    iteration: int = 0,
    should_stop: Callable[[], bool] | None = None,
    on_progress: OnProgress | None = None,
) -> FidelityReport:
    """As `compare_with_exact`, by an existing tuner; `training` must be the tuner's own."""
    reference = Replay()
    distinct = list(dict.fromkeys([reference, *methods]))
    (exact, *others), seconds = tuner.compare(values, distinct, iteration, should_stop, on_progress)
    if not isinstance(exact, BackwardPass):
        raise exact
    passes = dict(zip(distinct, [exact, *others], strict=True))
    kept = tuner.replica.trajectory_bytes(distinct, training)

    def predict(method: Method) -> Prediction:
        backward_pass, cost = passes[method], method.cost(training)
        kept_bytes = kept[method]
        if not isinstance(backward_pass, BackwardPass):
            return Prediction(ProbeResult(settings_of(method), cost), None, kept_bytes)
        job_seconds = iterations * (seconds + backward_pass.seconds)
        return Prediction(probe_result(backward_pass, exact, cost), job_seconds, kept_bytes)

    return FidelityReport(
        steps=training.steps,
        iterations=iterations,
        training_seconds=seconds,
        exact=predict(reference),
        predictions=tuple(predict(method) for method in methods),
        agreement=agreement_with_another_draw(
            tuner, values, exact.hypergradient, should_stop, on_progress
        ),
    )


OTHER_DRAW = 2**47
"""A draw that no meta-iteration of a job has."""


def agreement_with_another_draw(
    tuner: Tuner,
    values: Mapping[str, Tensor],
    exact: Mapping[str, Tensor],
    should_stop: Callable[[], bool] | None = None,
    on_progress: OnProgress | None = None,
) -> DrawAgreement | None:
    """The agreement of an exact hypergradient with that of OTHER_DRAW.

    It costs one exact evaluation. None if every training run has the same draw, or if the other
    one has no hypergradient.
    """
    if not tuner.replica.training.resample:
        return None
    method = Replay(hvp=tuner.replica.method.hvp)
    try:
        (other,), _ = tuner.compare(values, [method], OTHER_DRAW, should_stop, on_progress)
    except TrainingDiverged:
        return None
    return draw_agreement([exact, other.hypergradient]) if isinstance(other, BackwardPass) else None
