"""Combines the hypergradients of several replicas into one."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from drmad_client.spec.outer.aggregations import AggregationName
from drmad_workers.errors import ProblemError

Held = Mapping[str, Tensor]
"""The rows that a replica holds, by the name of a hyperparameter with one row per training example:
their positions, shape (rows held,), int64. A replica holds every row of a name that is missing."""


def aggregate(
    hypergradients: Sequence[Mapping[str, Tensor]],
    how: AggregationName = "mean",
    held: Sequence[Held] | None = None,
) -> dict[str, Tensor]:
    """Combines the hypergradients g_r of the replicas, coordinate by coordinate.

        "mean": (1/R) Σ_r g_r        "sign": sign(Σ_r sign(g_r))        "median": median_r(g_r)

    The sums run in the order given. Each coordinate is aggregated over the R replicas that hold
    it, and is zero if no replica does. AGGREGATIONS lists the functions by name.

    Args:
        hypergradients: by name; a name that only some replicas have is aggregated over those.
        held: the rows that each replica holds; None where all hold everything.
    Raises:
        ProblemError: `how` is unknown, or `hypergradients` is empty.
    """
    if how not in AGGREGATIONS:
        allowed = ", ".join(AGGREGATIONS)
        raise ProblemError(f"aggregate must be one of {allowed}, got {how!r}", "replicas.aggregate")
    if not hypergradients:
        raise ProblemError("aggregate needs at least one hypergradient, got none", "replicas")
    pairs = list(zip(hypergradients, held or [{}] * len(hypergradients), strict=True))
    names = dict.fromkeys(name for hypergradient in hypergradients for name in hypergradient)
    return {
        name: AGGREGATIONS[how](
            *_masked([(g[name], rows.get(name)) for g, rows in pairs if name in g])
        )
        for name in names
    }


def covered(held: Sequence[Held], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The rows that at least one replica holds: by name, shape (rows,), bool.

    A name is missing if every row is held. `shapes` are the shapes of the hyperparameters.
    """
    masks: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if all(name in one for one in held):
            mask = torch.zeros(shape[0], dtype=torch.bool)
            for one in held:
                mask[one[name]] = True
            if not bool(mask.all()):
                masks[name] = mask
    return masks


def _masked(
    parts: Sequence[tuple[Tensor, Tensor | None]],
) -> tuple[list[Tensor], list[Tensor] | None]:
    """The gradients of one hyperparameter, and where each counts; None where all count.

    Gradients are 0 where they do not count; a mask has shape (rows, 1, ...), bool.
    """
    if all(rows is None for _, rows in parts):
        return [gradient for gradient, _ in parts], None
    gradients, masks = [], []
    for gradient, rows in parts:
        mask = torch.ones(len(gradient), dtype=torch.bool)
        if rows is not None:
            mask.zero_()[rows] = True
        masks.append(mask.view(-1, *(1,) * (gradient.ndim - 1)))
        gradients.append(torch.where(masks[-1], gradient, 0.0))
    return gradients, masks


def mean(gradients: Sequence[Tensor], masks: Sequence[Tensor] | None) -> Tensor:
    """The mean of each coordinate."""
    if masks is None:
        return _sum(gradients) / len(gradients)
    holders = _sum([mask.to(gradients[0].dtype) for mask in masks])
    return _sum(gradients) / holders.clamp_min(1.0)


def sign(gradients: Sequence[Tensor], masks: Sequence[Tensor] | None) -> Tensor:
    """A vote of the replicas on each coordinate: sign(Σ_r sign(g_r))."""
    return _sum([gradient.sign() for gradient in gradients]).sign()


def median(gradients: Sequence[Tensor], masks: Sequence[Tensor] | None) -> Tensor:
    """The middle of each coordinate; the mean of both middles where their number is even.

    Gradients are finite: those that do not count are sorted to the end as infinities.
    """
    stack = torch.stack(list(gradients))
    counts = torch.full_like(stack[:1], len(gradients), dtype=torch.int64)
    if masks is not None:
        counting = torch.stack([mask.expand_as(gradients[0]) for mask in masks])
        stack = stack.masked_fill(~counting, torch.inf)
        counts = counting.sum(dim=0, keepdim=True)
    ordered = stack.sort(dim=0).values
    middles = [ordered.gather(0, at.clamp_min(0)) for at in ((counts - 1) // 2, counts // 2)]
    median = (middles[0] + middles[1]) / 2.0
    return torch.where(counts > 0, median, 0.0).squeeze(0)


AGGREGATIONS: dict[str, Callable[[Sequence[Tensor], Sequence[Tensor] | None], Tensor]] = {
    "mean": mean,
    "sign": sign,
    "median": median,
}


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total = total + tensor
    return total
