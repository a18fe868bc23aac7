"""The agreement of two hypergradients, and of those of several draws."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """Agreement of an approximate hypergradient g with the exact one e.

    Each measure is computed per hyperparameter tensor, and the worst one is taken. Tensors of
    different kinds differ by orders of magnitude, so that measures over all of them would only
    reflect the largest.

    Attributes:
        cosine: <g, e> / |g| |e|; 1 if both are zero, 0 if one of them is.
        signs: the fraction of the coordinates with e != 0 in which g has the sign of e.
        length: |g| / |e|, the value furthest from 1.
    """

    cosine: float
    signs: float
    length: float


def agreement(actual: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> Agreement:
    """The agreement of two hypergradients, both by name and in the same shapes."""
    each = [_agreement(actual[name], exact[name]) for name in exact]
    return Agreement(
        cosine=min(one.cosine for one in each),
        signs=min(one.signs for one in each),
        length=max((one.length for one in each), key=_distance_from_one),
    )


def _agreement(actual: Tensor, exact: Tensor) -> Agreement:
    given, wanted = actual.flatten().double(), exact.flatten().double()
    lengths = (float(torch.linalg.vector_norm(given)), float(torch.linalg.vector_norm(wanted)))
    if 0.0 in lengths:
        same = float(lengths[0] == lengths[1])
        return Agreement(same, same, same)
    nonzero = wanted != 0.0
    return Agreement(
        # Rounding may leave the cosine of two equal vectors a little above 1.
        cosine=max(-1.0, min(1.0, float(given @ wanted) / lengths[0] / lengths[1])),
        signs=float((given.sign() == wanted.sign())[nonzero].double().mean()),
        length=lengths[0] / lengths[1],
    )


def cosine(one: Tensor, other: Tensor) -> float:
    """The cosine of two tensors of one shape; 1 if both are zero, 0 if one of them is."""
    return _agreement(one, other).cosine


def _distance_from_one(length: float) -> float:
    return math.inf if length == 0.0 else abs(math.log(length))


@dataclass(frozen=True)
class DrawAgreement:
    """The agreement of the exact hypergradients of several draws of weights and minibatches.

    It is the ceiling of every fidelity: no method finds in one draw what another draw does not
    share.

    Attributes:
        cosine: the mean cosine over all pairs of draws, of the hyperparameter where it is lowest.
        low, high: the smallest and the largest cosine of a pair, of the same hyperparameter.
        draws: the number of draws.
    """

    cosine: float
    low: float
    high: float
    draws: int

    def averaged(self, draws: int) -> float:
        """The expected cosine of two means over `draws` draws each, by Spearman and Brown.

        Each hypergradient is taken as a part that all draws share and a part of its own.
        """
        shared = max(0.0, self.cosine)
        return draws * shared / (1.0 + (draws - 1.0) * shared)


def draw_agreement(exact: Sequence[Mapping[str, Tensor]]) -> DrawAgreement:
    """The agreement of the exact hypergradients of at least two draws at the same λ.

    Entries that are 0 in one of two draws are left out of their cosine: a short run never saw
    these examples.
    """
    pairs = list(combinations(exact, 2))
    if not pairs:
        raise ValueError(f"at least two draws are needed, got {len(exact)}")
    cosines = {
        name: [_cosine_of_shared(one[name], other[name]) for one, other in pairs]
        for name in exact[0]
    }
    worst = min(cosines.values(), key=fmean)
    return DrawAgreement(fmean(worst), min(worst), max(worst), len(exact))


def _cosine_of_shared(one: Tensor, other: Tensor) -> float:
    """The cosine over the entries that are not 0 in either, if there are any."""
    shared = (one != 0.0) & (other != 0.0)
    if not bool(shared.any()):
        return cosine(one, other)
    return cosine(one[shared], other[shared])
