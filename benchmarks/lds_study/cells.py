"""The training runs whose hypergradients are judged by retraining."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drmad_workers import ConstantSchedule, Problem, SampleWeight, TrainingConfig
from drmad_workers.catalog import build_problem
from drmad_workers.hyperparameters.base import Kind

STEPS, BATCH, TRAIN, VALID = 200, 50, 1000, 400


class Attention(nn.Module):
    """A layer of a transformer with one head, with norms before both of its parts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.mixed(self.before(tokens)).chunk(3, dim=-1)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        tokens = tokens + self.out(scores.softmax(-1) @ value)
        wide = nn.functional.gelu(self.wide(self.between(tokens)))
        found: Tensor = tokens + self.narrow(wide)
        return found


class Transformer(nn.Module):
    """The eight rows of a digit are its tokens."""

    def __init__(self, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.place = nn.Embedding(8, width)
        self.layers = nn.Sequential(*(Attention(width) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images.reshape(*images.shape[:-1], 8, 8)) + self.place.weight
        found: Tensor = self.head(self.norm(self.layers(tokens)).mean(dim=-2))
        return found


@dataclass(frozen=True)
class Cell:
    """A training run on digits, with a weight of one half for every example.

    Attributes:
        calm: whether the run belongs to those where a hypergradient must predict retraining.
    """

    name: str
    model: str
    optimizer: str
    learning_rate: float
    warmup: int = 0
    calm: bool = True

    def problem(self) -> Problem:
        data = {"name": "digits", "train": TRAIN, "valid": VALID, "test": 0}
        named = "cnn" if self.model == "cnn" else "mlp"
        problem = build_problem({"name": named}, data, initialize="reset")
        if self.model == "transformer":
            problem.model = Transformer()
        return problem

    def training(self) -> TrainingConfig:
        return TrainingConfig(
            self.optimizer,  # type: ignore[arg-type]
            STEPS,
            BATCH,
            self.learning_rate,
            0.9,
            schedule=ConstantSchedule(warmup=self.warmup),
        )

    def kinds(self) -> list[Kind]:
        return [SampleWeight()]

    def plain_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of torch that the engine's is."""
        if self.optimizer == "adamw":
            decay = self.training().weight_decay
            return torch.optim.AdamW(model.parameters(), self.learning_rate, weight_decay=decay)
        return torch.optim.SGD(model.parameters(), self.learning_rate, momentum=0.9)

    def factor(self) -> Callable[[int], float]:
        """The factor of the learning rate by step."""
        warmup = self.warmup
        return lambda step: step / warmup if step < warmup else 1.0


CELLS = (
    Cell("MLP, SGD .03", "mlp", "sgd", 0.03),
    Cell("MLP, AdamW .003", "mlp", "adamw", 0.003),
    Cell("conv net, SGD .02", "cnn", "sgd", 0.02),
    Cell("transformer, AdamW .0003, warm-up", "transformer", "adamw", 0.0003, warmup=40),
    Cell("transformer, AdamW .001, warm-up", "transformer", "adamw", 0.001, warmup=40),
    Cell("MLP, SGD .1", "mlp", "sgd", 0.1, calm=False),
    Cell("MLP, SGD .3", "mlp", "sgd", 0.3, calm=False),
)
