"""What an online run refuses, and what it says of the hyperparameters that it tunes.

[Wu2018] Understanding short-horizon bias in stochastic meta-optimization, 1803.02021.
"""

from collections.abc import Iterable

from drmad_workers.errors import ProblemError
from drmad_workers.hypergradients.method import Method
from drmad_workers.hypergradients.reversible import Reversible
from drmad_workers.hypergradients.stored import Stored
from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.hyperparameters.init_scale import BoundInitScale
from drmad_workers.hyperparameters.rates import BoundRate
from drmad_workers.online.state import TrainingState
from drmad_workers.training.config import TrainingConfig


def require_window(
    window: int,
    method: Method,
    training: TrainingConfig,
    bound: Iterable[BoundHyperparameter],
    step: int = 0,
) -> None:
    """
    Args:
        window: the steps of a window.
        method: the method that differentiates it.
        training: the settings of the whole run.
        bound: the tuned hyperparameters.
        step: the step from which the run continues.
    Raises:
        ProblemError: an online run cannot have these settings.
    """
    if training.steps % window:
        below = training.steps // window * window
        raise ProblemError(
            f"an online run must have a whole number of windows, got {training.steps} steps in "
            f"windows of {window}: take {f'{below} or ' if below else ''}{below + window} steps, "
            "or another window",
            "meta.window",
        )
    if step % window:
        raise ProblemError(
            f"a training state must lie between two windows of {window} steps, got one after "
            f"{step} steps: continue with the window that led to it",
            "meta.window",
        )
    if isinstance(method, Reversible):
        raise ProblemError(
            "the method of an online run must start from any velocity, and reversible starts from "
            "0: take stored, which is exact too",
            "hypergradient.method",
        )
    for hyperparameter in bound:
        if reason := _refusal(hyperparameter):
            raise ProblemError(
                f"{hyperparameter.name} cannot be tuned in one run: {reason}",
                f"hyperparameters.{hyperparameter.name}",
            )


def steps_before(method: Method, window: int) -> int:
    """The steps before a window that its backward pass goes on through."""
    if not isinstance(method, Stored) or method.horizon is None:
        return 0
    return max(0, method.horizon - window)


def require_earlier(before: int, state: TrainingState | None) -> None:
    """
    Args:
        before: the steps before a window that its backward pass goes on through.
        state: the state from which a run continues.
    Raises:
        ProblemError: a run would go on from the state with other hypergradients than before.
    """
    if before and state is not None and state.step and not state.earlier:
        raise ProblemError(
            f"a horizon beyond the window reads {before} steps before it, and the training state "
            f"after step {state.step} was read from a file, which has none of them: continue in "
            "the process that trained it, or leave hypergradient.horizon out",
            "hypergradient.horizon",
        )


def _refusal(bound: BoundHyperparameter) -> str | None:
    if isinstance(bound, BoundInitScale):
        return "the weights are drawn once, before the first window; tune it with mode restart"
    if isinstance(bound, BoundRate) and bound.layout[1] > 1:
        return (
            "the rate of a step that was taken has no later use; tune one rate for all steps "
            "(per model, group or layer), or a schedule with mode restart"
        )
    return None


def short_horizon(bound: Iterable[BoundHyperparameter], window: int, steps: int) -> list[str]:
    """What online tuning leaves out for these hyperparameters: a sentence each ([Wu2018])."""
    return [
        f"{hyperparameter.name} is tuned by what {window} of {steps} steps gain: over a short "
        "window a lower rate looks better than it is over the whole run (short-horizon bias, "
        "1803.02021). Lengthen the window, or tune it with mode restart"
        for hyperparameter in bound
        if isinstance(hyperparameter, BoundRate) and window < steps
    ]
