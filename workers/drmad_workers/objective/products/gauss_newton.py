"""The Gauss-Newton product, which leaves out the curvature of the model.

[Schraudolph2002] Fast curvature matrix-vector products for second-order gradient descent.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from drmad_workers import trees
from drmad_workers.errors import ProblemError
from drmad_workers.objective.autograd.streamed_derivatives import Use
from drmad_workers.objective.inner import Derivatives, InnerObjective, Linearization, joined
from drmad_workers.problem import Batch, Problem


def require_outputs(problem: Problem) -> None:
    """Raises ProblemError unless the training loss is a function of the model's outputs."""
    if problem.inner_loss is not None:
        raise ProblemError(
            "curvature gauss_newton needs the problem's `loss` of outputs and targets, and "
            "this problem has an inner_loss of its own: use curvature hessian",
            "hypergradient.curvature",
        )


def gauss_newton_product(
    inner: InnerObjective,
    batch: Batch,
    cotangent: Tensor,
    prepare: Callable[[Tensor], None] | None = None,
    at: Linearization | None = None,
    carried: Tensor | None = None,
    times: int = 1,
    use: Use | None = None,
) -> Derivatives:
    """The exact product with JᵀHJ u in place of the Hessian's; see Product. `at` must be None.

    With outputs z(w), J = ∂z/∂w, loss ℓ(z), g = ∂ℓ/∂z and H = ∂g/∂z [Schraudolph2002], ∇_w L = Jᵀg
    and <Jᵀg, u> = <g, J u>, which is differentiated by w through g alone. J u is the derivative of
    <Jᵀg, u> by g. The derivatives by λ are exact.
    """
    losses, parameters, values = inner.losses, inner.parameters, inner.values
    rows = values.differentiable_rows_of(batch.index)
    leaves, data = values.leaves(), values.training_data
    found_outputs = losses.outputs(batch if data is None else batch.with_inputs(rows[data]))
    outputs = [part for part in trees.tensors_of(found_outputs) if part.requires_grad]
    at_outputs = [part.detach().requires_grad_() for part in outputs]
    fresh = {id(part): at for part, at in zip(outputs, at_outputs, strict=True)}
    given = trees.mapped_tensors(lambda part: fresh.get(id(part), part), found_outputs)
    loss = losses.of_outputs(given, batch, values.arguments, rows)
    by_outputs = torch.autograd.grad(
        loss, at_outputs, create_graph=True, allow_unused=True, materialize_grads=True
    )
    pulled = [part.detach().requires_grad_() for part in by_outputs]
    gradients = torch.autograd.grad(
        outputs, parameters.tensors, pulled, create_graph=True, allow_unused=True
    )
    if prepare is not None:
        prepare(inner.flat_gradient(gradients))
    through = pulled if data is None else [*pulled, rows[data]]
    parts, directions = inner.paired(gradients, cotangent)
    pushed = torch.autograd.grad(
        parts, through, directions, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    count = len(outputs)
    along, by_data = pushed[:count], pushed[count:]
    curved = [number for number in range(count) if by_outputs[number].requires_grad]
    by_inputs = torch.autograd.grad(
        [by_outputs[number] for number in curved],
        [*at_outputs, *leaves, *rows.values()],
        [along[number] for number in curved],
        allow_unused=True,
        materialize_grads=True,
    )
    by_at, by_rest = by_inputs[:count], [*by_inputs[count:]]
    wanted = [*parameters.tensors] if data is None else [*parameters.tensors, rows[data]]
    by_wanted = torch.autograd.grad(outputs, wanted, by_at, allow_unused=True)
    by_leaves, by_rows = by_rest[: len(leaves)], by_rest[len(leaves) :]
    if data is not None:
        by_rows[values.row_names.index(data)] = by_data[0] + by_wanted[-1]
    found = Derivatives(by_wanted[: len(parameters.tensors)], by_leaves, by_rows)
    if carried is None:
        return found
    return joined(found, inner.carried_product(batch, carried, times))
