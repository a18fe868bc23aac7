"""One training run, and walks back from its end by as many methods as are wanted."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from drmad_workers.data.examples import Examples
from drmad_workers.errors import HypergradientError, HypergradientNotFinite
from drmad_workers.hypergradients.method import Adjoint, Method
from drmad_workers.training.run import TrainingConfig, TrainingRun, TrajectoryRecorder


@dataclass(frozen=True)
class BackwardPass:
    """What one method made of a training run.

    Attributes:
        method: that walked.
        validation_loss: the outer loss at w_T.
        hypergradient: d validation_loss / dλ by name, on the CPU.
        products: Hessian-vector products taken.
        growth: the largest |dw| on the way, relative to the first.
        seconds: wall clock.
    """

    method: Method
    validation_loss: float
    hypergradient: dict[str, Tensor]
    products: int
    growth: float
    seconds: float


class DifferentiatedRun:
    """A training run from w_0, drawn under a seed, and the walks back from w_T.

    The objective is attached and holds the hyperparameters. Every method is given one walk by the
    forward pass in which it was announced; for another the training is done again.

    Attributes:
        cost: of all of it so far, in plain training runs, by counting (see Method.cost).
    """

    def __init__(
        self,
        run: TrainingRun,
        training: TrainingConfig,
        weights_seed: int,
        valid: Examples,
    ) -> None:
        self.run = run
        self._training = training
        self._seed = weights_seed
        self._valid = valid
        self._recorders: dict[Method, TrajectoryRecorder] = {}
        self._end: Tensor | None = None
        self._buffers: list[Tensor] = []
        self.cost = 0.0

    def forward(self, methods: Sequence[Method]) -> None:
        """Trains, keeping of the path what these methods need."""
        run = self.run
        self.cost += 1.0
        run.objective.initialize(self._seed)
        run.state[1:].zero_()
        self._recorders = {method: method.recorder(run) for method in methods}
        run.forward(Together(list(self._recorders.values())))
        # A single walk may leave the end behind, and needs no copy of it.
        self._end = run.state.clone() if len(methods) > 1 else None
        self._buffers = run.objective.buffers()

    def backward(self, method: Method) -> BackwardPass:
        """The hypergradient by this method.

        Raises:
            HypergradientError, Stopped.
        """
        try:
            return self._backward(method)
        except HypergradientNotFinite as error:
            if error.step is None:
                self.forward([method])
                self._backward(method, strict=True)  # raises, and knows the step
            raise

    def _backward(self, method: Method, strict: bool = False) -> BackwardPass:
        run, objective = self.run, self.run.objective
        if method not in self._recorders:
            self.forward([method])
        elif self._end is not None:
            run.state.copy_(self._end)
        recorder = self._recorders.pop(method)
        self.cost += method.cost(self._training) - 1.0
        objective.hvp = method.hvp
        started = time.perf_counter()
        objective.begin_products()
        try:
            adjoint = Adjoint(run, strict)
            poll = run.monitor.poll
            loss = objective.outer_gradient(self._valid, adjoint.weights, poll)
            run.monitor.begin("backward", method.backward_total(self._training))
            method.backward(run, recorder, adjoint)
            if objective.scales_initial_weights:
                objective.initialize(self._seed)
                objective.add_initial(adjoint.weights)
            hypergradient = objective.hypergradient()
        except HypergradientError:
            objective.end_products()
            raise
        finally:
            objective.restore_buffers(self._buffers)
        run.monitor.end()
        return BackwardPass(
            method=method,
            validation_loss=float(loss),
            hypergradient=hypergradient,
            products=adjoint.products,
            growth=adjoint.growth,
            seconds=time.perf_counter() - started,
        )


class Together:
    """Shows the path to several recorders."""

    def __init__(self, recorders: Sequence[TrajectoryRecorder]) -> None:
        self._recorders = recorders
        self.next_step = min((recorder.next_step for recorder in recorders), default=-1)

    def visit(self, step: int, run: TrainingRun) -> None:
        ahead = []
        for recorder in self._recorders:
            if recorder.next_step == step:
                recorder.visit(step, run)
            if recorder.next_step > step:
                ahead.append(recorder.next_step)
        self.next_step = min(ahead, default=-1)
