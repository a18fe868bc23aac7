"""The mean of the losses of a batch under the weights of its examples."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from drmad_workers.application import targets_of
from drmad_workers.hyperparameters.sample_weight import BoundGroupWeight, BoundSampleWeight
from drmad_workers.objective.values import HyperparameterValues
from drmad_workers.problem import Batch, Problem

Named = Mapping[str, Tensor]


class Weighting:
    """Σ u_i n_i ℓ_i / Σ n_i over each minibatch, averaged over the minibatches of the batch.

    n_i is the product of the normalised weights of example i, u_i that of all others; see
    SampleWeight. Without normalised weights this is the mean of u_i ℓ_i.

    Attributes:
        batch_size: the rows of a minibatch.
    """

    def __init__(self, problem: Problem, values: HyperparameterValues, batch_size: int) -> None:
        self.batch_size = batch_size
        self._problem = problem
        self._values = values

    def mean(self, losses: Tensor, batch: Batch, arguments: Named, rows: Named) -> Tensor:
        """The weighted mean, shape ().

        Args:
            losses: the loss of every row, shape (rows,).
            batch: its rows, one minibatch or several joined.
            arguments, rows: see BatchLoss.
        """
        by_class, by_example = self._values.class_weight, self._values.sample_weight
        if by_class is not None:
            targets = targets_of(self._problem, batch.content)
            assert targets is not None  # or the weights would not have been bound
            losses = losses * self._values.weights_of(targets, arguments[by_class])
        divisors: Tensor | None = None
        for weights, normalised in self._of_groups(batch, arguments):
            losses = losses * weights
            divisors = joined(divisors, weights) if normalised else divisors
        if by_example is not None:
            weights = rows[by_example]
            bound = self._values.bound[by_example]
            if isinstance(bound, BoundSampleWeight) and bound.normalised:
                divisors = joined(divisors, weights)
            if divisors is None:
                return torch.dot(losses, weights) / len(losses)
            losses = losses * weights
        if divisors is None:
            return losses.mean()
        minibatch = self.batch_size if len(losses) % self.batch_size == 0 else len(losses)
        sums = losses.view(-1, minibatch).sum(1)
        return (sums / divisors.view(-1, minibatch).sum(1)).mean()

    def _of_groups(self, batch: Batch, arguments: Named) -> Iterator[tuple[Tensor, bool]]:
        """The weights of the rows by group, shape (rows,), and whether they are normalised."""
        for name, bound in self._values.bound.items():
            if isinstance(bound, BoundGroupWeight):
                yield (
                    self._values.by_example(name, arguments[name], batch.index),
                    bound.normalised,
                )


def joined(divisors: Tensor | None, weights: Tensor) -> Tensor:
    """The product of the normalised weights so far."""
    return weights if divisors is None else divisors * weights
