"""A model seen as a function of one flat weight vector.

The trainable parameters are views into `FlatModel.weights`, shape (P,): writing there moves the
model, and a step of training is a few fused operations on one vector.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.base import Slot


class FlatModel:
    """A model, its weights in one vector, and beneath them the memory of the optimizer.

    Attributes:
        state: w and the memory, shape (1 + S, P).
        weights: w, its first row.
        parameters: the trainable ones, views into `weights`.
        slots: where each of them lies.
        stochastic: whether the model draws random numbers in training (dropout).
    """

    def __init__(
        self,
        model: nn.Module,
        slots: Sequence[Slot],
        device: torch.device,
        dtype: torch.dtype,
        memory_rows: int,
    ) -> None:
        """`memory_rows` of the state are the optimizer's."""
        self.device = device
        self.dtype = dtype
        self.stochastic = False
        self.model: nn.Module = model.to(device=device, dtype=dtype)
        self.parameters: Sequence[Tensor] = trainable(self.model)
        if not self.parameters:
            raise ProblemError("the model must have a parameter that requires a gradient", "model")
        given = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        self.state = given.new_zeros(1 + memory_rows, len(given))
        self.weights = self.state[0]
        self.weights.copy_(given)
        self.slots = slots
        self._views = [self.weights[slot.start : slot.stop].view(slot.shape) for slot in slots]
        self._sizes = [slot.stop - slot.start for slot in slots]
        self._shapes = [slot.shape for slot in slots]
        self._places = places_of(self.model, self.parameters)
        self._given = self.weights.cpu().clone()
        self._given_buffers = self.buffers()
        trains = self.model.training
        self._modes = [(m, m.training or not trains) for m in self.model.modules()]

    def attach(self) -> None:
        """Makes the model's parameters views into `weights` (again), in training mode."""
        self.model.to(device=self.device, dtype=self.dtype)
        for parameter, view in zip(self.parameters, self._views, strict=True):
            parameter.data = view
        self.train()

    def restore_given(self) -> None:
        """Weights and buffers as the user handed the model over."""
        with torch.no_grad():
            self.weights.copy_(self._given)
            self.restore_buffers(self._given_buffers)

    def draw(self, seed: int, initialize: Callable[[nn.Module], None] | None) -> None:
        """The model as it was given, and then w_0 drawn on top of that under the seed.

        Draws from torch's global generator: the caller forks it.
        """
        self.restore_given()
        with torch.no_grad():
            torch.manual_seed(seed)
            (initialize or reset_parameters)(self.model)
            for parameter, view in zip(self.parameters, self._views, strict=True):
                if parameter.data_ptr() != view.data_ptr():
                    view.copy_(parameter)
                    parameter.data = view

    def buffers(self) -> list[Tensor]:
        """Copies of the model's buffers (running statistics)."""
        return [buffer.detach().clone() for buffer in self.model.buffers()]

    def restore_buffers(self, copies: Sequence[Tensor]) -> None:
        for buffer, copy in zip(self.model.buffers(), copies, strict=True):
            buffer.copy_(copy)

    def train(self) -> None:
        """Every module in the mode in which the user handed it over (the model in training)."""
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

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Inside, `linearize` may be given other weights than the current ones."""
        try:
            yield
        finally:
            for module, name, number in self._places:
                module._parameters[name] = self.parameters[number]  # type: ignore[assignment]

    def _move(self, weights: Tensor) -> Sequence[Tensor]:
        """Leaves of autograd's at these weights, put in the place of the model's parameters."""
        leaves = [part.requires_grad_() for part in self.parts(weights.detach())]
        for module, name, number in self._places:
            module._parameters[name] = leaves[number]  # type: ignore[assignment]
        return leaves

    def _same_noise(self) -> AbstractContextManager[None]:
        """What the model draws inside is drawn again after it."""
        devices = [self.device] if self.device.type == "cuda" else []
        return torch.random.fork_rng(devices, enabled=self.stochastic)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The elementary parameters: those that require a gradient, shared ones once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def places_of(model: nn.Module, parameters: Sequence[Tensor]) -> list[tuple[nn.Module, str, int]]:
    """Every module and attribute that holds one of the parameters, and its number."""
    numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
    return [
        (module, name, numbers[id(parameter)])
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if id(parameter) in numbers
    ]


def reset_parameters(model: nn.Module) -> None:
    """Draws fresh weights by every module's own `reset_parameters`; frozen ones stay."""

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
