"""The signature of a product with second derivatives, and the products of the setting `hvp`."""

from collections.abc import Callable
from typing import Literal, Protocol

from torch import Tensor

from drmad_workers.objective.autograd.streamed_derivatives import Use
from drmad_workers.objective.inner import Derivatives, InnerObjective, Linearization
from drmad_workers.objective.products.exact import exact_product
from drmad_workers.objective.products.finite_difference import finite_difference_product
from drmad_workers.problem import Batch

Hvp = Literal["exact", "finite_difference"]


class Product(Protocol):
    """∂/∂(w, λ, b) of <∇_w L(w, λ, b), u> - <b'(w, λ, b), db>, without the penalties' part."""

    def __call__(
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
        """
        Args:
            inner: L.
            batch: the batch on which L is taken.
            cotangent: u, shape (..., P).
            prepare: called with ∇_w L, penalties included, shape (..., P); it writes u into
                `cotangent`, which is read afterwards.
            at: the gradient with its graph, if it is known; the product frees the graph.
            carried: db, the adjoint of the carried values b' after the step, shape (Q,); None if
                there are none, or if the product shall leave them out.
            times: the number of updates of b that the batch stands for.
            use: takes the derivative by each parameter; a product that returns them ignores it.
        Returns:
            The derivatives, None where the number does not depend on an input.
        """


PRODUCTS: dict[Hvp, Product] = {
    "exact": exact_product,
    "finite_difference": finite_difference_product,
}
