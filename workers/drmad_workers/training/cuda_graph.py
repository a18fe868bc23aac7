"""A training step recorded once as a CUDA graph and replayed.

The kernels of a small model take less time than Python needs to launch them; a replay launches all
of a step at once.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from drmad_workers.problem import Batch
from drmad_workers.training.optimizers import MomentumSGD

if TYPE_CHECKING:
    from drmad_workers.training.run import TrainingRun

logger = logging.getLogger(__name__)

WARM_UP = 3
"""Steps before a recording, in which libraries choose their kernels and allocate."""

Launch = Callable[[], None]


def training_step(run: "TrainingRun") -> Callable[[int], Tensor]:
    """`run.take`, or the same recorded, where that can be done."""
    if not (run.objective.device.type == "cuda" and recordable(run)):
        return run.take
    try:
        return RecordedStep(run)
    except RuntimeError as error:  # such as a model that waits for the device
        logger.info("a training step is not recorded: %s", error)
        return run.take


def recordable(run: "TrainingRun") -> bool:
    """Whether every step launches the same kernels with the same numbers, minibatches aside.

    Not so where rates change from step to step (Adam's do), where each step draws random numbers
    under a seed of its own, and for several replicas side by side.
    """
    objective, dynamics = run.objective, run.dynamics
    return (
        isinstance(dynamics, MomentumSGD)
        and dynamics.constant
        and not objective.stochastic
        and not objective.autocast
        and objective.weights.ndim == 1
    )


class RecordedStep:
    """Takes a step of the run as `run.take` does, from buffers that stay where they are."""

    def __init__(
        self, run: "TrainingRun", record: Callable[[Launch], Launch] | None = None
    ) -> None:
        """`record` may run the step as often as it likes: the state is put back afterwards.

        Raises:
            RuntimeError: the step cannot be recorded.
        """
        self._run = run
        first = run.batch(0)
        self._batch = Batch(first.inputs.clone(), first.targets.clone(), first.index.clone())
        self._loss = run.losses.new_zeros(())
        state, buffers = run.state.clone(), run.objective.buffers()
        try:
            self._replay = (record or cuda_graph)(self._take)
        finally:
            run.state.copy_(state)
            run.objective.restore_buffers(buffers)

    def __call__(self, step: int) -> Tensor:
        """The loss stands in one place: it is good until the next step."""
        batch, here = self._run.batch(step), self._batch
        here.inputs.copy_(batch.inputs)
        here.targets.copy_(batch.targets)
        here.index.copy_(batch.index)
        self._replay()
        return self._loss

    def _take(self) -> None:
        run = self._run
        self._loss.copy_(run.objective.inner_gradient(self._batch, run.gradient))
        run.dynamics.step(0, run.state, run.gradient)


def cuda_graph(work: Launch) -> Launch:
    """What replays the kernels that `work` launches."""
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
