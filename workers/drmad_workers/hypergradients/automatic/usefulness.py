"""What an approximate hypergradient is worth to another draw of weights and minibatches.

The next meta-iteration has other initial weights and other minibatches. Where training is rough,
the exact hypergradients of two draws have little in common, and the cosine to the exact one of the
same draw mostly says how well a method finds what the next draw does not share. What counts is the
cosine to the exact hypergradient of another draw, beside the one that the exact hypergradient
itself reaches, and whether a step along it lowers the loss of that draw once it is retrained.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from drmad_workers.hypergradients.agreement import cosine
from drmad_workers.hypergradients.backward_pass import BackwardPass
from drmad_workers.hypergradients.method import Method

ROUGH = 0.5
"""The cosine of the exact hypergradients of two draws below which another draw judges."""

MANY = 100
"""The fewest entries of a hyperparameter by which another draw judges: the cosine of two random
directions of n entries is about 1/√n."""


@dataclass(frozen=True)
class OtherDraw:
    """Another draw at the same hyperparameters.

    Attributes:
        forward: trains it, keeps what these methods need, and returns the validation loss.
        backward: differentiates it by one of these methods.
        retrained: its validation loss after the outer step that a hypergradient leads to; infinite
            where training diverges.
    """

    forward: Callable[[Sequence[Method]], float]
    backward: Callable[[Method], BackwardPass]
    retrained: Callable[[Mapping[str, Tensor]], float]


@dataclass(frozen=True)
class OuterLoop:
    """What a look at another draw has to know of the outer loop.

    Attributes:
        iterations: the number of meta-iterations of the job.
        step: hypergradient -> the hyperparameters after the outer step along it.
    """

    iterations: int
    step: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def usefulness(
    approximate: Sequence[Mapping[str, Tensor]], exact: Sequence[Mapping[str, Tensor]]
) -> float:
    """How well a method predicts the other one of two draws, relative to the exact method.

    For a rough hyperparameter it is (cos(a_1, e_2) + cos(a_2, e_1)) / 2 cos(e_1, e_2) with the
    hypergradients a of the method and e of the exact one, over the entries that both draws touched.
    For any other one, and where two draws share nothing that stands out of chance, it is the lower
    cosine to the exact hypergradient of the same draw. The lowest of all hyperparameters counts.
    """
    return min(
        _usefulness([each[name] for each in approximate], [each[name] for each in exact])
        for name in exact[0]
    )


def _usefulness(approximate: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    first, second = exact
    seen = (first != 0.0) & (second != 0.0)
    touched = int(seen.sum())
    own = min(cosine(a, e) for a, e in zip(approximate, exact, strict=True))
    if touched < MANY:
        return own
    shared = cosine(first[seen], second[seen])
    if not 3.0 / math.sqrt(touched) < shared < ROUGH:
        return own
    crossed = cosine(approximate[0][seen], second[seen]) + cosine(approximate[1][seen], first[seen])
    return crossed / 2.0 / shared
