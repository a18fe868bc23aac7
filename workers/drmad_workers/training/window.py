"""A window: the part of a training that one run takes, from a state that an earlier part left."""

from dataclasses import dataclass

from torch import Tensor

from drmad_workers.objective.parameters.flat_parameters import Signature


@dataclass(frozen=True)
class Window:
    """Where a run begins in the training that it continues.

    Attributes:
        first: the number of steps of the training before the run. Its minibatches, the noise of its
            steps and the corrections of Adam follow those of these steps; the schedule of its
            settings must be that of its own steps.
        start: the state before the run, shape (1 + S, P + Q): weights, carried values, memory of
            the optimizer. None stands for the weights that the run finds, and no memory.
        signature: the signature of the model at the begin of the training, with which the one after
            the run is compared; None compares with the one before the run.
        verifies: whether the run compares traces in its last steps, and the signatures. A training
            in many short windows compares them in some of its windows, the last one included.
    """

    first: int = 0
    start: Tensor | None = None
    signature: Signature | None = None
    verifies: bool = True


WHOLE = Window()
"""The run is the whole training."""
