"""Checks of the derivatives of an objective, on one minibatch before any training."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from drmad_workers.application import loss_of, outputs_of
from drmad_workers.data.examples import Examples
from drmad_workers.errors import ProblemError
from drmad_workers.global_generators import GeneratorStates
from drmad_workers.objective.autograd.autograd_graph import graph_nodes
from drmad_workers.objective.autograd.differentiable_forward import DifferentiableForward
from drmad_workers.objective.autograd.streamed_derivatives import placeholder, streamed
from drmad_workers.objective.checks.repeatability import (
    described_loss,
    require_no_memory,
    require_repeatable,
)
from drmad_workers.objective.checks.side_effects import no_side_effects
from drmad_workers.objective.checks.undefined_derivatives import not_finite, require_finite_parts
from drmad_workers.objective.objective import Objective
from drmad_workers.objective.parameters.carried import ModelWatch, carried_state
from drmad_workers.objective.parameters.flat_parameters import Parts
from drmad_workers.objective.parameters.initial_weights import initialize
from drmad_workers.objective.products.exact import derivatives
from drmad_workers.objective.products.finite_difference import finite_difference_product
from drmad_workers.problem import Batch, described

logger = logging.getLogger(__name__)


def check_problem(
    objective: Objective, batch: Batch, valid: Examples, seed: int, first_step: bool = True
) -> None:
    """Computes every derivative once, and leaves the model as it was.

    The function also finds what the engine must know of the model: `parameters.stochastic`, whether
    a training loss draws random numbers; `parameters.carried`, what training changes beside the
    weights; `inner.is_symmetric`; and `losses.outer_needs_grad`, whether the held-out loss
    differentiates by itself.

    Args:
        objective: the objective, with its hyperparameters.
        batch: a minibatch of the training.
        valid: the validation examples.
        seed: the seed of the weights at which the derivatives are taken.
        first_step: whether the backward pass reaches these weights.
    Raises:
        ProblemError: a loss has the wrong shape, no gradient in the weights, or no second
            derivative; a derivative is not finite; a loss changes data, hyperparameters or weights,
            or differs between two calls; or neither the training nor the outer loss depends on a
            hyperparameter.
    """
    parameters = objective.parameters
    given = ModelWatch(parameters.held)
    initialize(objective, seed)
    drawn = ModelWatch(parameters.held)
    before = GeneratorStates.now(parameters.device)
    with no_side_effects(objective, batch, "inner_loss"):
        require_loss_shapes(objective, batch)
    changed = drawn.changed()
    again = ModelWatch(parameters.held)
    with no_side_effects(objective, batch, "inner_loss"):
        require_gradients(objective, batch)
    parameters.stochastic = not before.equal(GeneratorStates.now(parameters.device))
    again.require_known(drawn)
    changed += again.changed()
    given.restore()
    parameters.carry(carried_state(parameters.carried, changed))
    initialize(objective, seed)
    require_repeatable(objective, lambda: objective.inner.loss(batch), "inner_loss")
    objective.inner.is_opaque = not can_be_differentiated(objective, batch)
    objective.inner.is_suspect |= objective.inner.is_opaque
    objective.begin_products()
    if objective.product is finite_difference_product:
        by_leaves = objective.inner.first_derivatives(batch).by_leaves
    else:
        by_leaves = probe_second_derivatives(objective, batch, first_step)
    parameters.eval()
    first_valid = valid.chunk(0, len(batch.index))
    # The outer loss may depend on the weights through carried values alone: averages of them.
    begun = parameters.carried.begin(parameters.carried_flat)
    with (
        no_side_effects(objective, first_valid, "outer_loss"),
        DifferentiableForward(begun.given) as forward,
    ):
        loss = objective.losses.outer(first_valid)
        require_scalar(loss, "the outer loss", "problem.outer_loss")
    begun.end(forward.carried, torch.empty_like(parameters.carried_flat))
    require_finite(loss, "the outer loss", "problem.outer_loss")
    require_repeatable(objective, lambda: objective.losses.outer(first_valid), "outer_loss")
    objective.held_out.fit(
        len(first_valid.index), lambda: objective.losses.outer(first_valid), parameters.weights
    )
    objective.losses.outer_needs_grad = needs_grad(lambda: objective.losses.outer(first_valid))
    leaves = objective.values.leaves()
    direct = torch.autograd.grad(loss, leaves, allow_unused=True) if leaves else ()
    names = objective.values.leaf_names
    parameters.train()
    objective.end_products()
    require_no_memory(
        objective,
        {
            "inner_loss": lambda: objective.inner.loss(batch),
            "outer_loss": lambda: objective.losses.outer(first_valid),
        },
    )
    given.restore()
    for name, inner, outer in zip(names, by_leaves, direct, strict=True):
        if inner is None and outer is None:
            raise ProblemError(
                f"inner_loss or outer_loss must depend on the hyperparameter {name!r}, and neither "
                "does: use it in one of them, or do not tune it",
                f"hyperparameters.{name}",
            )


def can_be_differentiated(objective: Objective, batch: Batch) -> bool:
    """Whether the model's operations work in a DifferentiableForward, as they do outside of it."""
    inner, objective.inner.is_opaque = objective.inner, False
    try:
        with objective.parameters.same_noise():
            inner.linearize(batch)
    except Exception as error:
        inner.is_opaque = True
        try:
            with objective.parameters.same_noise():
                inner.linearize(batch)
        except Exception:
            return True  # the fault is not the mode's, and is reported where it belongs
        logger.warning(
            "the model is differentiated with what it cuts off as constants, because one of its "
            "operations fails otherwise: %s",
            error,
        )
        return False
    return True


def probe_second_derivatives(objective: Objective, batch: Batch, first_step: bool) -> Parts:
    """Takes the Jacobian J of the training gradient along two directions.

    Finds out whether J is symmetric (`is_symmetric`). It is not if training's gradient is no
    gradient of a function: the loss cuts values off, or a hook or a function of the user's changes
    the gradient. The function compares <Jᵀa, b> with <Jᵀb, a> for random a and b, and returns the
    derivatives of <∇_w L, a> by the leaves.

    Raises:
        ProblemError: the backward pass of some kernel cannot be differentiated; or a second
            derivative is not finite, and the backward pass needs it (`first_step`).
    """
    inner, dtype = objective.inner, objective.parameters.dtype
    try:
        one = probe(objective, batch, 0)
        other = probe(objective, batch, 1)
    except (RuntimeError, NotImplementedError) as error:
        if "second time" in str(error):
            raise kept_graph(objective) from error
        raise no_second_derivatives(str(error)) from error
    if first_step and not one.is_finite:
        what = "the second derivative of the training loss"
        raise not_finite(what, lambda: probe(objective, batch, 0))
    size = one.length * other.direction_length + other.length * one.direction_length
    rounding = 1e3 * torch.finfo(dtype).eps
    difference = abs(one.along_other - other.along_other)
    inner.is_symmetric = not inner.has_cuts and not difference > rounding * size
    return one.by_leaves


@dataclass
class Probe:
    """What is kept of Jᵀa for one of two random directions; b is the other.

    Attributes:
        by_leaves: the derivatives of <∇_w L, a> by the leaves.
        along_other: <Jᵀa, b>.
        length, direction_length: |Jᵀa| and |a|.
        is_finite: whether Jᵀa is.
    """

    by_leaves: Parts
    along_other: float
    length: float
    direction_length: float
    is_finite: bool


def probe(objective: Objective, batch: Batch, number: int) -> Probe:
    """Jᵀa for the random direction of this number, 0 or 1; holds no copy of it.

    Raises:
        RuntimeError, NotImplementedError: a kernel has no second derivative.
    """
    inner, parameters = objective.inner, objective.parameters
    slots = parameters.slots

    def direction(of: int, slot: int) -> Tensor:
        """One of the two directions, in the shape of a parameter."""
        draw = torch.Generator().manual_seed(of + 2 * slot)
        return torch.randn(slots[slot].shape, generator=draw, dtype=parameters.dtype)

    found = Probe([], 0.0, 0.0, 0.0, True)
    along, squares = [0.0] * len(slots), [0.0] * len(slots)

    def measure(slot: int, part: Tensor) -> Tensor:
        other = direction(1 - number, slot).to(part)
        along[slot] = float((part * other).sum())
        squares[slot] = float(part.square().sum())
        found.is_finite &= bool(part.isfinite().all())
        return placeholder(part)

    with parameters.same_noise():
        begun = inner.linearize(batch)
        require_differentiable(begun.gradients)
        inputs, gradients = begun.inputs, list(begun.gradients)
        del begun
        edges, directions = [], []
        for slot in range(len(slots)):
            drawn = direction(number, slot)
            found.direction_length += float(drawn.square().sum())
            gradient, gradients[slot] = gradients[slot], None  # its graph suffices
            if gradient is not None and gradient.requires_grad:
                edges.append(get_gradient_edge(gradient))
                directions.append(drawn.to(gradient))
        del gradient
        with streamed(parameters.tensors, measure):
            parts = derivatives(inputs, edges, directions)
    found.by_leaves = inner.split(parts).by_leaves
    found.along_other, found.length = sum(along), math.sqrt(sum(squares))
    found.direction_length = math.sqrt(found.direction_length)
    return found


def require_differentiable(gradients: Parts) -> None:
    """Raises ProblemError if the backward pass of some kernel cannot be differentiated.

    Autograd silently omits such a kernel where no requested derivative lies behind it. The function
    therefore searches the graph of the gradient for nodes that would raise if they were reached.
    """
    nodes = graph_nodes(*(gradient for gradient in gradients if gradient is not None))
    if any(node.name().rsplit("::", 1)[-1] in ("Error", "NotImplemented") for node in nodes):
        raise no_second_derivatives("one of its kernels is differentiable only once")


def kept_graph(objective: Objective) -> ProblemError:
    what, field = described_loss(objective, "inner_loss")
    return ProblemError(
        f"{what} must keep no tensor that it computes from call to call, other than in a tensor "
        "that was there before: the backward pass could not restore it (a memory of earlier "
        "outputs in a dict, for example); keep it in a buffer of the model, in its largest shape",
        field,
    )


def no_second_derivatives(message: str) -> ProblemError:
    return ProblemError(
        "the training loss must have second derivatives in the weights and in the "
        f"hyperparameters: {message}; use hvp finite_difference, which replaces each "
        "Hessian-vector product by two gradients",
        "hypergradient.hvp",
    )


def require_loss_shapes(objective: Objective, batch: Batch) -> None:
    """Raises ProblemError unless the losses have the shapes that `Problem` specifies."""
    problem = objective.problem
    if problem.inner_loss is None or problem.outer_loss is None:
        outputs = outputs_of(problem, objective.parameters.model, batch.content)
        losses: object = loss_of(problem.loss, outputs, batch.content)
        if not (isinstance(losses, Tensor) and losses.shape == (len(batch.index),)):
            got = tuple(losses.shape) if isinstance(losses, Tensor) else described(losses)
            raise ProblemError(
                f"loss must return one number per example, shape ({len(batch.index)},), got "
                f"{got}: use reduction='none', and average over all other axes",
                "problem.loss",
            )
    loss = objective.inner.loss(batch)
    require_scalar(loss, "inner_loss", "problem.inner_loss")
    require_finite(loss, "the training loss", "problem.inner_loss")


def require_scalar(loss: Tensor, what: str, field: str) -> None:
    if loss.shape != ():
        raise ProblemError(
            f"{what} must return one number, got shape {tuple(loss.shape)}: average or sum it",
            field,
        )
    if not loss.requires_grad:
        raise ProblemError(
            f"{what} must depend on the model's weights through autograd, got a constant: remove "
            "detach, no_grad, and conversions to NumPy or to Python numbers",
            field,
        )


def require_finite(loss: Tensor, what: str, field: str) -> None:
    if not bool(loss.isfinite()):
        raise ProblemError(
            f"{what} must be finite at the first weights, got {float(loss.detach())}: check it "
            "for a logarithm, a root or a division by zero, and the inputs for values that are not "
            "finite",
            field,
        )


def require_gradients(objective: Objective, batch: Batch) -> None:
    """Raises ProblemError unless the gradients of the training loss are dense and finite."""
    tensors = objective.parameters.tensors

    def gradients() -> Sequence[Tensor | None]:
        return torch.autograd.grad(objective.inner.loss(batch), tensors, allow_unused=True)

    try:
        found = gradients()
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise ProblemError(
            "activation checkpointing must not be reentrant, because the engine takes gradients "
            "by torch.autograd.grad: call torch.utils.checkpoint.checkpoint(..., "
            "use_reentrant=False)",
            "model",
        ) from error
    for slot, part in zip(objective.parameters.slots, found, strict=True):
        if part is not None and part.layout != torch.strided:
            raise ProblemError(
                f"gradients must be dense, and that of {slot.name!r} is sparse: leave out "
                "sparse=True, which changes no result",
                "model",
            )
    require_finite_parts(found, "the gradient of the training loss", gradients)


def needs_grad(loss: Callable[[], Tensor]) -> bool:
    """Whether the loss fails without gradients, as one that differentiates by the input does."""
    try:
        with torch.no_grad():
            loss()
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        return True
    return False
