"""The trainable parameters of a model as one flat vector, shape (P,), and what it carries.

A parameter is a view into the vector. Writing to the vector changes the model, and a training step
is a few fused operations on one vector. Behind the weights lie the values that training changes
beside them, shape (Q,): running statistics, averaged copies, counters (see CarriedState).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from drmad_workers.devices import placed
from drmad_workers.errors import ProblemError, Restart
from drmad_workers.global_generators import restored_generators, seed_all
from drmad_workers.hyperparameters.base import Slot
from drmad_workers.objective.autograd.cuts import confine_hooks
from drmad_workers.objective.parameters.adopted_parameters import adopted_parameters
from drmad_workers.objective.parameters.carried import CarriedState, ModelWatch, carried_state
from drmad_workers.objective.parameters.held_values import HeldValues, Number, Place
from drmad_workers.objective.parameters.weight_draw import draw_weights, on_cpu
from drmad_workers.problem import Initialize

ALIGNMENT = 32
"""The carried values start at a multiple of it. No block of a quantized trajectory then holds both
weights and carried values, which differ in size."""

LARGE_BYTES = 2**23
"""From this size of the weights on (8 MiB, 2 million in float32) their memory counts for more than
the calls of torch. Gradients and products are then not traced, which would hold every value of a
function at once; they are taken parameter by parameter, and rates and penalties too."""

Mark = Number | tuple[int, int, bool]
Signature = Mapping[tuple[int, str], tuple[Place, Mark]]

Parts = Sequence[Tensor | None]
"""One tensor per parameter, leaf or row-wise λ; None where nothing depends on it."""


class FlatParameters:
    """The weights of one replica, or of R replicas side by side, and the optimizer's memory.

    With one replica the model's parameters are views into `weights`. With R replicas the model
    keeps its own parameters, `weights` has shape (R, P), and a loss is called with `current`.

    Attributes:
        model: the user's model.
        state: w and the optimizer's memory, shape (1 + S, P + Q) or (1 + S, R, P).
        weights: w, in the first row of `state`.
        carried: the values that training changes beside the weights.
        held: where the model and its losses hold values that a forward pass may change.
        carried_flat: these values in the first row of `state`, shape (Q,).
        tensors: the leaves of autograd, one per parameter, which share memory with `weights`.
        current: the tensors at which a loss is taken: `tensors`, or those given to `move`.
        slots: the position of each parameter in the flat vector.
        stochastic: whether a training loss draws random numbers (dropout).
        drawn_frozen: the ids of the frozen parameters that a function drew last.
    """

    def __init__(
        self,
        model: nn.Module,
        slots: Sequence[Slot],
        device: torch.device,
        dtype: torch.dtype,
        memory_rows: int,
        replicas: int | None = None,
        losses: Sequence[Callable[..., Any] | None] = (),
        modules: Sequence[nn.Module] = (),
    ) -> None:
        """
        Args:
            memory_rows: S.
            replicas: R, None for one replica.
            losses: those of the training, which may hold values.
            modules: losses and metrics that are modules, which are placed as the model is.
        """
        self.device = device
        self.dtype = dtype
        self.replicas = replicas
        self.stochastic = False
        self.drawn_frozen: set[int] = set()
        self.model = model
        self._modules = modules
        self._place()
        own = trainable(self.model)
        if not own:
            raise ProblemError("the model must have a parameter that requires a gradient", "model")
        self._given = torch.cat([p.detach().reshape(-1) for p in own])
        self.slots = slots
        self._sizes = [slot.stop - slot.start for slot in slots]
        self._shapes = [slot.shape for slot in slots]
        self._memory_rows = memory_rows
        self._allocate(self._given, CarriedState())
        self.tensors: Sequence[Tensor] = own
        if replicas is not None:
            self.tensors = [part.requires_grad_() for part in self.parts(self.weights.detach())]
        self.current: Sequence[Tensor] = self.tensors
        self._own: Sequence[Tensor] = own
        self._places = places_of(self.model, own)
        self._given = self._given.cpu()
        self.held = HeldValues(self.model, losses)
        self._given_model = ModelWatch(self.held, frozen=False)
        self._given_carried = self._given.new_zeros(0)
        confine_hooks(self.model)
        trains = self.model.training
        self._modes = [(m, m.training or not trains) for m in self.model.modules()]

    @property
    def are_large(self) -> bool:
        return is_large(self.weights)

    def attach(self) -> None:
        """Makes the model's parameters views into `weights` (again), in training mode.

        With R replicas the model keeps its parameters.
        """
        if self.replicas is None:
            self._place()
            for parameter, view in zip(self._own, self._views, strict=True):
                parameter.data = view
        self.train()

    def carry(self, carried: CarriedState) -> None:
        """Extends the state by values that training changes; the model must be as it was given."""
        weights = self.weights
        self._allocate(weights, carried)
        carried.store(self.carried_flat)
        self._given_carried = self.carried_flat.clone()
        self.attach()
        carried.require_exact(self.carried_flat)

    def signature(self) -> Signature:
        """A mark of every value that is not carried, which differs once the value is changed."""
        carried = {value.place.key for value in self.carried.values}
        of_model = [(place, False) for place in self.held.tensors_of_model(frozen=True)]
        in_python = [(place, True) for place in self.held.values_in_python()]
        return {
            place.key: (place, _mark(place, is_python))
            for place, is_python in of_model + in_python
            if place.key not in carried
        }

    def require_signature(self, before: Signature) -> None:
        """Raises Restart, which carries the values that have changed since `signature`."""
        late = [
            place
            for key, (place, mark) in self.signature().items()
            if key in before and is_changed(before[key][1], mark)
        ]
        if not late:
            return
        names = ", ".join(place.path for place in late)
        if any(isinstance(place.value, nn.Parameter) for place in late):
            raise ProblemError(
                "a parameter that requires no gradient must change in the first forward passes in "
                f"training or never, and {names} changed later: register a buffer instead",
                "model",
            )
        if self.replicas is not None:
            raise ProblemError(
                f"replicas can be computed as a batch only if training changes no buffers, and it "
                f"changed {names}: use batched off",
                "replicas.batched",
            )

        def carry() -> None:
            self.restore_given()
            self.carry(carried_state(self.carried, late))

        raise Restart(f"training changed {names}, which it had not changed before", carry)

    def load_carried(self) -> None:
        """Gives the model the carried values of the state."""
        if self.carried:
            self.carried.load(self.carried_flat)

    def store_carried(self) -> None:
        """Writes the model's carried values into the state."""
        if self.carried:
            self.carried.store(self.carried_flat)

    def restore_given(self) -> None:
        """Restores the weights, the buffers and the numbers that the user's model came with."""
        with torch.no_grad():
            self.weights.copy_(self._given)
            self._given_model.restore()
            self.carried.load(self._given_carried)

    def draw(self, seed: int, initialize: Initialize) -> None:
        """Restores the model as given and draws the w_0 of one replica under the seed.

        `initialize` is that of Problem. The draw uses the global generators, which the caller
        restores.
        """
        self.restore_given()
        with torch.no_grad():
            seed_all(seed)
            with adopted_parameters(self.model, self._places, self._own):
                frozen = self._frozen() if callable(initialize) else []
                versions = {p: p._version for p in frozen}
                with nullcontext() if self.device.type == "cpu" else on_cpu(self.model):
                    draw_weights(self.model, initialize)
                self.drawn_frozen = {id(p) for p, old in versions.items() if p._version != old}
            for parameter, view in zip(self._own, self._views, strict=True):
                if parameter.data_ptr() != view.data_ptr():
                    view.copy_(parameter)
                    parameter.data = view
        self.store_carried()

    def _frozen(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if not p.requires_grad]

    def _allocate(self, weights: Tensor, carried: CarriedState) -> None:
        """Allocates the state, with these weights and values of the given number.

        A run sets the optimizer's memory to zero; until then it takes no memory.
        """
        count = weights.shape[-1]
        lead = () if self.replicas is None else (self.replicas,)
        first = count + (-count % ALIGNMENT if carried else 0)
        self.state = weights.new_empty(1 + self._memory_rows, *lead, first + carried.size)
        self.state[0][..., count:].zero_()
        self.weights = self.state[0][..., :count]
        self.weights.copy_(weights)
        self.carried = carried
        self.carried_flat = self.state[0][..., first:]
        self._views = self.parts(self.weights)

    def _place(self) -> None:
        """Moves the modules as `nn.Module.to` would, but keeps complex tensors complex."""
        for module in (self.model, *self._modules):
            module._apply(  # type: ignore[no-untyped-call]
                lambda tensor: placed(tensor, self.device, self.dtype)
            )

    def train(self) -> None:
        """Puts every module into the mode that the user gave it, with the model in training."""
        for module, training in self._modes:
            module.training = training

    def eval(self) -> None:
        self.model.eval()

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat tensor, shape (..., P), in the shapes of the parameters."""
        lead = flat.shape[:-1]
        parts = zip(flat.split_with_sizes(self._sizes, -1), self._shapes, strict=True)
        return [part.view(lead + shape) for part, shape in parts]

    def join(self, parts: Parts, out: Tensor) -> None:
        """Writes one tensor per parameter into `out`, shape (..., P); None stands for zeros.

        Tensors that are views of `out` already (see `streamed`) stay as they are.
        """
        if self.replicas is None and not self.are_large:
            flat = [
                self.weights.new_zeros(size) if part is None else part.reshape(-1)
                for part, size in zip(parts, self._sizes, strict=True)
            ]
            torch.cat(flat, out=out)
            return
        # vmap returns the gradient of a matrix transposed: copying to a view takes one pass.
        for view, part in zip(self.parts(out), parts, strict=True):
            if part is None:
                view.zero_()
            elif part.data_ptr() != view.data_ptr():
                view.copy_(part)

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Restores the current weights on exit; inside, `move` may set others."""
        try:
            yield
        finally:
            self.current = self.tensors
            if self.replicas is None:
                self.put(self.tensors)

    def move(self, weights: Tensor) -> Sequence[Tensor]:
        """New leaves of autograd at `weights`, which losses use until `elsewhere` exits."""
        self.current = [part.requires_grad_() for part in self.parts(weights.detach())]
        if self.replicas is None:
            for leaf, parameter in zip(self.current, self._own, strict=True):
                for hook in (parameter._backward_hooks or {}).values():
                    leaf.register_hook(hook)  # type: ignore[no-untyped-call]
            self.put(self.current)
        return self.current

    def put(self, tensors: Sequence[Tensor]) -> None:
        """Puts the tensors in the place of the model's parameters."""
        for module, name, number in self._places:
            module._parameters[name] = tensors[number]  # type: ignore[assignment]

    def put_back(self) -> None:
        """Puts the model's own parameters in their place."""
        self.put(self._own)

    def same_noise(self) -> AbstractContextManager[None]:
        """Restores the random state on exit, so that the model draws the same numbers again."""
        return restored_generators(self.device) if self.stochastic else nullcontext()


def is_large(weights: Tensor) -> bool:
    """Whether their memory counts for more than the calls of torch; see LARGE_BYTES."""
    return weights.nbytes > LARGE_BYTES


def _mark(place: Place, is_python: bool) -> Mark:
    """A number itself; of a tensor its identity, the count of writes to it, and who holds it."""
    value = place.value
    return (id(value), value._version, is_python) if isinstance(value, Tensor) else value


def is_changed(before: Mark, after: Mark) -> bool:
    """Whether a value was changed; a tensor that Python code binds anew is a result."""
    if isinstance(before, tuple) and isinstance(after, tuple) and after[2]:
        return before[0] == after[0] and before[1] != after[1]
    return before != after


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The elementary parameters: those that require a gradient, shared ones once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def places_of(model: nn.Module, parameters: Sequence[Tensor]) -> list[tuple[nn.Module, str, int]]:
    """Each module and attribute that holds one of the parameters, and the parameter's number."""
    numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
    return [
        (module, name, numbers[id(parameter)])
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if id(parameter) in numbers
    ]


def require_trained(parameters: Mapping[str, Tensor], what: str) -> None:
    """Raises ProblemError if one of them requires no gradient any more, and makes it require it."""
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    for name in frozen:
        parameters[name].requires_grad_(True)
    if frozen:
        raise ProblemError(
            f"{what} must leave the parameters that are trained as they are, and {frozen[0]!r} no "
            "longer requires a gradient after it: freeze it before build() returns, or by "
            "training.groups (frozen: true); a part that is trained in some steps only is "
            "multiplied by zero in the others",
            "model",
        )
