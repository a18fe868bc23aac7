"""What training changes beside the weights: running statistics, averaged copies, counters.

These values are state like the weights. They lie behind the weights in the flat state vector, so
that every point of a trajectory contains them, and every backward step restores them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drmad_workers.errors import ProblemError
from drmad_workers.objective.parameters.held_values import HeldValues, Number, Place

MAX_STEPS = 1_000_000
"""The steps by which a counter may grow in a training run."""


@dataclass(frozen=True)
class CarriedValue:
    """One value: a buffer, a frozen parameter, or a number or a tensor that Python code holds.

    Attributes:
        place: the mapping that holds it.
        shape: its shape; () for a number.
        start, stop: its position among the carried values.
    """

    place: Place
    shape: torch.Size
    start: int
    stop: int

    @property
    def current(self) -> Tensor | Number:
        """The value that the model holds now."""
        return self.place.value

    @property
    def is_real(self) -> bool:
        """Whether it is a real number, or a tensor of them, which has derivatives."""
        current = self.current
        return (
            current.is_floating_point()
            if isinstance(current, Tensor)
            else (isinstance(current, float))
        )

    def hold(self, value: Tensor | Number) -> None:
        """Puts a value in its place."""
        self.place.holder[self.place.name] = value

    def put(self, value: Tensor) -> None:
        """Gives the model a value of the state, shape (size,)."""
        current = self.current
        if not isinstance(current, Tensor):
            number = float(value)
            exact = number if isinstance(current, float) else round(number)
            self.hold(type(current)(exact))
            return
        value = value.view(self.shape)
        values = value if current.is_floating_point() else value.round()
        if current.requires_grad or current.shape != self.shape:
            self.hold(values.to(current.dtype, copy=True))
        else:
            current.copy_(values)


class CarriedState:
    """The values that training changes, read from and written to the flat state vector.

    Attributes:
        values: the values in order.
        size: Q, the number of their entries.
    """

    def __init__(self, values: Sequence[CarriedValue] = ()) -> None:
        self.values = values
        self.size = values[-1].stop if values else 0

    def __bool__(self) -> bool:
        return self.size > 0

    @property
    def has_numbers(self) -> bool:
        """Whether a value is a number, which Python code changes."""
        return any(not isinstance(value.current, Tensor) for value in self.values)

    def require_exact(self, flat: Tensor) -> None:
        """Raises ProblemError if a whole number in `flat` may grow beyond those of its type."""
        most = 2.0 / torch.finfo(flat.dtype).eps - MAX_STEPS
        for value in self.values:
            largest = float(flat[value.start : value.stop].abs().max())
            if not value.is_real and largest > most:
                raise ProblemError(
                    f"whole numbers that training changes must stay below {most:.0f} in "
                    f"{flat.dtype}, and {value.place.path} is {largest:.0f}: start from a smaller "
                    "number, or use precision float64",
                    "training.precision",
                )

    def load(self, flat: Tensor) -> None:
        """Gives the model the values in `flat`, shape (Q,)."""
        with torch.no_grad():
            for value in self.values:
                value.put(flat[value.start : value.stop])

    def store(self, flat: Tensor) -> None:
        """Writes the model's values into `flat`, shape (Q,)."""
        for value in self.values:
            self.store_value(value, value.current, flat)

    def begin(self, flat: Tensor) -> CarriedPass:
        """Begins a forward pass whose carried values are those in `flat`, shape (Q,)."""
        return CarriedPass(self, flat)

    def store_value(self, value: CarriedValue, current: Tensor | Number, flat: Tensor) -> None:
        """Writes one value into its place in `flat`."""
        part = flat[value.start : value.stop]
        if not isinstance(current, Tensor):
            part.fill_(current)
            return
        if current.shape != value.shape:
            raise ProblemError(
                f"{value.place.path} must keep its shape in training, got {tuple(current.shape)} "
                f"after {tuple(value.shape)}: allocate it in its largest shape",
                "model",
            )
        part.copy_(current.detach().reshape(-1))


class CarriedPass:
    """A forward pass from carried values that can be differentiated.

    Attributes:
        given: the value of every carried tensor by the tensor's id, for DifferentiableForward.
        leaves: those that are leaves of autograd: all of floating point.
    """

    def __init__(self, carried: CarriedState, flat: Tensor) -> None:
        self._carried = carried
        self._held = [(v, v.current) for v in carried.values]
        self.given: dict[int, Tensor] = {}
        self.leaves: list[Tensor] = []
        self._moving: list[CarriedValue] = []
        for value, current in self._held:
            if not isinstance(current, Tensor):
                continue
            part = flat[value.start : value.stop].detach().view(value.shape)
            if current.is_floating_point():
                leaf = part.clone().requires_grad_()
                self.leaves.append(leaf)
                self._moving.append(value)
            else:
                leaf = part.round().to(current.dtype)
            self.given[id(current)] = leaf

    def written(self) -> dict[int, Tensor]:
        """The values that the model's own tensors have, by their ids, as constants."""
        return {id(held): held.detach().clone() for _, held in self._held if torch.is_tensor(held)}

    def end(self, found: Mapping[int, Tensor], flat: Tensor) -> list[Tensor]:
        """Ends the pass and gives the model its own tensors back.

        Args:
            found: the values after the pass, by the ids of `given`.
            flat: takes all values after the pass, shape (Q,).
        Returns:
            The values after the pass that correspond to `leaves`, with their graph.
        """
        after = []
        for value, held in self._held:
            current = value.current
            if isinstance(held, Tensor):
                current = found[id(held)] if current is held else current
                value.hold(held)
                if held.is_floating_point():
                    assert isinstance(current, Tensor)
                    after.append(current)
            self._carried.store_value(value, current, flat)
        return after

    def without_graph(self, after: Sequence[Tensor]) -> list[str]:
        """The names of the real values whose update has no derivative, such as Python's floats."""
        pairs = zip(self._moving, after, strict=True)
        cut_off = [value.place.path for value, part in pairs if not part.requires_grad]
        numbers = [value.place.path for value, held in self._held if isinstance(held, float)]
        return cut_off + numbers

    def flatten(self, parts: Sequence[Tensor | None], out: Tensor) -> None:
        """Writes one tensor per leaf into `out`, shape (Q,); None and the rest are zeros."""
        out.zero_()
        for value, part in zip(self._moving, parts, strict=True):
            if part is not None:
                out[value.start : value.stop].copy_(part.reshape(-1))

    def parts(self, flat: Tensor) -> list[Tensor]:
        """The parts of `flat`, shape (Q,), that correspond to `leaves`."""
        return [flat[v.start : v.stop].view(v.shape) for v in self._moving]


class ModelWatch:
    """Finds what forward passes change in a model beside the weights that are trained.

    Values in Python are new tensors in every pass where they are results; of them, only tensors
    that are written to in place count as changed.
    """

    def __init__(self, held: HeldValues, frozen: bool = True) -> None:
        """`frozen` includes the parameters that require no gradient."""
        self._held = held
        self._frozen = frozen
        self._before = {place.key: (value, _copy(value)) for place, value, _ in self._values()}
        self._places = [place for place, _, _ in self._values()]

    def changed(self) -> list[Place]:
        """The places whose value differs from that at the start; not those that are new."""
        found = []
        for place, value, in_python in self._values():
            held, before = self._before.get(place.key, (value, value))
            is_result = in_python and isinstance(value, Tensor) and value is not held
            if not is_result and not _is_same(before, value):
                found.append(place)
        return found

    def require_known(self, first: ModelWatch) -> None:
        """Raises ProblemError if a value that was not there for `first` changes."""
        for place in self.changed():
            if place.key not in first._before:
                raise ProblemError(
                    f"the model must have {place.path} before its first forward pass, because "
                    "training changes it, and the pass creates it: create it in __init__, or call "
                    "the model once in build()",
                    "model",
                )

    def as_carried(self) -> dict[int, Tensor]:
        """Copies of the tensors at the start by id; see DifferentiableForward."""
        pairs = self._before.values()
        return {id(held): before.clone() for held, before in pairs if torch.is_tensor(before)}

    def restore(self) -> None:
        """Gives the model the values at the start, in the tensors that it held."""
        with torch.no_grad():
            for place in self._places:
                held, before = self._before[place.key]
                place.holder[place.name] = held
                if not isinstance(held, Tensor) or not isinstance(before, Tensor):
                    continue
                if not _is_same(before, held):
                    held.copy_(before)

    def _values(self) -> list[tuple[Place, Tensor | Number, bool]]:
        of_model = self._held.tensors_of_model(self._frozen)
        in_python = self._held.values_in_python()
        return [(place, place.value, False) for place in of_model] + [
            (place, place.value, True) for place in in_python
        ]


def carried_state(given: CarriedState, changed: Sequence[Place]) -> CarriedState:
    """The carried state with further values."""
    values = list(given.values)
    known = {value.place.key for value in values}
    for place in changed:
        if place.key in known:
            continue
        known.add(place.key)
        current = place.value
        shape = current.shape if isinstance(current, Tensor) else torch.Size()
        start = values[-1].stop if values else 0
        values.append(CarriedValue(place, shape, start, start + shape.numel()))
    return CarriedState(values)


def _copy(value: Tensor | Number) -> Tensor | Number:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _is_same(before: Tensor | Number, value: Tensor | Number) -> bool:
    if isinstance(value, Tensor) and isinstance(before, Tensor):
        return value.shape == before.shape and torch.equal(value, before)
    return type(value) is type(before) and bool(value == before)
