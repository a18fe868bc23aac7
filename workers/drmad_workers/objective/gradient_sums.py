"""The derivatives by the hyperparameters, as a backward pass accumulates them."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from drmad_workers.distributed.workers import ALONE, Workers
from drmad_workers.errors import HypergradientNotFinite
from drmad_workers.hyperparameters.rates import BoundRate, RateRole
from drmad_workers.objective.parameters.flat_parameters import Parts
from drmad_workers.objective.values import HyperparameterValues


class TunedRate(NamedTuple):
    """A tuned rate, its values and the sum of its derivatives, each in the shape of λ."""

    bound: BoundRate
    values: Tensor
    total: Tensor


class GradientSums:
    """dλ by name, in the values of the hyperparameters, between `begin` and `end`.

    With R replicas every sum has a leading axis R.

    Attributes:
        totals: the sums by name, empty outside `begin` and `end`. Those of the row-wise λ hold the
            rows of this worker alone until `join_rows`.
        workers: those that share the training run.
    """

    def __init__(self, values: HyperparameterValues) -> None:
        self._values = values
        self.workers: Workers = ALONE
        self.totals: dict[str, Tensor] = {}
        self._rate_totals: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Sets all sums to zero."""
        spread = self._values.spread
        self.totals = {
            name: torch.zeros_like(spread(value)) for name, value in self._values.by_name.items()
        }
        for name, total in self._rate_totals.items():
            self.totals[name] = total.zero_()

    def end(self) -> None:
        self.totals = {}

    def tuned_rate(self, role: RateRole) -> TunedRate | None:
        """The hyperparameter that is the rate of this role; None if none is tuned.

        The sum of its derivatives is the same tensor from one `begin` to the next.
        """
        for name, bound in self._values.bound.items():
            if isinstance(bound, BoundRate) and bound.role == role:
                values = self._values.by_name[name]
                total = self._rate_totals.setdefault(name, torch.zeros_like(values))
                return TunedRate(bound, values, total)
        return None

    def subtract(self, index: Tensor, by_leaves: Parts, by_rows: Parts) -> None:
        """dλ -= the derivatives on a batch with examples at `index`, shape (rows,) or (R, rows)."""
        for name, part in zip(self._values.leaf_names, by_leaves, strict=True):
            if part is not None:
                self.totals[name].sub_(part)
        for name, part in zip(self._values.row_names, by_rows, strict=True):
            if part is not None:
                self._subtract_rows(name, index, part)

    def add_leaves(self, by_leaves: Parts, share: float) -> None:
        """dλ += share × the derivatives by the leaves."""
        for name, part in zip(self._values.leaf_names, by_leaves, strict=True):
            if part is not None:
                self.totals[name].add_(part, alpha=share)

    def join_rows(self) -> None:
        """Sums the derivatives by rows over the workers, of which each has those of its rows."""
        self.workers.sum(*(self.totals[name] for name in self._values.row_names))

    def add_flat(self, along: Tensor) -> None:
        """dλ += the derivatives by all values, joined in the order of `bound`, shape (D,)."""
        bounds = self._values.bound
        parts = torch.split(along, [bound.initial.numel() for bound in bounds.values()])
        for (name, bound), part in zip(bounds.items(), parts, strict=True):
            if name in self._values.row_names and self.workers.rank > 0:
                continue  # every worker knows them, and `join_rows` is a sum
            self.totals[name].add_(part.view(bound.shape))

    def add_replica(self, replica: int, stacked: "GradientSums") -> None:
        """dλ += what R replicas side by side accumulated for one replica."""
        for name, total in stacked.totals.items():
            self.totals[name].add_(total[replica])

    def zeros_per_row(self) -> Tensor | None:
        """Zeros of shape (training examples,), or (R, ..); None if no λ is row-wise."""
        if not self._values.row_names:
            return None
        name = self._values.row_names[0]
        lead = () if self._values.replicas is None else (self._values.replicas,)
        return self.totals[name].new_zeros(*lead, self._values.bound[name].shape[0])

    def multiply_rows(self, factor: Tensor) -> None:
        """dλ_i *= factor_i for each row-wise λ; the factors have the shape of `zeros_per_row`."""
        for name in self._values.row_names:
            total = self.totals[name]
            total.mul_(factor.view(factor.shape + (1,) * (total.ndim - factor.ndim)))

    def require_finite(self, step: int) -> None:
        """Raises HypergradientNotFinite if a sum at inner step `step` is not finite."""
        found = self.totals
        if self.workers.size > 1:  # or one worker alone would raise it
            found = {name: total.clone() for name, total in found.items()}
            self.workers.sum(*(found[name] for name in self._values.row_names))
        require_finite(found, step)

    def _subtract_rows(self, name: str, index: Tensor, part: Tensor) -> None:
        total = self.totals[name]
        if index.ndim == 2:
            replicas = torch.arange(len(total), device=index.device)[:, None]
            index = (index + replicas * total.shape[1]).reshape(-1)
            total, part = total.flatten(0, 1), part.flatten(0, 1)
        total.index_add_(0, index, part, alpha=-1)


def require_finite(gradient: Mapping[str, Tensor], step: int | None = None) -> None:
    """Raises HypergradientNotFinite for the first tensor with an entry that is not finite."""
    for name, part in gradient.items():
        wrong = int((~part.isfinite()).sum())
        if wrong:
            raise HypergradientNotFinite(name, wrong, part.numel(), step)
