"""The agreement of two hypergradients."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

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


def _distance_from_one(length: float) -> float:
    return math.inf if length == 0.0 else abs(math.log(length))
