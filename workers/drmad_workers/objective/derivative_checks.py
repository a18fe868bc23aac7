"""Checks of the derivatives of an objective, on one minibatch before any training."""

import torch
from torch import Tensor

from drmad_workers.data.examples import Examples
from drmad_workers.errors import ProblemError
from drmad_workers.objective.objective import Objective
from drmad_workers.objective.products.exact import exact_product
from drmad_workers.objective.products.finite_difference import finite_difference_product
from drmad_workers.problem import Batch


def check_problem(objective: Objective, batch: Batch, valid: Examples) -> None:
    """Computes every derivative once, and leaves the weights and buffers as they were.

    The function also sets `parameters.stochastic`: whether the model draws random numbers.

    Raises:
        ProblemError: a loss has the wrong shape, no gradient in the weights, or no second
            derivative; or neither the training nor the outer loss depends on a hyperparameter.
    """
    parameters = objective.parameters
    buffers = parameters.buffers.save()
    before = random_state(parameters.device)
    require_loss_shapes(objective, batch)
    parameters.stochastic = not torch.equal(before, random_state(parameters.device))
    objective.begin_products()
    if objective.product is finite_difference_product:
        by_leaves = objective.inner.first_derivatives(batch).by_leaves
    else:
        require_second_derivatives(objective, batch)
        ones = torch.ones_like(parameters.weights)
        by_leaves = exact_product(objective.inner, batch, ones).by_leaves
    first_valid = next(valid.chunks(min(valid.rows, len(batch.index))))
    parameters.eval()
    loss = objective.losses.outer(first_valid)
    require_scalar(loss, "the outer loss", "problem.outer_loss")
    require_finite(loss, "the outer loss", "problem.outer_loss")
    leaves = objective.values.leaves()
    direct = torch.autograd.grad(loss, leaves, allow_unused=True) if leaves else ()
    names = objective.values.leaf_names
    parameters.train()
    parameters.buffers.restore(buffers)
    objective.end_products()
    for name, inner, outer in zip(names, by_leaves, direct, strict=True):
        if inner is None and outer is None:
            raise ProblemError(
                f"inner_loss or outer_loss must depend on the hyperparameter {name!r}, and neither "
                "does: use it in one of them, or do not tune it",
                f"hyperparameters.{name}",
            )


def require_loss_shapes(objective: Objective, batch: Batch) -> None:
    """Raises ProblemError unless the losses have the shapes that `Problem` specifies."""
    problem = objective.problem
    if problem.inner_loss is None or problem.outer_loss is None:
        losses = problem.loss(objective.parameters.model(batch.inputs), batch.targets)
        if losses.shape != (len(batch.index),):
            raise ProblemError(
                f"loss must return one number per example, shape ({len(batch.index)},), got "
                f"{tuple(losses.shape)}: use reduction='none', and average over all other axes",
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


def require_second_derivatives(objective: Objective, batch: Batch) -> None:
    """Raises ProblemError if the backward pass of some kernel cannot be differentiated.

    Autograd silently omits such a kernel where no requested derivative lies behind it. The function
    therefore searches the graph of the gradient for nodes that would raise if they were reached.
    """
    loss = objective.inner.loss(batch)
    message: str | None = None
    cause: Exception | None = None
    try:
        gradients = torch.autograd.grad(
            loss, objective.parameters.tensors, create_graph=True, allow_unused=True
        )
        pending = [g.grad_fn for g in gradients if g is not None]
        seen = set(pending)
        while pending:
            node = pending.pop()
            if node is None:
                continue
            if node.name().rsplit("::", 1)[-1] in ("Error", "NotImplemented"):
                message = "one of its kernels is differentiable only once"
                break
            following = {parent for parent, _ in node.next_functions} - seen
            seen |= following
            pending.extend(following)
        if message is None:
            ones = torch.ones_like(objective.parameters.weights)
            exact_product(objective.inner, batch, ones)
    except (RuntimeError, NotImplementedError) as error:
        message, cause = str(error), error
    if message is not None:
        raise ProblemError(
            "the training loss must have second derivatives in the weights and in the "
            f"hyperparameters: {message}; use hvp finite_difference, which replaces each "
            "Hessian-vector product by two gradients",
            "hypergradient.hvp",
        ) from cause


def random_state(device: torch.device) -> Tensor:
    """The state of torch's random generators on the CPU and on the device."""
    if device.type == "cuda":
        return torch.cat([torch.get_rng_state(), torch.cuda.get_rng_state(device)])
    return torch.get_rng_state()
