"""The outer loop of an online run: one outer step after every window."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from drmad_workers.errors import Restart
from drmad_workers.evaluation import Evaluation
from drmad_workers.meta.config import MetaConfig
from drmad_workers.meta.loss_history import out_of_patience
from drmad_workers.meta.state import MetaState
from drmad_workers.meta.update import Bounds, meta_update
from drmad_workers.online.refusals import require_earlier
from drmad_workers.online.run import OnlineRun
from drmad_workers.online.state import TrainingState

logger = logging.getLogger(__name__)


@dataclass
class OnlineResult:
    """The windows of a run, and the states after the last of them.

    Attributes:
        evaluations: one per window, at the hyperparameters before its update. The windows that were
            verified have metrics.
        state: the hyperparameters after the last window, with the memory of the outer optimizer.
        training: the state of the training after it.
    """

    state: MetaState
    training: TrainingState
    evaluations: list[Evaluation] = field(default_factory=list)


def touched(hypergradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of each λ that have a derivative, shape (rows,), bool; for outer_update.

    A row that no differentiated minibatch of a window contains has a hypergradient of exactly 0:
    the weight of an example, of a class or a source that was not drawn, a row of a user's tensor.
    It keeps its value, whatever the outer optimizer remembers of it. A single λ is always moved.
    """
    return {
        name: (gradient != 0.0).flatten(1).any(1) if gradient.ndim > 1 else gradient != 0.0
        for name, gradient in hypergradient.items()
        if gradient.ndim
    }


def run_windows(
    run: OnlineRun,
    state: MetaState,
    meta: MetaConfig,
    bounds: Mapping[str, Bounds],
    training: TrainingState | None = None,
    on_iteration: Callable[[int, Evaluation], None] | None = None,
) -> OnlineResult:
    """Trains to the end of the run, or until the patience ends, with a verified window.

    Args:
        run: the run.
        state: the state before the first window. Its number of meta-iterations is the draw of a
            run that begins: a second run from the hyperparameters of a first one draws anew.
        meta: the outer optimizer and the patience.
        bounds: the bounds of λ by name.
        training: the state of the training, which continues; None begins it.
        on_iteration: called with the number and the result of each window; again for those that
            are repeated because an assumption about the model was wrong.
    Raises:
        ProblemError: the state lacks the windows before it, which the horizon reads.
    """
    require_earlier(run.steps_before, training)
    with run.open(training, draw=state.iteration):
        kept = OnlineResult(state, run.state())
        evaluations: list[Evaluation] = []
        while not run.is_done:
            ends = out_of_patience(state, meta)
            if ends and run.is_verified:
                break
            try:
                evaluation = run.advance(
                    state.hyperparameters,
                    measures=ends or run.verifies_next,
                    keep_model=ends or run.is_last,
                    verifies=ends,
                )
            except Restart as restart:
                logger.info("windows are repeated: %s", restart)
                restart.learn()
                state, evaluations = kept.state, list(kept.evaluations)
                run.go_to(kept.training)
                continue
            if on_iteration is not None:
                on_iteration(state.iteration, evaluation)
            state = meta_update(
                state,
                evaluation.validation_loss,
                evaluation.hypergradient,
                meta,
                bounds,
                touched(evaluation.hypergradient),
                evaluation.metrics,
                evaluation.cost,
            )
            evaluations.append(evaluation)
            if run.is_verified:
                kept = OnlineResult(state, run.state(), list(evaluations))
        return OnlineResult(state, run.state(), evaluations)
