"""The cells that train what people train: model, recipe, hyperparameter, length and rate."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from drmad_workers import (
    L2,
    CosineSchedule,
    LearningRate,
    ParameterGroup,
    Problem,
    SampleWeight,
    TrainingConfig,
    WeightDecay,
)
from drmad_workers.hyperparameters.base import Kind
from fidelity_study.recipe_problems import PROBLEMS

HARSHNESS = 10.0
"""The learning rate of a harsh cell in units of that of the mild one, as in the other cells."""

GROUPS = ("*bias|*norm*|*bn*", "*head*|layers.4*", "*")
"""Biases and scales of normalization; the last layer; everything else."""

_GROUPS = (ParameterGroup(GROUPS[0], weight_decay=0.0),)
_ADAMW = TrainingConfig(
    "adamw", batch_size=16, learning_rate=1e-3, betas=(0.9, 0.99), weight_decay=0.1,
    schedule=CosineSchedule(warmup=0.1), groups=_GROUPS, clip_norm=1.0,
)  # fmt: skip
RECIPES = {
    "causal": _ADAMW,
    "classifier": _ADAMW,
    "resnet": TrainingConfig(
        "sgd", batch_size=16, learning_rate=0.02, momentum=0.9, weight_decay=5e-4,
        schedule=CosineSchedule(),
    ),
    "lstm": TrainingConfig("adam", batch_size=16, learning_rate=1e-3),
    "table": TrainingConfig("adam", batch_size=32, learning_rate=1e-3, weight_decay=1e-4),
}  # fmt: skip
KINDS: dict[str, Callable[[], Kind]] = {
    "decay": lambda: WeightDecay(per="group", groups=GROUPS[1:]),
    "sample_weight": SampleWeight,
    "learning_rate": lambda: LearningRate(per="group", groups=GROUPS),
    "source": lambda: SampleWeight(per="source", normalised=True),
}
LENGTHS = (200, 500, 1000)


@dataclass(frozen=True)
class RecipeCell:
    """One training problem with the recipe that its model usually has."""

    model: str
    kind: str
    steps: int
    harsh: bool

    @property
    def name(self) -> str:
        return f"{self.kind} {self.model} {'harsh' if self.harsh else 'mild'} T={self.steps}"

    @property
    def chooses(self) -> bool:
        """Whether the rule of `auto` may be chosen by this cell; the others judge it.

        Every second pair of a model and a kind, in the order of the tables above.
        """
        return (list(RECIPES).index(self.model) + list(KINDS).index(self.kind)) % 2 == 0

    def training(self) -> TrainingConfig:
        recipe = RECIPES[self.model]
        rate = recipe.learning_rate * (HARSHNESS if self.harsh else 1.0)
        return replace(recipe, steps=self.steps, learning_rate=rate)

    def kinds(self) -> list[Kind]:
        if self.kind == "decay" and self.model in ("resnet", "table"):
            return [L2(per="layer")]
        return [KINDS[self.kind]()]

    def problem(self) -> Problem:
        return PROBLEMS[self.model]()


LEFT_OUT = {("causal", "sample_weight"), ("resnet", "source")}


def recipe_cells() -> list[RecipeCell]:
    """36 cells, the shortest first: each model with each kind, at one of the lengths."""
    found = []
    for i, model in enumerate(RECIPES):
        for j, kind in enumerate(KINDS):
            if (model, kind) not in LEFT_OUT:
                steps = LENGTHS[(i + j) % len(LENGTHS)]
                found += [RecipeCell(model, kind, steps, harsh) for harsh in (False, True)]
    return sorted(found, key=lambda cell: cell.steps)
