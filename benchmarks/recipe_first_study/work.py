"""What the two pieces of work have in common, and their training in plain PyTorch."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from drmad_workers import LinearSchedule, Problem, SampleWeight, TrainingConfig

WARM_UP, CLIP = 0.1, 1.0
"""The share of the steps over which the rate rises, and the norm that gradients are clipped to."""


@dataclass(frozen=True)
class Recipe:
    """What a search may choose.

    Attributes:
        age_decay: a training row of age a has the weight e^(-age_decay a); 0 weighs all alike.
    """

    learning_rate: float
    weight_decay: float
    steps: int
    age_decay: float = 0.0


class Work(Protocol):
    """A piece of work that somebody wants a good model for.

    Attributes:
        recipe: the recipe as given.
        space: the bounds of the numbers that the search chooses, by name.
        kinds: the hyperparameters that drmad tunes, by the name of an arm.
        outer_rate: the step of Adam on these, in logits.
        figures: the metrics of a training run that are reported, each with a factor.
    """

    recipe: Recipe
    space: Mapping[str, tuple[float, float]]
    kinds: Mapping[str, SampleWeight]
    batch_size: int
    outer_rate: float
    figures: Mapping[str, float]

    def problem(self, seed: int) -> Problem: ...

    def start(self, seed: int, recipe: Recipe, tunes: str) -> Tensor | None:
        """λ from which drmad starts with the weights of the recipe; None for those of the kind."""
        ...

    def row_weights(self, seed: int, recipe: Recipe, values: Mapping[str, Tensor]) -> Tensor:
        """The weight of every training row, shape (rows,); `values` are λ, empty if untuned."""
        ...

    def trained(self, seed: int, recipe: Recipe, weights: Tensor, draw: int) -> dict[str, float]:
        """The figures of a training run in plain PyTorch that knows nothing of drmad."""
        ...


def training_of(work: Work, recipe: Recipe) -> TrainingConfig:
    """The recipe as drmad is told it."""
    return TrainingConfig(
        "adamw",
        recipe.steps,
        work.batch_size,
        recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        clip_norm=CLIP,
        schedule=LinearSchedule(warmup=round(WARM_UP * recipe.steps)),
    )


def train_plainly(
    model: nn.Module,
    recipe: Recipe,
    losses: Callable[[Tensor], Tensor],
    weights: Tensor,
    batch_size: int,
    draw: int,
) -> None:
    """AdamW with warm-up, linear decay and clipping over weighted rows, as a researcher writes it.

    Args:
        losses: positions of rows, shape (batch,), to their losses, shape (batch,).
        weights: one for every training row; a minibatch divides by the sum of its own.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = get_linear_schedule_with_warmup(
        optimizer, round(WARM_UP * recipe.steps), recipe.steps
    )
    for rows in minibatches(len(weights), batch_size, recipe.steps, draw):
        optimizer.zero_grad()
        loss = (weights[rows] * losses(rows)).sum() / weights[rows].sum()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()


def minibatches(rows: int, batch_size: int, steps: int, draw: int) -> Iterator[Tensor]:
    """The positions of every step's rows: the data in a new order in every epoch."""
    generator = torch.Generator().manual_seed(draw)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(rows, generator=generator)
        yield order[:batch_size]
        order = order[batch_size:]
