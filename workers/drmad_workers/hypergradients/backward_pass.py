"""One training run, and backward passes from its end by as many methods as are wanted."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from drmad_workers.data.examples import Examples
from drmad_workers.errors import HypergradientError, HypergradientNotFinite
from drmad_workers.hypergradients.method import Adjoint, Method
from drmad_workers.objective.objective import Objective
from drmad_workers.objective.parameters.initial_weights import add_initial, initialize, scales_of
from drmad_workers.objective.products.product import PRODUCTS
from drmad_workers.training.config import TrainingConfig
from drmad_workers.training.run import TrainingRun, TrajectoryRecorder


@dataclass(frozen=True)
class BackwardPass:
    """The result of one method on a training run.

    Attributes:
        method: the method.
        validation_loss: the outer loss at w_T.
        hypergradient: d validation_loss / dλ by name, on the CPU.
        products: the number of Hessian-vector products.
        growth: the largest |dw| of the pass, relative to the first; of all replicas.
        seconds: the wall-clock seconds, of all replicas together.
    """

    method: Method
    validation_loss: float
    hypergradient: dict[str, Tensor]
    products: int
    growth: float
    seconds: float


GoesOn = Callable[[Adjoint, dict[str, Tensor]], dict[str, Tensor]]
"""The adjoint at the begin of a run and the hypergradient of its steps -> that of more steps."""


@dataclass(frozen=True)
class ReplicaRun:
    """The training run of one replica, the seed of its w_0 and its validation examples.

    The seed has no part in a run that continues a training; see TrainingRun.window. `goes_on` takes
    the adjoint at the begin of such a run, and the hypergradient of its steps, to those before it.
    """

    run: TrainingRun
    weights_seed: int
    valid: Examples
    goes_on: GoesOn | None = None

    @property
    def objective(self) -> Objective:
        return self.run.objective

    def to_start(self) -> None:
        """Draws w_0 under the seed, or restores the state that an earlier run left."""
        if self.run.window.start is not None:
            self.run.to_start(self.run.window.start)
            return
        self.objective.inner.traced.begin()
        initialize(self.objective, self.weights_seed)


class DifferentiatedRun:
    """A training run from w_0, drawn under a seed, and the backward passes from w_T.

    R replicas train side by side in one run; one replica trains in its own. The objectives hold
    the hyperparameters. The forward pass serves one backward pass of every method that it was
    given; another method trains again.

    Attributes:
        replicas: the run of each replica, which holds the replica's w_T after `forward`.
        cost: the cost so far in plain training runs, by counting (see Method.cost).
    """

    def __init__(
        self, run: TrainingRun, replicas: Sequence[ReplicaRun], training: TrainingConfig
    ) -> None:
        """`run` trains all replicas; it is the run of the replica if there is one."""
        self.replicas = replicas
        self._run = run
        self._is_stacked = run is not replicas[0].run
        self._training = training
        self._recorders: dict[Method, TrajectoryRecorder] = {}
        self._end: Tensor | None = None
        self.cost = 0.0

    def forward(self, methods: Sequence[Method]) -> None:
        """Trains, and keeps of the trajectory what these methods need."""
        run = self._run
        self.cost += 1.0
        for number, replica in enumerate(self.replicas):
            if self._is_stacked:
                replica.objective.parameters.attach()
            replica.to_start()
            if self._is_stacked:
                run.state[0, number].copy_(replica.run.state[0])
        if run.window.start is None:
            run.state[1:].zero_()
            run.objective.inner.traced.begin()
        self._recorders = {method: self._recorder(method) for method in methods}
        run.forward(Together(list(self._recorders.values())))
        for method, recorder in islice(self._recorders.items(), 1):
            if not isinstance(recorder, RecorderPerReplica):
                run.expect(method.order(run, recorder))  # is read while the result is measured
        # A single backward pass may overwrite the end state, and needs no copy of it.
        self._end = run.state.clone() if len(methods) > 1 else None
        self._scatter()

    def recorder(self, method: Method) -> TrajectoryRecorder:
        """What the forward pass has kept for a method whose backward pass is still to come."""
        return self._recorders[method]

    def backward(self, method: Method) -> list[BackwardPass]:
        """The hypergradient of every replica by this method.

        Raises:
            HypergradientError, Stopped.
        """
        try:
            return self._backward(method)
        except HypergradientNotFinite as error:
            if error.step is None:
                self.forward([method])
                self._backward(method, strict=True)  # raises an error that names the step
            raise

    def _recorder(self, method: Method) -> TrajectoryRecorder:
        if self._is_stacked and not method.lockstep:
            return RecorderPerReplica(method, [replica.run for replica in self.replicas])
        return method.recorder(self._run)

    def _backward(self, method: Method, strict: bool = False) -> list[BackwardPass]:
        run, monitor = self._run, self._run.monitor
        if method not in self._recorders:
            self.forward([method])
        elif self._end is not None:
            run.state.copy_(self._end)
            self._scatter()
        recorder = self._recorders.pop(method)
        self.cost += method.cost(self._training) - 1.0
        objectives = [replica.objective for replica in self.replicas]
        started = time.perf_counter()
        try:
            losses, adjoints = [], []
            for replica in self.replicas:
                if self._is_stacked:
                    replica.objective.parameters.attach()
                replica.objective.product = PRODUCTS[method.hvp]
                replica.objective.begin_products()
                adjoint = Adjoint(replica.run, strict)
                losses.append(
                    replica.objective.outer_gradient(
                        replica.valid, adjoint.weights, adjoint.carried, monitor.poll
                    )
                )
                adjoints.append(adjoint)
            if self._is_stacked and method.lockstep:
                passed = self._backward_stacked(method, recorder, adjoints, strict)
            else:
                passed = self._backward_in_turn(method, recorder, adjoints)
            hypergradients = []
            for replica, adjoint in zip(self.replicas, adjoints, strict=True):
                if scales_of(replica.objective):
                    if self._is_stacked:
                        replica.objective.parameters.attach()
                    initialize(replica.objective, replica.weights_seed)
                    add_initial(replica.objective, adjoint.weights)
                hypergradient = replica.objective.hypergradient()
                if replica.goes_on is not None:
                    hypergradient = replica.goes_on(adjoint, hypergradient)
                hypergradients.append(hypergradient)
        except HypergradientError:
            for objective in objectives:
                objective.end_products()
            raise
        monitor.end()
        seconds = time.perf_counter() - started
        return [
            BackwardPass(
                method=method,
                validation_loss=float(loss),
                hypergradient=hypergradient,
                products=adjoint.products,
                growth=adjoint.growth,
                seconds=seconds,
            )
            for loss, hypergradient, adjoint in zip(losses, hypergradients, passed, strict=True)
        ]

    def _backward_in_turn(
        self, method: Method, recorder: TrajectoryRecorder, adjoints: Sequence[Adjoint]
    ) -> Sequence[Adjoint]:
        """The backward pass of one replica after another; returns the adjoints that they moved."""
        recorders = recorder.recorders if isinstance(recorder, RecorderPerReplica) else [recorder]
        total = method.backward_total(self._training)
        self._run.monitor.begin("backward", total * len(self.replicas))
        for replica, own, adjoint in zip(self.replicas, recorders, adjoints, strict=True):
            if self._is_stacked:
                replica.objective.parameters.attach()
            replica.run.expect(method.order(replica.run, own))
            method.backward(replica.run, own, adjoint)
        return adjoints

    def _backward_stacked(
        self,
        method: Method,
        recorder: TrajectoryRecorder,
        adjoints: Sequence[Adjoint],
        strict: bool,
    ) -> Sequence[Adjoint]:
        """One backward pass of all replicas side by side; returns its adjoint for each of them.

        The derivatives are added to those of each replica.
        """
        run = self._run
        run.objective.product = PRODUCTS[method.hvp]
        run.monitor.begin("backward", method.backward_total(self._training))
        run.objective.begin_products()
        try:
            together = Adjoint(run, strict)
            together.weights.copy_(torch.stack([adjoint.weights for adjoint in adjoints]))
            run.expect(method.order(run, recorder))
            method.backward(run, recorder, together)
            for number, (replica, adjoint) in enumerate(zip(self.replicas, adjoints, strict=True)):
                replica.objective.add_replica(number, run.objective)
                adjoint.weights.copy_(together.weights[number])
        finally:
            run.objective.end_products()
        return [together] * len(adjoints)

    def _scatter(self) -> None:
        """Copies the state and the records of the stacked run to the run of each replica."""
        if not self._is_stacked:
            return
        for number, replica in enumerate(self.replicas):
            replica.run.state.copy_(self._run.state[:, number])
            replica.run.losses.copy_(self._run.losses[:, number])
            replica.run.clipped.copy_(self._run.clipped[:, number])


class Together:
    """Shows the trajectory to several recorders."""

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


class RecorderPerReplica:
    """Shows each replica's part of the stacked trajectory to a recorder of its own."""

    def __init__(self, method: Method, runs: Sequence[TrainingRun]) -> None:
        self.recorders = [method.recorder(run) for run in runs]
        self._runs = runs
        self.next_step = self.recorders[0].next_step

    def visit(self, step: int, run: TrainingRun) -> None:
        for number, (recorder, own) in enumerate(zip(self.recorders, self._runs, strict=True)):
            own.state.copy_(run.state[:, number])
            recorder.visit(step, own)
        self.next_step = self.recorders[0].next_step
