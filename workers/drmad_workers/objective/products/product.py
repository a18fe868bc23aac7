"""The signature of a product with second derivatives, and the products of the setting `hvp`."""

from collections.abc import Callable
from typing import Literal, Protocol

from torch import Tensor

from drmad_workers.objective.inner import Derivatives, InnerObjective, Linearization
from drmad_workers.objective.products.exact import exact_product
from drmad_workers.objective.products.finite_difference import finite_difference_product
from drmad_workers.problem import Batch

Hvp = Literal["exact", "finite_difference"]


class Product(Protocol):
    """∂/∂(w, λ) <∇_w L(w, λ), u>, without the part of the penalties."""

    def __call__(
        self,
        inner: InnerObjective,
        batch: Batch,
        cotangent: Tensor,
        prepare: Callable[[Tensor], None] | None = None,
        at: Linearization | None = None,
    ) -> Derivatives:
        """
        Args:
            inner: L.
            batch: the batch on which L is taken.
            cotangent: u, shape (..., P).
            prepare: called with ∇_w L, penalties included, shape (..., P); it writes u into
                `cotangent`, which is read afterwards.
            at: the gradient with its graph, if it is known; the product frees the graph.
        Returns:
            The derivatives, None where <∇_w L, u> does not depend on an input.
        """


PRODUCTS: dict[Hvp, Product] = {
    "exact": exact_product,
    "finite_difference": finite_difference_product,
}
