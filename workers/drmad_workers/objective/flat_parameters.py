"""The trainable parameters of a model as one flat vector, shape (P,), and its buffers.

A parameter is a view into the vector. Writing to the vector changes the model, and a training step
is a few fused operations on one vector.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from drmad_workers.devices import placed
from drmad_workers.errors import ProblemError
from drmad_workers.global_generators import restored_generators, seed_all
from drmad_workers.hyperparameters.base import Slot
from drmad_workers.objective.adopted_parameters import adopted_parameters
from drmad_workers.objective.buffers import Buffers

Parts = Sequence[Tensor | None]
"""One tensor per parameter, leaf or row-wise λ; None where nothing depends on it."""


class FlatParameters:
    """The weights of one replica, or of R replicas side by side, and the optimizer's memory.

    With one replica the model's parameters are views into `weights`. With R replicas the model
    keeps its own parameters, `weights` has shape (R, P), and a loss is called with `current`.

    Attributes:
        model: the user's model.
        state: w and the optimizer's memory, shape (1 + S, P) or (1 + S, R, P).
        weights: w, the first row of `state`.
        tensors: the leaves of autograd, one per parameter, which share memory with `weights`.
        current: the tensors at which a loss is taken: `tensors`, or those given to `move`.
        slots: the position of each parameter in the flat vector.
        buffers: the model's buffers.
        stochastic: whether a training loss draws random numbers (dropout).
    """

    def __init__(
        self,
        model: nn.Module,
        slots: Sequence[Slot],
        device: torch.device,
        dtype: torch.dtype,
        memory_rows: int,
        replicas: int | None = None,
    ) -> None:
        """`memory_rows` is S; `replicas` is R, None for one replica."""
        self.device = device
        self.dtype = dtype
        self.replicas = replicas
        self.stochastic = False
        self.model = model
        self._place()
        own = trainable(self.model)
        if not own:
            raise ProblemError("the model must have a parameter that requires a gradient", "model")
        given = torch.cat([p.detach().reshape(-1) for p in own])
        lead = () if replicas is None else (replicas,)
        self.state = given.new_zeros(1 + memory_rows, *lead, len(given))
        self.weights = self.state[0]
        self.weights.copy_(given)
        self.slots = slots
        self._sizes = [slot.stop - slot.start for slot in slots]
        self._shapes = [slot.shape for slot in slots]
        self._views = self.parts(self.weights)
        self.tensors: Sequence[Tensor] = own
        if replicas is not None:
            self.tensors = [part.requires_grad_() for part in self.parts(self.weights.detach())]
        self.current: Sequence[Tensor] = self.tensors
        self._own: Sequence[Tensor] = own
        self._places = places_of(self.model, own)
        self._given = given.cpu().clone()
        self.buffers = Buffers(self.model)
        self._given_buffers = self.buffers.save()
        trains = self.model.training
        self._modes = [(m, m.training or not trains) for m in self.model.modules()]

    def attach(self) -> None:
        """Makes the model's parameters views into `weights` (again), in training mode.

        With R replicas the model keeps its parameters.
        """
        if self.replicas is None:
            self._place()
            for parameter, view in zip(self._own, self._views, strict=True):
                parameter.data = view
        self.train()

    def restore_given(self) -> None:
        """Restores the weights and the buffers that the user's model came with."""
        with torch.no_grad():
            self.weights.copy_(self._given)
            self.buffers.restore(self._given_buffers)

    def draw(self, seed: int, initialize: Callable[[nn.Module], None] | None) -> None:
        """Restores the model as given and draws the w_0 of one replica under the seed.

        `initialize` draws in place; None calls `reset_parameters`. The draw uses the global
        generators, which the caller restores.
        """
        self.restore_given()
        with torch.no_grad():
            seed_all(seed)
            with adopted_parameters(self.model, self._places, self._own):
                (initialize or reset_parameters)(self.model)
            for parameter, view in zip(self._own, self._views, strict=True):
                if parameter.data_ptr() != view.data_ptr():
                    view.copy_(parameter)
                    parameter.data = view

    def _place(self) -> None:
        """Moves the model as `nn.Module.to` would, but keeps complex tensors complex."""
        self.model._apply(  # type: ignore[no-untyped-call]
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
        return [
            part.view(lead + shape)
            for part, shape in zip(
                torch.split(flat, self._sizes, dim=-1), self._shapes, strict=True
            )
        ]

    def join(self, parts: Parts, out: Tensor) -> None:
        """Writes one tensor per parameter into `out`, shape (..., P); None stands for zeros."""
        if self.replicas is None:
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
            else:
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


def reset_parameters(model: nn.Module) -> None:
    """Draws new weights with each module's own `reset_parameters`; frozen weights stay."""

    def reset(module: nn.Module) -> None:
        own = getattr(module, "reset_parameters", None) or getattr(
            module, "_reset_parameters", None
        )
        parameters = list(module.parameters())
        if own is None or (parameters and not any(p.requires_grad for p in parameters)):
            return
        frozen = [(p, p.detach().clone()) for p in parameters if not p.requires_grad]
        own()
        for parameter, value in frozen:
            parameter.copy_(value)

    model.apply(reset)
