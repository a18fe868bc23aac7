"""The state of a training run between two windows, which can be kept and restored bit for bit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from drmad_workers.errors import EngineError, ProblemError
from drmad_workers.objective.parameters.carried import carried_state
from drmad_workers.objective.parameters.flat_parameters import FlatParameters
from drmad_workers.online.earlier_windows import EarlierWindow

STATE_VERSION = 1
"""The version that `TrainingState.scalars` writes, and the only one that `restore` reads."""


@dataclass(frozen=True)
class TrainingState:
    """Everything that the next step of a training run depends on, beside the hyperparameters.

    Minibatches, noise and schedule are functions of the seed, the draw and the step.

    Attributes:
        step: the number of steps taken.
        draw: the draw of w_0 and of every minibatch.
        rows: the weights, and below them the memory of the optimizer, shape (1 + S, P).
        carried: the values that training changes beside the weights, shape (Q,).
        names: the names of these values and their number of entries, in order.
        earlier: the windows before, which a horizon beyond the window reads, the last one last.
            They stay in this process: `tensors` and `scalars` do not have them.
    """

    step: int
    draw: int
    rows: Tensor
    carried: Tensor
    names: Sequence[tuple[str, int]] = ()
    earlier: Sequence[EarlierWindow] = ()

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name."""
        return {"rows": self.rows, "carried": self.carried}

    def scalars(self) -> dict[str, Any]:
        """Everything except the tensors, serializable as JSON."""
        names = [list(name) for name in self.names]
        return {"version": STATE_VERSION, "step": self.step, "draw": self.draw, "names": names}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> "TrainingState":
        """The state whose `tensors()` and `scalars()` these are.

        Raises:
            EngineError: another release wrote the state, in a version that this one cannot read.
        """
        if scalars["version"] != STATE_VERSION:
            raise EngineError(
                f"the version of a training state must be {STATE_VERSION}, got "
                f"{scalars['version']}: resume the job with the release that wrote it"
            )
        names = tuple((str(name), int(size)) for name, size in scalars["names"])
        return cls(scalars["step"], scalars["draw"], tensors["rows"], tensors["carried"], names)


def taken(
    parameters: FlatParameters,
    flat: Tensor,
    step: int,
    draw: int,
    earlier: Sequence[EarlierWindow] = (),
) -> TrainingState:
    """The state after `step` steps as a value, from the flat state, shape (1 + S, P + Q)."""
    count, size = parameters.weights.shape[-1], parameters.carried.size
    rows, carried = flat[:, :count].clone(), flat[0, flat.shape[-1] - size :].clone()
    return TrainingState(step, draw, rows, carried, names_of(parameters), earlier)


def names_of(parameters: FlatParameters) -> tuple[tuple[str, int], ...]:
    """The names of the carried values and their number of entries, in order."""
    return tuple((v.place.path, v.stop - v.start) for v in parameters.carried.values)


def place(state: TrainingState, parameters: FlatParameters) -> None:
    """Writes the state into the parameters, which hold the model as it was drawn.

    A value that began to change after the state was taken keeps its value as drawn.

    Raises:
        ProblemError: the state belongs to another model or optimizer.
    """
    own = parameters.state[:, : parameters.weights.shape[-1]]
    names = names_of(parameters)[: len(state.names)]
    if state.rows.shape != own.shape or tuple(state.names) != names:
        raise ProblemError(
            "the training state must hold the weights, the optimizer's memory and the values that "
            f"training changes of this problem, shape {tuple(own.shape)} and {list(names)}, got "
            f"{tuple(state.rows.shape)} and {list(state.names)}: continue with the model and the "
            "optimizer that led to the state, or begin without it",
            "model",
        )
    own.copy_(state.rows)
    parameters.carried_flat[: len(state.carried)].copy_(state.carried)
    parameters.load_carried()


def carry_all(state: TrainingState, parameters: FlatParameters) -> None:
    """Has the parameters carry what the state carries; the model must be as it was given.

    A run finds late that training changes a value, and another process does not know it yet.
    """
    late = [name for name, _ in state.names[len(parameters.carried.values) :]]
    if late:
        held = [*parameters.held.tensors_of_model(frozen=True), *parameters.held.values_in_python()]
        known = {value.place.key for value in parameters.carried.values}
        places = {each.path: each for each in held if each.key not in known}
        found = [places[name] for name in late if name in places]
        parameters.carry(carried_state(parameters.carried, found))
