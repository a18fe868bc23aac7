"""A regression on 100,000 rows of 50 columns whose law drifts: the older a row, the worse a guide.

The inputs of a row of age a in [0, 1] have the mean a, and the coefficients of its target turn
by half a circle from age 0 to age 1. 80,000 rows of all ages train; 10,000 of age 0
validate and as many test. The model has embeddings of ten categorical columns.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from drmad_workers import Problem, SampleWeight
from recipe_first_study.work import Recipe, train_plainly

TRAIN, HELD_OUT = 80_000, 10_000
NUMBERS, CATEGORIES, LEVELS, WIDTH = 40, 10, 20, 4
"""Columns of numbers and of categories, the levels of a category, the width of its embedding."""
SHIFT, NOISE = 1.0, 1.0
GROUPS = 20
"""The groups of rows of nearly the same age."""
DECAYS = (0.05, 20.0)


@dataclass(frozen=True)
class Rows:
    """Numbers, shape (rows, 40); categories, shape (rows, 10); targets and ages, shape (rows,)."""

    numbers: Tensor
    categories: Tensor
    targets: Tensor
    ages: Tensor


class Table:
    """drmad tunes one weight for each of 80,000 rows, or for each of 20 groups by age."""

    recipe = Recipe(0.003, 0.01, 400)
    space: Mapping[str, tuple[float, float]] = {
        "learning_rate": (3e-4, 3e-2),
        "weight_decay": (1e-3, 1.0),
        "age_decay": DECAYS,
    }
    kinds: Mapping[str, SampleWeight] = {
        "rows": SampleWeight(normalised=True),
        "groups": SampleWeight(normalised=True, per="group", column="age"),
    }
    batch_size = 200
    outer_rate = 0.3
    figures: Mapping[str, float] = {"test_loss": 1.0, "validation_loss": 1.0}

    def problem(self, seed: int) -> Problem:
        train, valid, test = (
            ((part.numbers, part.categories), part.targets) for part in data(seed)
        )
        return Problem(
            Regressor(),
            train,
            valid,
            test,
            loss=squared_error,
            columns={"age": groups(data(seed)[0].ages)},
            initialize="reset",
        )

    def start(self, seed: int, recipe: Recipe, tunes: str) -> Tensor | None:
        """λ for which the weights are those of the recipe; their common factor has no effect."""
        if recipe.age_decay == 0.0:
            return None
        ages = data(seed)[0].ages if tunes == "rows" else (torch.arange(GROUPS) + 0.5) / GROUPS
        return (0.5 * torch.exp(-recipe.age_decay * ages)).logit()

    def row_weights(self, seed: int, recipe: Recipe, values: Mapping[str, Tensor]) -> Tensor:
        ages = data(seed)[0].ages
        if not values:
            return torch.exp(-recipe.age_decay * ages)
        weights = values["sample_weight"].sigmoid()
        return weights if len(weights) == TRAIN else weights[groups(ages)]

    def trained(self, seed: int, recipe: Recipe, weights: Tensor, draw: int) -> dict[str, float]:
        train, valid, test = data(seed)
        torch.manual_seed(draw)
        model = Regressor()

        def losses(rows: Tensor) -> Tensor:
            outputs = model(train.numbers[rows], train.categories[rows])
            return squared_error(outputs, train.targets[rows])

        train_plainly(model, recipe, losses, weights, self.batch_size, draw)
        with torch.no_grad():
            return {
                f"{name}_loss": float(
                    squared_error(model(part.numbers, part.categories), part.targets).mean()
                )
                for name, part in (("validation", valid), ("test", test))
            }


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square()


class Regressor(nn.Module):
    """Embeddings of the categories beside the numbers, two hidden layers, one output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CATEGORIES * LEVELS, WIDTH)
        self.layers = nn.Sequential(
            nn.Linear(NUMBERS + CATEGORIES * WIDTH, 64),
            nn.ReLU(),
            nn.Linear(64, 32),
            nn.ReLU(),
            nn.Linear(32, 1),
        )

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        offsets = LEVELS * torch.arange(CATEGORIES)
        embedded = self.embedding(categories + offsets).flatten(1)
        outputs: Tensor = self.layers(torch.cat([numbers, embedded], dim=1))
        return outputs.squeeze(1)


@lru_cache(1)
def data(seed: int) -> tuple[Rows, Rows, Rows]:
    """The rows that train, validate and test."""
    generator = torch.Generator().manual_seed(500 + seed)
    law = Law(generator)
    ages = torch.rand(TRAIN, generator=generator)
    now = torch.zeros(HELD_OUT)
    return law.rows(ages, generator), law.rows(now, generator), law.rows(now, generator)


class Law:
    """Targets by inputs and age: linear, bent and categorical terms that all turn with age."""

    def __init__(self, generator: torch.Generator) -> None:
        def normal(*shape: int) -> Tensor:
            return torch.randn(2, *shape, generator=generator)

        self._linear = normal(NUMBERS) / NUMBERS**0.5
        self._bent = 2.0 * normal(NUMBERS, 4) / NUMBERS**0.5
        self._levels = normal(CATEGORIES, LEVELS) / CATEGORIES**0.5

    def rows(self, ages: Tensor, generator: torch.Generator) -> Rows:
        count = len(ages)
        numbers = torch.randn(count, NUMBERS, generator=generator) + SHIFT * ages[:, None]
        categories = torch.randint(LEVELS, (count, CATEGORIES), generator=generator)
        turn = math.pi * ages
        shares = turn.cos(), turn.sin()
        targets = NOISE * torch.randn(count, generator=generator)
        for share, linear, bent, levels in zip(
            shares, self._linear, self._bent, self._levels, strict=True
        ):
            by_level = levels[torch.arange(CATEGORIES), categories].sum(1)
            targets += share * (numbers @ linear + (numbers @ bent).tanh().sum(1) + by_level)
        return Rows(numbers, categories, targets, ages)


def groups(ages: Tensor) -> Tensor:
    """The group of every row by its age, shape (rows,)."""
    return (ages * GROUPS).long().clamp_max(GROUPS - 1)
