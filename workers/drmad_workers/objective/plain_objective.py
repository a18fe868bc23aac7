"""The inner and the outer loss at the user's own module, differentiated by `loss.backward()`.

It is the definition against which the engine is checked. It has no flat vector, no traces, no
derivatives written out and no second derivatives of autograd: penalties and weights are what the
kinds define, and a gradient is what torch leaves in `parameter.grad`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from drmad_workers.application import full_loss_of, loss_of, outputs_of, targets_of
from drmad_workers.data.examples import Examples
from drmad_workers.hyperparameters.penalty import BoundPenalty
from drmad_workers.hyperparameters.sample_weight import BoundGroupWeight, BoundSampleWeight
from drmad_workers.objective.objective import Objective
from drmad_workers.objective.parameters.flat_parameters import trainable
from drmad_workers.problem import Batch

Values = Mapping[str, Tensor]
"""transform(λ) by name, for every tuned hyperparameter."""


class PlainObjective:
    """The losses of a problem as an ordinary training loop has them.

    Attributes:
        model: the user's own module.
    """

    def __init__(self, objective: Objective, dtype: torch.dtype | None = None) -> None:
        """`dtype` is that of all floating-point tensors; None takes the objective's own."""
        values = objective.values
        self.model = objective.parameters.model
        self._problem = objective.problem
        self._held_out = objective.held_out
        self._names = values
        self._slots = objective.parameters.slots
        self._dtype = dtype or objective.parameters.dtype
        self._penalties = [b for b in values.bound.values() if isinstance(b, BoundPenalty)]
        self._constants = {
            name: value.detach().to(self._dtype)
            for name, value in values.arguments.items()
            if name not in values.leaf_names
        }

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the engine trains, by name, as the module holds them now.

        Raises:
            AttributeError: the module no longer has a parameter of this name.
        """
        return {slot.name: self.model.get_parameter(slot.name) for slot in self._slots}

    def training_loss(self, values: Values, batch: Batch) -> Tensor:
        """The training loss with its penalties, shape ()."""
        names = self._names
        if names.training_data is not None:
            batch = batch.with_inputs(values[names.training_data][batch.index])
        if self._problem.inner_loss is not None:
            loss = full_loss_of(
                self._problem.inner_loss, self.model, self._arguments(values), batch
            )
        else:
            losses = self._losses(batch)
            if names.class_weight is not None:
                targets = targets_of(self._problem, batch.content)
                assert targets is not None
                losses = losses * values[names.class_weight][targets.clamp_min(0)]
            divisors = torch.ones_like(losses)
            for name, bound in names.bound.items():
                if isinstance(bound, BoundSampleWeight):
                    weights = values[name][batch.index]
                elif isinstance(bound, BoundGroupWeight):
                    weights = self._by_example(bound, values)[batch.index]
                else:
                    continue
                losses = losses * weights
                divisors = divisors * weights if bound.normalised else divisors
            loss = losses.sum() / divisors.sum()
        return loss.to(self._dtype) + self._penalty(values)

    def outer_loss(self, values: Values, examples: Examples) -> float:
        """The held-out loss; the model must be in evaluation mode.

        Gradients are enabled, because the loss may take derivatives by the inputs.
        """
        total = 0.0
        with torch.enable_grad():
            for batch in examples.chunks(self._held_out.rows):
                if self._problem.outer_loss is not None:
                    loss = full_loss_of(
                        self._problem.outer_loss, self.model, self._arguments(values), batch
                    )
                else:
                    loss = self._losses(batch).mean()
                total += float(loss.detach()) * len(batch.index) / examples.rows
        return total

    def gradient(self, values: Values, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """∂L/∂w, shape (P,), and ∂L/∂(transform λ) by name, on the batch."""
        leaves = {name: value.detach().clone().requires_grad_() for name, value in values.items()}
        parameters = list(self.parameters().values())
        for parameter in trainable(self.model):
            parameter.grad = None
        self.training_loss(leaves, batch).backward()  # type: ignore[no-untyped-call]
        by_weights = torch.cat([gradient_of(parameter).reshape(-1) for parameter in parameters])
        for parameter in trainable(self.model):
            parameter.grad = None
        return by_weights, {name: gradient_of(leaf) for name, leaf in leaves.items()}

    def weights(self) -> Tensor:
        """A copy of the weights as one vector, shape (P,)."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters().values()])

    def set_weights(self, weights: Tensor) -> None:
        """Writes a vector, shape (P,), into the parameters."""
        for parameter, slot in zip(self.parameters().values(), self._slots, strict=True):
            parameter.data.copy_(weights[slot.start : slot.stop].view(slot.shape))

    def _losses(self, batch: Batch) -> Tensor:
        """The problem's `loss` of every row, shape (rows,)."""
        outputs = outputs_of(self._problem, self.model, batch.content)
        return loss_of(self._problem.loss, outputs, batch.content)

    def _arguments(self, values: Values) -> dict[str, Tensor]:
        leaves = {name: values[name] for name in self._names.leaf_names}
        for name in leaves:
            bound = self._names.bound[name]
            if isinstance(bound, BoundGroupWeight):
                leaves[name] = self._by_example(bound, values)
        return leaves | self._constants

    def _by_example(self, bound: BoundGroupWeight, values: Values) -> Tensor:
        """The weight of every training example, 0 where it has no group."""
        by_group = values[bound.name]
        none = by_group.new_zeros(1)
        return torch.cat([by_group, none])[bound.group_of.to(by_group.device)]

    def _penalty(self, values: Values) -> Tensor:
        """Σ_j c_j |w_j|^k over all weights, with the coefficients c that each kind states."""
        weights = list(self.parameters().values())
        total = weights[0].new_zeros(())
        for penalty in self._penalties:
            coefficients = weights[0].new_zeros(self._slots[-1].stop)
            penalty.spread(values[penalty.name], coefficients)
            for slot, weight in zip(self._slots, weights, strict=True):
                own = coefficients[slot.start : slot.stop].view(slot.shape)
                total = total + (own * weight.abs() ** penalty.power).sum()
        return total


def gradient_of(leaf: Tensor) -> Tensor:
    """A copy of the accumulated gradient, dense; zeros where there is none."""
    if leaf.grad is None:
        return torch.zeros_like(leaf)
    dense = leaf.grad.to_dense() if leaf.grad.is_sparse else leaf.grad
    return dense.detach().clone()


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Restores a module on exit: submodules, parameters and buffers with their contents, modes,
    and attributes that were assigned.

    What code holds outside the module, or changes inside an attribute, is not seen.
    """
    modules = [(module, dict(module.__dict__)) for module in model.modules()]
    tables = [
        (table, dict(table))
        for _, attributes in modules
        for table in (attributes["_modules"], attributes["_parameters"], attributes["_buffers"])
    ]
    held = [*model.parameters(), *model.buffers()]
    kept = [(tensor, tensor.data, tensor.data.clone(), tensor.grad) for tensor in held]
    try:
        yield
    finally:
        for module, attributes in modules:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for table, entries in tables:
            table.clear()
            table.update(entries)
        for tensor, data, content, gradient in kept:
            tensor.data = data
            tensor.grad = gradient
            tensor.data.copy_(content)


@contextmanager
def borrowed(model: nn.Module, dtype: torch.dtype | None = None) -> Iterator[None]:
    """As `restored`; inside, parameters and buffers have memory of their own.

    `dtype` is their floating-point type inside; None keeps theirs.
    """
    with restored(model):
        for tensor in [*model.parameters(), *model.buffers()]:
            own = dtype if tensor.is_floating_point() else None
            tensor.data = tensor.data.to(own, copy=True)
        yield
