"""One hypergradient from those of several replicas, each coordinate over those that hold it."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from drmad_workers.errors import ProblemError

Aggregate = Literal["mean", "sign", "median"]

Held = Mapping[str, Tensor]
"""By name, for hyperparameters with one row per training example: positions of the rows that a
replica holds, shape (rows held,), int64. Of what is not named it holds all."""


def aggregate(
    hypergradients: Sequence[Mapping[str, Tensor]],
    how: Aggregate = "mean",
    held: Sequence[Held] | None = None,
) -> dict[str, Tensor]:
    """One hypergradient from those of the replicas, summed in the order given.

    "mean" averages; "sign" lets the replicas vote on each coordinate: sign(Σ_r sign(g_r));
    "median" takes the middle of each coordinate, the mean of both middles where they are even.
    A coordinate is aggregated over the replicas that hold it, and is zero where none does.

    Args:
        hypergradients: by name; a name that only some have is taken over those.
        held: of each replica; None where all hold everything.
    Raises:
        ProblemError: `how` is unknown, or there is nothing to aggregate.
    """
    if how not in get_args(Aggregate):
        allowed = ", ".join(get_args(Aggregate))
        raise ProblemError(f"aggregate must be one of {allowed}, got {how!r}", "replicas.aggregate")
    if not hypergradients:
        raise ProblemError("there must be at least one hypergradient to aggregate", "replicas")
    pairs = list(zip(hypergradients, held or [{}] * len(hypergradients), strict=True))
    names = dict.fromkeys(name for hypergradient in hypergradients for name in hypergradient)
    return {
        name: _aggregated([(g[name], rows.get(name)) for g, rows in pairs if name in g], how)
        for name in names
    }


def covered(held: Sequence[Held], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Which rows some replica holds: by name, shape (rows,), bool; no name where it is all.

    `shapes` are those of the hyperparameters.
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


def _aggregated(parts: Sequence[tuple[Tensor, Tensor | None]], how: Aggregate) -> Tensor:
    """Of one hyperparameter: gradients with the rows that count, None for all."""
    if all(rows is None for _, rows in parts):
        if how == "median":
            return _median([gradient for gradient, _ in parts], None)
        total = _sum([gradient.sign() if how == "sign" else gradient for gradient, _ in parts])
        return total.sign() if how == "sign" else total / len(parts)
    gradients, masks = [], []
    for gradient, rows in parts:
        mask = torch.ones(len(gradient), dtype=torch.bool)
        if rows is not None:
            mask.zero_()[rows] = True
        masks.append(mask.view(-1, *(1,) * (gradient.ndim - 1)))
        gradients.append(torch.where(masks[-1], gradient, 0.0))
    if how == "median":
        return _median(gradients, masks)
    if how == "sign":
        return _sum([gradient.sign() for gradient in gradients]).sign()
    holders = _sum([mask.to(gradients[0].dtype) for mask in masks])
    return _sum(gradients) / holders.clamp_min(1.0)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def _median(gradients: Sequence[Tensor], masks: Sequence[Tensor] | None) -> Tensor:
    """Finite gradients; those that do not count are sorted to the end, and left there."""
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
