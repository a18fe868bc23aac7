"""The errors of the engine.

    EngineError
    ├── ProblemError            the problem, a setting or the data cannot be used as stated
    ├── TrainingDiverged        the inner loss or the weights are no longer finite
    ├── HypergradientError      the backward pass ended without a reliable direction
    │   ├── HypergradientDiverged   the norm of the adjoint exceeded its bound
    │   ├── HypergradientNotFinite  the derivative by a hyperparameter is not
    │   ├── PathNotRecovered        reversing the training did not lead back to its start
    │   ├── CurvatureIndefinite     a solver met a direction of no positive curvature
    │   └── SolverNotConverged      a linear solver ended above its tolerance
    ├── WorkerLost              another worker of the same training run has ended
    ├── WorkersDiffer           the workers of a training run no longer have the same weights
    └── Stopped                 the caller's `should_stop` said so
    Restart                     inside the engine: the run is repeated under what it has learned

Every class keeps its arguments in `args`, so that it survives pickling between processes.
"""

import math
from collections.abc import Callable, Sequence

from drmad_client.spec.bounds import Bounds


class EngineError(Exception):
    """The base of all errors that the engine raises."""


class ProblemError(EngineError):
    """The problem, a setting or the data cannot be used; `field` names the part to change."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message, field)
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return self.message


def require_bounds(settings: object, bounds: type, section: str) -> None:
    """Refuses settings with a number outside its bounds; None takes no bounds.

    Args:
        bounds: a class of drmad_client.spec.bounds, whose names are those of the settings.
        section: the part of a job that holds the settings.
    Raises:
        ProblemError: names the first such number.
    """
    for name, allowed in vars(bounds).items():
        if isinstance(allowed, Bounds):
            number = getattr(settings, name)
            if number is not None and not allowed.hold(number):
                raise ProblemError(f"{name} must be {allowed}, got {number!r}", f"{section}.{name}")


class TrainingDiverged(EngineError):
    """A loss or the weights of the inner training run are not finite.

    Attributes:
        step: the first inner step with such a value, 0-based; `steps` for the last weights.
        steps: the length of the training run.
        value: the value, nan or infinite.
        what: "loss", "weights" or "validation loss".
    """

    def __init__(self, step: int, steps: int, value: float, what: str) -> None:
        super().__init__(step, steps, value, what)
        self.step = step
        self.steps = steps
        self.value = value
        self.what = what

    def __str__(self) -> str:
        return (
            f"training {self.what} must stay finite, got {self.value} at step {self.step} of "
            f"{self.steps}: lower the learning rate, or bound the hyperparameters"
        )


class HypergradientError(EngineError):
    """The backward pass ended without a reliable direction, and returned none."""


class HypergradientDiverged(HypergradientError):
    """The norm of the adjoint exceeded its bound, so that the hypergradient has no digits left.

    Attributes:
        step: the inner step at which the norm exceeded its bound, 0-based.
        norm: the norm there; it may be nan.
        bound: the largest norm allowed; infinite where the norm must only be finite.
        off_path: whether the method linearizes at points off the training trajectory.
        what: "adjoint", or "tangent" in forward mode.
    """

    def __init__(
        self, step: int, norm: float, bound: float, off_path: bool = False, what: str = "adjoint"
    ) -> None:
        super().__init__(step, norm, bound, off_path, what)
        self.step = step
        self.norm = norm
        self.bound = bound
        self.off_path = off_path
        self.what = what

    def __str__(self) -> str:
        reason = (
            "a derivative of the training is not defined there: a norm or a root at 0, a logarithm "
            "of 0 and a division by 0 have none; add a small constant inside, such as "
            "(x.square().sum() + 1e-12).sqrt()"
            if math.isnan(self.norm)
            else "the gradient of the outer loss or a derivative of the training is not finite; "
            "lower the learning rate, or shorten the horizon"
            if self.bound == math.inf
            else "the approximate trajectory amplifies the adjoint; use contraction, a shorter "
            "horizon, a larger budget, or replay"
            if self.off_path
            else "gradients explode through training; lower the learning rate, or shorten the "
            "horizon"
        )
        limit = (
            "is not finite"
            if not math.isfinite(self.norm) or self.bound == math.inf
            else f"exceeded {self.bound:.3g}"
        )
        return f"{self.what} norm {limit} at step {self.step} (got {self.norm:.3g}): {reason}"


class HypergradientNotFinite(HypergradientError):
    """The adjoint is finite, and the derivative by a hyperparameter is not.

    Attributes:
        name: the name of the hyperparameter.
        wrong: the number of entries that are nan or infinite.
        entries: the number of entries.
        step: the inner step at which the backward pass met the first of them, 0-based; None if no
            single step caused it.
    """

    def __init__(self, name: str, wrong: int, entries: int, step: int | None = None) -> None:
        super().__init__(name, wrong, entries, step)
        self.name = name
        self.wrong = wrong
        self.entries = entries
        self.step = step

    def __str__(self) -> str:
        where = "" if self.step is None else f", first at step {self.step} of the backward pass"
        return (
            f"the hypergradient of {self.name!r} must be finite, got nan or infinity in "
            f"{self.wrong} of {self.entries} entries{where}: bound it, or change how the losses "
            "take it (a root or a logarithm at 0 has no derivative)"
        )


class PathNotRecovered(HypergradientError):
    """Reversing the training did not lead back to a velocity of 0.

    Attributes:
        wrong: the number of weights whose velocity is not 0.
        weights: the number of weights.
    """

    def __init__(self, wrong: int, weights: int) -> None:
        super().__init__(wrong, weights)
        self.wrong = wrong
        self.weights = weights

    def __str__(self) -> str:
        return (
            f"reversing the training must lead back to a velocity of 0, and {self.wrong} of "
            f"{self.weights} weights have another: the model's gradients do not repeat bit for "
            "bit; use deterministic kernels (torch.use_deterministic_algorithms), or replay"
        )


class CurvatureIndefinite(HypergradientError):
    """The Hessian of the training loss has a direction of zero or negative curvature.

    Attributes:
        iteration: the iteration of the solver, 0-based.
        curvature: p·Hp / p·p along that direction p.
    """

    def __init__(self, iteration: int, curvature: float) -> None:
        super().__init__(iteration, curvature)
        self.iteration = iteration
        self.curvature = curvature

    def __str__(self) -> str:
        return (
            "the implicit function theorem needs a training loss with positive curvature at its "
            f"minimum, got {self.curvature:.3g} in iteration {self.iteration} of the solver: train "
            "longer, set a damping above that, penalise the weights (l2), or use replay"
        )


class SolverNotConverged(HypergradientError):
    """A linear solver used all its iterations without reaching its tolerance.

    Attributes:
        iterations: the number of iterations.
        residual: |b - Hx| / |b| after them.
        tolerance: the bound on the residual.
    """

    def __init__(self, iterations: int, residual: float, tolerance: float) -> None:
        super().__init__(iterations, residual, tolerance)
        self.iterations = iterations
        self.residual = residual
        self.tolerance = tolerance

    def __str__(self) -> str:
        return (
            f"the solver's residual must fall to {self.tolerance:.3g}, got {self.residual:.3g} "
            f"after {self.iterations} iterations: allow more of them, set a damping (or a smaller "
            "step_size), raise the tolerance (1 takes what is reached), or use replay"
        )


class WorkerLost(EngineError):
    """Another worker of the same training run has ended, or does not answer.

    Attributes:
        rank, size: the number of the worker that noticed it, and that of all workers.
        cause: the first line of torch's message.
    """

    def __init__(self, rank: int, size: int, cause: str) -> None:
        super().__init__(rank, size, cause)
        self.rank = rank
        self.size = size
        self.cause = cause

    def __str__(self) -> str:
        return (
            f"worker {self.rank} of {self.size} lost the connection to the others of its training "
            f"run: {self.cause}"
        )


class WorkersDiffer(EngineError):
    """The workers of one training run have different weights after the same steps.

    Attributes:
        lengths: |w| of each worker.
    """

    def __init__(self, lengths: Sequence[float]) -> None:
        super().__init__(lengths)
        self.lengths = lengths

    def __str__(self) -> str:
        lengths = ", ".join(f"{length:.17g}" for length in self.lengths)
        return (
            f"the workers of a training run must have the same weights, got |w| of {lengths}: give "
            "them the same processors and versions of torch, or set replicas.workers to 1"
        )


class Stopped(EngineError):
    """`should_stop` returned True, and the engine stopped.

    Attributes:
        phase: "forward", "backward" or "evaluate".
        step: the number of steps of the phase that were done.
    """

    def __init__(self, phase: str, step: int) -> None:
        super().__init__(phase, step)
        self.phase = phase
        self.step = step

    def __str__(self) -> str:
        return f"stopped on request in the {self.phase} phase after {self.step} steps"


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, of Python, NumPy or torch, on any device."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # On the CPU, and in some CUDA calls, torch raises a plain RuntimeError.
    message = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in message
        or "out of memory" in message
        or "ALLOC_FAILED" in message
    )


class Restart(Exception):
    """A run must be repeated, because it found an assumption about the model to be wrong.

    It never leaves the engine. `learn` corrects the assumption.
    """

    def __init__(self, reason: str, learn: Callable[[], None]) -> None:
        super().__init__(reason)
        self.learn = learn
