"""The losses of a problem at the weights that stand in the model and at the hyperparameters λ.

Penalties have their derivatives written out; everything else goes through autograd.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.base import BoundHyperparameter, BoundTensor, Slot
from drmad_workers.hyperparameters.init_scale import BoundInitScale
from drmad_workers.hyperparameters.loss_weight import BoundClassWeight
from drmad_workers.hyperparameters.penalty import BoundPenalty
from drmad_workers.hyperparameters.sample_weight import BoundSampleWeight
from drmad_workers.hyperparameters.training_data import BoundTrainingData
from drmad_workers.objective.flat_parameters import FlatModel
from drmad_workers.objective.penalties import Penalties
from drmad_workers.objective.traces import Traced
from drmad_workers.problem import Batch, Problem

Parts = Sequence[Tensor | None]
"""One tensor per parameter, leaf or row-wise λ; None where nothing depends on it."""


class Losses(FlatModel):
    """Inner and outer loss as functions of the flat weights and of λ.

    Attributes:
        bound: the hyperparameters that are tuned, by name.
        values: transform(λ) by name.
    """

    def __init__(
        self,
        problem: Problem,
        bound: Mapping[str, BoundHyperparameter],
        slots: Sequence[Slot],
        device: torch.device,
        dtype: torch.dtype,
        memory_rows: int = 1,
        autocast: bool = False,
    ) -> None:
        """`memory_rows` of the state are the optimizer's; `autocast` takes losses in bfloat16."""
        super().__init__(problem.model, slots, device, dtype, memory_rows)
        self.problem = problem
        self.bound = dict(bound)
        self.autocast = autocast
        penalties = [b for b in bound.values() if isinstance(b, BoundPenalty)]
        self._penalties = [
            Penalties(power, of_power)
            for power in (1, 2)
            if (of_power := [b for b in penalties if b.power == power])
        ]
        self._sample_weight = self._only(BoundSampleWeight)
        self._class_weight = self._only(BoundClassWeight)
        self._training_data = self._only(BoundTrainingData)
        rows = (self._sample_weight, self._training_data)
        self._row_names = [name for name in rows if name is not None]
        self._leaf_names = [b.name for b in bound.values() if isinstance(b, BoundTensor)]
        self._constants = self._untuned()
        self.values: dict[str, Tensor] = {}
        self._named: dict[str, Tensor] = {}
        self.traced = Traced()
        self._has_buffers = next(problem.model.buffers(), None) is not None

    @property
    def is_plain(self) -> bool:
        """Whether a loss follows from weights, λ and batch alone, in one precision.

        Not so where the model draws random numbers or has buffers, in which it may keep something.
        """
        return not (self.stochastic or self.autocast or self._has_buffers)

    def set_hyperparameters(self, raw: Mapping[str, Tensor]) -> None:
        """Takes λ by name; every bound hyperparameter must be there in its shape."""
        if raw.keys() != self.bound.keys():
            raise ProblemError(
                f"values must be given for {sorted(self.bound)}, got {sorted(raw)}",
                "hyperparameters",
            )
        for name, bound in self.bound.items():
            if raw[name].shape != bound.shape:
                raise ProblemError(
                    f"{name} must have shape {tuple(bound.shape)}, got {tuple(raw[name].shape)}",
                    f"hyperparameters.{name}",
                )
            given = raw[name].detach().to(device=self.device, dtype=self.dtype)
            self.values[name] = bound.value(given)
        for penalty in self._penalties:
            penalty.set(self.values, self.weights.new_zeros(self.weights.shape[-1]))
        self._named = {name: self.values[name] for name in self._leaf_names} | self._constants

    def initialize(self, seed: int) -> None:
        """w_0 as the problem draws it under the seed, at the initial scales; see `draw`."""
        self.draw(seed, self.problem.initialize)
        with torch.no_grad():
            for scale in self._scales():
                scale.multiply(self.values[scale.name], self.weights)

    def inner_gradient(self, batch: Batch, out: Tensor) -> Tensor:
        """Writes ∇_w L(w, λ) on the batch into `out`, shape (P,); returns the loss, shape ().

        The loss returned leaves the penalties out; see `penalty`.
        """

        def derive() -> Parts:
            loss = self._inner_loss(batch, self._rows_of(batch))
            parts = torch.autograd.grad(total(loss), self.parameters, allow_unused=True)
            return loss.detach(), *parts

        loss, *parts = self._traced("gradient", derive, batch)
        assert loss is not None
        self._join(parts, out)
        return loss

    def inner_loss(self, batch: Batch) -> Tensor:
        """The training loss on the batch, with its graph; penalties left out."""
        return self._inner_loss(batch, self._rows_of(batch))

    def outer_loss(self, batch: Batch) -> Tensor:
        with self._precision():
            if self.problem.outer_loss is not None:
                return self.problem.outer_loss(self.model, self._named, batch).to(self.dtype)
            losses = self.problem.loss(self.model(batch.inputs), batch.targets)
        return losses.to(self.dtype).mean()

    def penalty(self) -> float:
        """The sum of all penalties at the current weights."""
        return sum(float(penalty.value(self.weights)) for penalty in self._penalties)

    def leaves(self) -> list[Tensor]:
        """The values that the losses take by name and are differentiated by."""
        return [self._named[name] for name in self._leaf_names]

    def first_derivatives(
        self, batch: Batch, create_graph: bool = False
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None], Sequence[Tensor | None]]:
        """∂L by weights, by `leaves`, by what the batch takes of each row-wise λ; no penalties.

        None where L does not depend on it.
        """
        rows = {name: part.requires_grad_() for name, part in self._rows_of(batch).items()}
        inputs = [*self.parameters, *self.leaves(), *rows.values()]
        loss = self._inner_loss(batch, rows)
        parts = torch.autograd.grad(loss, inputs, create_graph=create_graph, allow_unused=True)
        first, last = len(self.parameters), len(inputs) - len(rows)
        return parts[:first], parts[first:last], parts[last:]

    def all_values(self) -> dict[str, Tensor]:
        """Transformed values of every hyperparameter by name, tuned or not, on the CPU."""
        return {name: v.cpu() for name, v in (self.values | self._constants).items()}

    def _traced(
        self, what: str, function: Callable[[], Parts], batch: Batch, *others: Tensor
    ) -> Parts:
        """What `function` makes of the weights, of λ, the batch and the others; see Traced.

        It is called as it is on a GPU, where a training step is recorded as a whole.
        """
        if self.device.type != "cpu" or not self.is_plain:
            return function()
        key = (what, batch.inputs.shape, batch.targets.shape)
        rows = [self.values[name] for name in self._row_names]
        inputs = [*self.parameters, *self.leaves(), *rows]
        inputs += [batch.inputs, batch.targets, batch.index, *others]
        return self.traced(key, inputs, function)

    def _inner_loss(self, batch: Batch, rows: Mapping[str, Tensor]) -> Tensor:
        if self._training_data is not None:
            batch = Batch(rows[self._training_data], batch.targets, batch.index)
        with self._precision():
            if self.problem.inner_loss is not None:
                return self.problem.inner_loss(self.model, self._named, batch).to(self.dtype)
            outputs = self.model(batch.inputs)
        return self._loss_of(outputs, batch, rows)

    def _loss_of(self, outputs: Tensor, batch: Batch, rows: Mapping[str, Tensor]) -> Tensor:
        """The mean over the batch of the problem's `loss`, weighed as the hyperparameters say."""
        with self._precision():
            losses = self.problem.loss(outputs, batch.targets)
        losses = losses.to(self.dtype)
        if self._class_weight is not None:
            losses = losses * self._named[self._class_weight].index_select(0, batch.targets)
        if self._sample_weight is None:
            return losses.mean()
        return torch.dot(losses, rows[self._sample_weight]) / len(losses)

    def _rows_of(self, batch: Batch) -> dict[str, Tensor]:
        """What the batch takes of the hyperparameters with one entry per training example."""
        return {name: self.values[name].index_select(0, batch.index) for name in self._row_names}

    def _flat_gradient(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """∇_w L with its penalties, from the parts that autograd gave."""
        flat = torch.empty_like(self.weights)
        self._join([None if part is None else part.detach() for part in gradients], flat)
        return flat

    def _join(self, parts: Sequence[Tensor | None], out: Tensor) -> None:
        """Writes ∇_w L with its penalties into `out`, shape (P,), from what autograd gave."""
        flat = [
            self.weights.new_zeros(size) if part is None else part.reshape(-1)
            for part, size in zip(parts, self._sizes, strict=True)
        ]
        torch.cat(flat, out=out)
        for penalty in self._penalties:
            penalty.add_gradient(self.weights, out)

    def _precision(self) -> AbstractContextManager[object]:
        if self.autocast:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _scales(self) -> list[BoundInitScale]:
        return [b for b in self.bound.values() if isinstance(b, BoundInitScale)]

    def _only(self, kind: type[BoundHyperparameter]) -> str | None:
        """The name of the hyperparameter of this kind, of which there is one at most."""
        names = [bound.name for bound in self.bound.values() if type(bound) is kind]
        if len(names) > 1:
            raise ProblemError(
                f"there can be one {kind.what} only, got {', '.join(names)}",
                f"hyperparameters.{names[1]}",
            )
        return names[0] if names else None

    def _untuned(self) -> dict[str, Tensor]:
        """Values of the problem's own hyperparameters that nobody asked to tune."""
        untuned: dict[str, Tensor] = {}
        for name, stated in self.problem.hyperparameters.items():
            if name not in self.bound:
                init = stated.init.detach().to(device=self.device, dtype=self.dtype)
                bound = BoundTensor(name, init, stated.transform, None, None, [])
                untuned[name] = bound.value(init)
        return untuned


def total(loss: Tensor) -> Tensor:
    """One number to differentiate by: the sum over replicas, where there are several."""
    return loss if loss.ndim == 0 else loss.sum()
