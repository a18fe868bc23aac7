"""The products of many cotangents at one point of the trajectory: one for each query.

The gradient and its graph, which are the first half of a product, are taken once. vmap over the
cotangents takes the second half of several at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drmad_workers.objective.autograd.cuts import through_cuts
from drmad_workers.objective.autograd.streamed_derivatives import Use
from drmad_workers.objective.inner import Derivatives, InnerObjective, Linearization
from drmad_workers.objective.products.batched import products_along
from drmad_workers.objective.products.exact import exact_product
from drmad_workers.objective.products.product import Product
from drmad_workers.problem import Batch


@dataclass(frozen=True)
class ProductOfQueries:
    """Makes of a product that of N cotangents, shape (N, P), and N adjoints db, shape (N, Q).

    Its derivatives have a leading axis N.

    Attributes:
        row_bytes: the memory of the graph of the gradient, for each row of the batch.
        block_bytes: bounds the memory of the products that are taken at once.
    """

    row_bytes: float
    block_bytes: int

    def __call__(self, product: Product) -> Product:
        return self._exact if product is exact_product else _in_turn(product)

    def _exact(
        self,
        inner: InnerObjective,
        batch: Batch,
        cotangent: Tensor,
        prepare: Callable[[Tensor], None] | None = None,
        at: Linearization | None = None,
        carried: Tensor | None = None,
        times: int = 1,
        use: Use | None = None,
    ) -> Derivatives:
        if len(cotangent) == 1:
            alone = None if carried is None else carried[0]
            found = exact_product(inner, batch, cotangent[0], prepare, at, alone, times)
            return _stacked([found])
        begun = at or inner.linearize(batch)
        if prepare is not None:
            prepare(inner.flat_gradient(begun.gradients))
        outputs, directions = inner.paired(begun.gradients, cotangent)
        inputs = [*begun.inputs]
        update, totals = begun.carried, None
        if carried is not None:
            assert update is not None
            inputs += update.leaves
            totals = torch.stack([update.summed(row, times) for row in carried])
            after, _ = update.directions(totals[0])
            outputs += after
            of_each = [update.directions(-row)[1] for row in totals]
            directions += [torch.stack(column) for column in zip(*of_each, strict=True)]
        count = len(begun.inputs)
        if not outputs:
            return inner.split([None] * count)
        at_once = int(self.block_bytes / max(1.0, self.row_bytes * len(batch.index)))
        with through_cuts():
            parts = products_along(inner, outputs, inputs, directions, max(1, at_once))
        if update is None or totals is None or carried is None:
            return inner.split(parts[:count])
        flat = [
            update.flatten([None if part is None else part[row] for part in parts[count:]])
            for row in range(len(cotangent))
        ]
        by_carried = torch.stack(flat).add_(totals - carried)
        return inner.split(parts[:count])._replace(by_carried=by_carried)


def carried_product(
    inner: InnerObjective, batch: Batch, carried: Tensor, times: int
) -> Derivatives:
    """`InnerObjective.carried_product` of db, shape (Q,), or of N of them, shape (N, Q)."""
    if carried.ndim == 1:
        return inner.carried_product(batch, carried, times)
    return _stacked([inner.carried_product(batch, row, times) for row in carried])


def _in_turn(product: Product) -> Product:
    """A product of one cotangent after another, each of which takes the gradients again."""

    def of_queries(
        inner: InnerObjective,
        batch: Batch,
        cotangent: Tensor,
        prepare: Callable[[Tensor], None] | None = None,
        at: Linearization | None = None,
        carried: Tensor | None = None,
        times: int = 1,
        use: Use | None = None,
    ) -> Derivatives:
        if prepare is not None:
            with inner.parameters.same_noise():
                prepare(inner.flat_gradient(inner.first_derivatives(batch).by_parameters))
        found = []
        for number, row in enumerate(cotangent):
            own = None if carried is None else carried[number]
            with inner.parameters.same_noise():
                found.append(product(inner, batch, row, None, at, own, times))
        return _stacked(found)

    return of_queries


def _stacked(found: Sequence[Derivatives]) -> Derivatives:
    """The derivatives of N queries with a leading axis N."""

    def stack(column: Sequence[Tensor | None]) -> Tensor | None:
        present = [part for part in column if part is not None]
        return torch.stack(present) if present else None

    def stacks(columns: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
        return [stack(column) for column in zip(*columns, strict=True)]

    return Derivatives(
        stacks([each.by_parameters for each in found]),
        stacks([each.by_leaves for each in found]),
        stacks([each.by_rows for each in found]),
        stack([each.by_carried for each in found]),
    )
