"""The derivatives by the weights of the examples, one row for each query."""

from torch import Tensor

from drmad_workers.objective.gradient_sums import GradientSums
from drmad_workers.objective.parameters.flat_parameters import Parts
from drmad_workers.objective.values import HyperparameterValues


class QuerySums(GradientSums):
    """dλ by name with a leading axis of N queries, between `begin` and `end`.

    Attributes:
        query: the query to which `add_leaves` adds.
    """

    def __init__(self, values: HyperparameterValues, queries: int) -> None:
        super().__init__(values)
        self._queries = queries
        self.query = 0

    def begin(self) -> None:
        self.totals = {
            name: value.new_zeros(self._queries, *value.shape)
            for name, value in self._values.by_name.items()
        }

    def add_leaves(self, by_leaves: Parts, share: float) -> None:
        for name, part in zip(self._values.leaf_names, by_leaves, strict=True):
            if part is not None:
                self.totals[name][self.query].add_(part, alpha=share)

    def zeros_per_row(self) -> Tensor | None:
        if not self._values.row_names:
            return None
        total = self.totals[self._values.row_names[0]]
        return total.new_zeros(total.shape[1])

    def multiply_rows(self, factor: Tensor) -> None:
        for name in self._values.row_names:
            self.totals[name].mul_(factor)

    def _subtract_rows(self, name: str, index: Tensor, part: Tensor) -> None:
        self.totals[name].index_add_(1, index, part, alpha=-1)
