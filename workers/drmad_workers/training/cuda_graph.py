"""A training step that is recorded once as a CUDA graph and replayed.

The kernels of a small model take less time than Python needs to launch them. A replay launches all
kernels of a step at once.
"""

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from drmad_workers import trees
from drmad_workers.objective.objective import Objective
from drmad_workers.problem import Batch
from drmad_workers.training.clipping import Clip
from drmad_workers.training.optimizers import InnerOptimizer, MomentumSGD

logger = logging.getLogger(__name__)

WARM_UP = 3
"""The number of steps before a recording, in which libraries choose kernels and allocate."""

Launch = Callable[[], None]


class StepwiseRun(Protocol):
    """A training run whose steps can be recorded; see TrainingRun."""

    objective: Objective
    dynamics: InnerOptimizer
    state: Tensor
    optimizer_state: Tensor
    gradient: Tensor
    losses: Tensor
    accumulate: int
    clip: Clip | None
    clipped: Tensor

    def batch(self, step: int) -> Batch: ...

    def take(self, step: int) -> Tensor: ...

    def gradient_on(self, batch: Batch) -> Tensor: ...


def training_step(run: StepwiseRun) -> Callable[[int], Tensor]:
    """`run.take`, or a recorded step if the run can be recorded."""
    if not (run.objective.parameters.device.type == "cuda" and recordable(run)):
        return run.take
    try:
        return RecordedStep(run)
    except RuntimeError as error:  # for example a model that waits for the device
        logger.info("a training step is not recorded: %s", error)
        return run.take


def recordable(run: StepwiseRun) -> bool:
    """Whether every step launches the same kernels with the same numbers, minibatches aside.

    Steps differ if rates change from step to step (as Adam's do), if each step draws random
    numbers under its own seed, or if the model counts in Python. Replicas side by side, and steps
    that accumulate gradients, are not recorded either.
    """
    objective, dynamics = run.objective, run.dynamics
    return (
        isinstance(dynamics, MomentumSGD)
        and dynamics.constant
        and not objective.parameters.stochastic
        and not objective.losses.autocast
        and run.accumulate == 1
        and objective.workers.size == 1
        and objective.parameters.weights.ndim == 1
        and not objective.parameters.carried.has_numbers
    )


class RecordedStep:
    """Takes a step of the run as `run.take` does, with all tensors at fixed addresses."""

    def __init__(self, run: StepwiseRun, record: Callable[[Launch], Launch] | None = None) -> None:
        """`record` may run the step any number of times; the state is restored afterwards.

        Raises:
            RuntimeError: the step cannot be recorded.
        """
        self._run = run
        first = run.batch(0)
        self._signature = trees.signature(first.content)
        self._batch = Batch(trees.mapped_tensors(Tensor.clone, first.content), first.index.clone())
        self._loss = run.losses.new_zeros(())
        self._clipped = run.clipped.new_zeros(())
        state = run.state.clone()
        try:
            self._replay = (record or cuda_graph)(self._take)
        finally:
            run.state.copy_(state)

    def __call__(self, step: int) -> Tensor:
        """The returned loss is overwritten by the next step."""
        batch, here = self._run.batch(step), self._batch
        if trees.signature(batch.content) != self._signature:  # padded to another length
            return self._run.take(step)
        for own, given in zip(here.tensors().values(), batch.tensors().values(), strict=True):
            own.copy_(given)
        self._replay()
        if self._run.clip is not None:
            self._run.clipped[step] = self._clipped
        return self._loss

    def _take(self) -> None:
        run = self._run
        self._loss.copy_(run.gradient_on(self._batch))
        if run.clip is not None:
            self._clipped.copy_(run.clip.apply(run.gradient))
        run.dynamics.step(0, run.optimizer_state, run.gradient)


def cuda_graph(work: Launch) -> Launch:
    """Records the kernels that `work` launches; the result replays them."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
