"""How far each method can be trusted on a problem, and what a whole job would cost by it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from drmad_workers.hypergradients import Method, Replay
from drmad_workers.hypergradients.agreement import agreement
from drmad_workers.hypergradients.auto import ProbeResult, candidates, settings_of
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.hyperparameters.kinds import Kind
from drmad_workers.problem import Problem
from drmad_workers.training.progress import OnProgress
from drmad_workers.training.run import TrainingConfig
from drmad_workers.tuning import Tuner

DOUBTFUL = 0.5
"""A cosine below this deserves a warning."""


@dataclass(frozen=True)
class Prediction:
    """A method's figures, and what a job of so many meta-iterations takes by it.

    Attributes:
        figure: its agreement with the exact hypergradient, cost and products; see Figure.
        job_seconds: training and walking back, on this machine as it is now; None where |dw| left
            its bound.
        path_bytes: what is kept of the path, at most.
    """

    figure: ProbeResult
    job_seconds: float | None
    path_bytes: int

    @property
    def doubtful(self) -> bool:
        return self.figure.cosine is None or self.figure.cosine < DOUBTFUL


@dataclass(frozen=True)
class FidelityReport:
    """What `check` found.

    Attributes:
        steps, iterations: T and the meta-iterations of the job.
        training_seconds: of one training run, keeping what all of these methods need.
        exact: the figures of `replay`, which the others are held against.
        predictions: one per method, in the order asked for.
    """

    steps: int
    iterations: int
    training_seconds: float
    exact: Prediction
    predictions: tuple[Prediction, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it, with `doubtful` beside every prediction."""

        def told(prediction: Prediction) -> dict[str, Any]:
            return asdict(prediction) | {"doubtful": prediction.doubtful}

        return asdict(self) | {
            "exact": told(self.exact),
            "predictions": [told(prediction) for prediction in self.predictions],
        }


def check(
    problem: Problem,
    kinds: Sequence[Kind],
    training: TrainingConfig | None = None,
    methods: Sequence[Method] | None = None,
    iterations: int = 30,
    values: Mapping[str, Tensor] | None = None,
    iteration: int = 0,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    should_stop: Callable[[], bool] | None = None,
    on_progress: OnProgress | None = None,
) -> FidelityReport:
    """Holds methods against `replay` on one training run of the problem, at its full length.

    Args:
        problem, kinds, training, seed, device, dtype: see Tuner.
        methods: None for the candidates of `auto`.
        iterations: of the job whose seconds are predicted.
        values: λ by name; None for the initial ones.
        iteration: whose first weights and minibatches are taken.
        should_stop, on_progress: see Tuner.evaluate.
    Raises:
        TrainingDiverged, Stopped, ProblemError; HypergradientDiverged by `replay` alone.
    """
    training = training or TrainingConfig()
    yardstick = Replay()
    tuner = Tuner(problem, kinds, training, yardstick, seed=seed, device=device, dtype=dtype)
    tried = candidates(training, tuner.hyperparameters.values()) if methods is None else methods
    for method in tried:
        tuner.require(method)
    values = tuner.initial_values() if values is None else values
    return measure(tuner, training, tried, values, iterations, iteration, should_stop, on_progress)


def measure(
    tuner: Tuner,
    training: TrainingConfig,
    tried: Sequence[Method],
    values: Mapping[str, Tensor],
    iterations: int,
    iteration: int = 0,
    should_stop: Callable[[], bool] | None = None,
    on_progress: OnProgress | None = None,
) -> FidelityReport:
    """What `check` finds, by a tuner that is there already; `training` is the tuner's own."""
    yardstick = Replay()
    distinct = list(dict.fromkeys([yardstick, *tried]))
    (exact, *others), seconds = tuner.compare(values, distinct, iteration, should_stop, on_progress)
    if not isinstance(exact, BackwardPass):
        raise exact
    found = dict(zip(distinct, [exact, *others], strict=True))

    def predict(method: Method) -> Prediction:
        walk = found[method]
        kept = round(method.copies(training) * tuner.copy_bytes)
        figure = ProbeResult(settings_of(method), method.cost(training))
        if not isinstance(walk, BackwardPass):
            return Prediction(figure, None, kept)
        figure = ProbeResult(
            figure.method,
            figure.cost,
            **asdict(agreement(walk.hypergradient, exact.hypergradient)),
            products=walk.products,
            seconds=walk.seconds,
        )
        return Prediction(figure, iterations * (seconds + walk.seconds), kept)

    return FidelityReport(
        steps=training.steps,
        iterations=iterations,
        training_seconds=seconds,
        exact=predict(yardstick),
        predictions=tuple(predict(method) for method in tried),
    )
