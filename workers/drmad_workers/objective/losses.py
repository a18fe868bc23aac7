"""The inner and the outer loss of a problem on one batch, without penalties."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from drmad_workers import trees
from drmad_workers.application import full_loss_of, loss_of, outputs_of
from drmad_workers.objective.parameters.flat_parameters import FlatParameters
from drmad_workers.objective.values import HyperparameterValues
from drmad_workers.objective.weighting import Named, Weighting
from drmad_workers.problem import Batch, Problem


class BatchLoss(Protocol):
    """An inner loss of a batch, shape () for one replica and (R,) for R replicas."""

    def __call__(self, batch: Batch, arguments: Named, rows: Named) -> Tensor:
        """
        Args:
            batch: the examples.
            arguments: the hyperparameters that the loss takes by name.
            rows: the rows of the row-wise λ that belong to the batch.
        """


class Losses:
    """The losses of one replica at the weights in the model.

    Attributes:
        outer_needs_grad: whether the outer loss takes gradients of its own, by the inputs for
            example, and must be computed with gradients enabled.
        rounding: the relative rounding of the arithmetic in which the losses are computed.
        share: the share of a minibatch's rows that this worker computes; its training losses are
            this share of their mean. 1 if the training run is not shared.
    """

    def __init__(
        self,
        problem: Problem,
        parameters: FlatParameters,
        values: HyperparameterValues,
        autocast: bool = False,
        batch_size: int = 1,
        rounding: float | None = None,
    ) -> None:
        """
        Args:
            autocast: evaluates the losses in bfloat16.
            batch_size: the rows of a minibatch.
            rounding: see the attribute; None takes that of the type of the tensors.
        """
        self.problem = problem
        self.autocast = autocast
        self.weighting = Weighting(problem, values, batch_size)
        self.outer_needs_grad = False
        self.rounding = rounding or torch.finfo(parameters.dtype).eps
        self.share = 1.0
        self._model = parameters.model
        self._device, self._dtype = parameters.device, parameters.dtype
        self._values = values

    def inner(self, batch: Batch, arguments: Named, rows: Named) -> Tensor:
        """The training loss of one replica; see BatchLoss."""
        if self._values.training_data is not None:
            batch = batch.with_inputs(rows[self._values.training_data])
        with self._precision():
            if self.problem.inner_loss is not None:
                arguments = self._values.for_users(arguments)
                loss = full_loss_of(self.problem.inner_loss, self._model, arguments, batch)
                return self._shared(loss.to(self._dtype))
        outputs = self.outputs(batch)
        return self.of_outputs(outputs, batch, arguments, rows)

    def outputs(self, batch: Batch) -> Any:
        with self._precision():
            return outputs_of(self.problem, self._model, batch.content)

    def of_outputs(self, outputs: Any, batch: Batch, arguments: Named, rows: Named) -> Tensor:
        """The mean of the problem's `loss` over the batch, weighted; see Weighting."""
        with self._precision():
            losses = loss_of(self.problem.loss, outputs, batch.content)
        return self._shared(self.weighting.mean(losses.to(self._dtype), batch, arguments, rows))

    def outer(self, batch: Batch) -> Tensor:
        """The held-out objective on the batch, shape ()."""
        with self._precision():
            if self.problem.outer_loss is not None:
                arguments = self._values.for_users(self._values.arguments)
                loss = full_loss_of(self.problem.outer_loss, self._model, arguments, batch)
                return loss.to(self._dtype)
            outputs = outputs_of(self.problem, self._model, batch.content)
            losses = loss_of(self.problem.loss, outputs, batch.content)
        return losses.to(self._dtype).mean()

    def _shared(self, loss: Tensor) -> Tensor:
        return loss if self.share == 1.0 else self.share * loss

    def _precision(self) -> AbstractContextManager[object]:
        if self.autocast:
            return torch.autocast(self._device.type, torch.bfloat16)
        return nullcontext()


class StackedLoss:
    """The inner loss of R replicas side by side, by vmap over the loss of one replica."""

    def __init__(
        self, losses: Losses, parameters: FlatParameters, values: HyperparameterValues
    ) -> None:
        """`parameters` and `values` are those of the R replicas."""
        self._losses = losses
        self._parameters = parameters
        self._values = values

    def __call__(self, batch: Batch, arguments: Named, rows: Named) -> Tensor:
        parameters = self._parameters
        leaves = {name: arguments[name] for name in self._values.leaf_names}

        def of_one(
            tensors: list[Tensor],
            leaves: dict[str, Tensor],
            rows: dict[str, Tensor],
            parts: list[Tensor],
            index: Tensor,
        ) -> Tensor:
            parameters.put(tensors)
            one = Batch(trees.with_tensors(batch.content, parts), index)
            return self._losses.inner(one, {**arguments, **leaves}, rows)

        try:
            losses: Tensor = torch.func.vmap(of_one)(
                list(parameters.current), leaves, dict(rows),
                trees.tensors_of(batch.content), batch.index,
            )  # fmt: skip
        finally:
            parameters.put_back()
        return losses
