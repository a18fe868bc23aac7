"""Every exact method on drawn architectures, optimizers and recipes, against plain trainings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from drmad_workers import (
    L1,
    L2,
    ConstantSchedule,
    CosineSchedule,
    Forward,
    InitScale,
    LearningRate,
    LinearSchedule,
    LossWeight,
    Method,
    Momentum,
    Problem,
    Replay,
    Reversible,
    SampleWeight,
    Stored,
    TrainingConfig,
    TrainingData,
    WeightDecay,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.objective.autograd import traces
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.verdict import STEP, faults, require_none, tuner_of

ROWS, HELD_OUT, FEATURES, WIDTH, CLASSES = 12, 9, 4, 4, 3
MAX_TANGENTS = 24
"""Entries of all hyperparameters up to which forward mode takes part."""
ADAM_STEP = 1e-6
"""The step of the differences for Adam: where a moment is small, its quotient bends sharply, and at
1e-5 the truncation error exceeds the tolerance."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda _: nn.Identity(),
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
}
PICTURE_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda _: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(2, channels),
    "instance": lambda channels: nn.InstanceNorm2d(channels, track_running_stats=True),
}


class Recurrent(nn.Module):
    """An LSTM over the features of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(1, WIDTH, batch_first=True)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden, _ = self.cells(inputs[:, :, None])
        outputs: Tensor = self.last(hidden[:, -1])
        return outputs


class Block(nn.Module):
    """A transformer block over the features of a row, with attention written out."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(1, WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.one, self.other = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(dropout))
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.embed(inputs[:, :, None])
        query, key, value = self.attention(self.one(hidden)).chunk(3, -1)
        hidden = hidden + (query @ key.mT / WIDTH**0.5).softmax(-1) @ value
        hidden = hidden + self.inner(self.other(hidden))
        outputs: Tensor = self.last(hidden.mean(1))
        return outputs


@dataclass(frozen=True)
class Architecture:
    """What a model is built from.

    Attributes:
        kind: "perceptron", "shared" (one layer twice), "pictures", "recurrent" or "block".
        depth: the hidden layers of a perceptron.
        activation, norm: see ACTIVATIONS, NORMS and PICTURE_NORMS.
        dropout: the share that is left out.
        weight_norm: whether the first layer of a perceptron or for pictures has it.
        frozen: whether the first parameter is not trained.
    """

    kind: str
    depth: int
    activation: str
    norm: str
    dropout: float
    weight_norm: bool
    frozen: bool

    def build(self) -> nn.Module:
        model = self._layers()
        if self.frozen:
            next(model.parameters()).requires_grad_(False)
        return model

    def _layers(self) -> nn.Module:
        activation, drop = ACTIVATIONS[self.activation], nn.Dropout(self.dropout)
        if self.kind == "recurrent":
            return Recurrent()
        if self.kind == "block":
            return Block(self.dropout)
        if self.kind == "shared":
            layer = nn.Linear(FEATURES, FEATURES)
            last = nn.Linear(FEATURES, CLASSES)
            return nn.Sequential(layer, activation(), layer, activation(), drop, last)
        if self.kind == "pictures":
            return nn.Sequential(
                nn.Unflatten(1, (1, 2, 2)),
                self._first(nn.Conv2d(1, WIDTH, 2, padding=1)),
                PICTURE_NORMS[self.norm](WIDTH),
                activation(),
                nn.Conv2d(WIDTH, 2, 2, groups=2),
                nn.Flatten(),
                drop,
                nn.Linear(8, CLASSES),
            )
        layers: list[nn.Module] = []
        for one, other in pairwise([FEATURES, *[WIDTH] * self.depth]):
            linear: nn.Module = nn.Linear(one, other)
            layers += [
                linear if layers else self._first(linear),
                NORMS[self.norm](other),
                activation(),
                drop,
            ]
        return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))

    def _first(self, layer: nn.Module) -> nn.Module:
        return nn.utils.parametrizations.weight_norm(layer) if self.weight_norm else layer


ARCHITECTURES = ("perceptron", "shared", "pictures", "recurrent", "block")


@st.composite
def architectures(draw: st.DrawFn, kind: str) -> Architecture:
    norms = PICTURE_NORMS if kind == "pictures" else NORMS
    return Architecture(
        kind,
        draw(st.integers(1, 2)),
        draw(st.sampled_from(list(ACTIVATIONS))),
        draw(st.sampled_from(list(norms))),
        draw(st.sampled_from([0.0, 0.0, 0.3])),
        draw(st.booleans()),
        draw(st.sampled_from([False, False, True])),
    )


# An ε of 1e-4 keeps Adam's first steps, close to sign g, smooth within the step of a difference.
TRAININGS = st.builds(
    TrainingConfig,
    optimizer=st.sampled_from(["sgd", "damped_sgd", "adam", "adamw"]),
    steps=st.integers(3, 7),
    batch_size=st.integers(4, ROWS),
    learning_rate=st.sampled_from([0.02, 0.05, 0.1]),
    momentum=st.sampled_from([0.25, 0.5, 0.75]),
    eps=st.just(1e-4),
    weight_decay=st.sampled_from([0.0, 0.1]),
    schedule=st.sampled_from(
        [ConstantSchedule(), CosineSchedule(warmup=0.3), LinearSchedule(final=0.1)]
    ),
    clip_norm=st.sampled_from([None, None, 0.1]),
    accumulate=st.sampled_from([1, 1, 2]),
)
CHOICES: list[st.SearchStrategy[Kind]] = [
    st.builds(L2, init=st.just(-3.0), per=st.sampled_from(["model", "layer", "unit", "weight"])),
    st.builds(L1, init=st.just(-4.0), per=st.sampled_from(["model", "layer", "unit"])),
    st.builds(LearningRate, per=st.sampled_from(["model", "layer", "step", "step_and_layer"])),
    st.builds(Momentum, per=st.sampled_from(["model", "layer", "step"])),
    st.builds(WeightDecay, init=st.just(-3.0), per=st.sampled_from(["model", "layer"])),
    st.just(InitScale()),
    st.just(SampleWeight()),
    st.just(LossWeight()),
    st.just(TrainingData()),
]


@st.composite
def kinds(draw: st.DrawFn) -> tuple[Kind, ...]:
    """One to three kinds of hyperparameters, each once."""
    numbers = st.integers(0, len(CHOICES) - 1)
    chosen = draw(st.lists(numbers, min_size=1, max_size=3, unique=True))
    return tuple(draw(CHOICES[number]) for number in sorted(chosen))


def problem_of(architecture: Architecture) -> Problem:
    draw = torch.Generator().manual_seed(2)

    def part(rows: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(rows, FEATURES, generator=draw, dtype=torch.float64)
        targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] * inputs[:, 2] > 0).long()
        return inputs, targets

    return Problem(architecture.build(), part(ROWS), part(HELD_OUT), initialize="reset")


def exact_methods(recipe: Recipe) -> list[Method]:
    """The exact methods that take the recipe; reversible rounds a tuned momentum."""
    methods: list[Method] = [Stored(), Replay()]
    if recipe.training.traits.reversible and not any(
        isinstance(kind, Momentum) for kind in recipe.kinds
    ):
        methods.append(Reversible())
    values = tuner_of(recipe, Stored()).initial_values()
    if sum(value.numel() for value in values.values()) <= MAX_TANGENTS:
        methods.append(Forward())
    return methods


@pytest.fixture(autouse=True, scope="module")
def _traced_soon() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traces, "FIRST_TRACED", 1)
        yield


def judge(kind: str, data: st.DataObject) -> None:
    """Draws a problem of this kind of architecture, and compares every exact method."""
    architecture, training = data.draw(architectures(kind)), data.draw(TRAININGS)
    tuned, seed = data.draw(kinds()), data.draw(st.integers(0, 99))
    recipe = Recipe(lambda: problem_of(architecture), tuned, training, seed)
    step = ADAM_STEP if training.optimizer.startswith("adam") else STEP
    found = faults(recipe, exact_methods(recipe), draws=(0,), step=step, idle=True)
    require_none(found)


PHASES = (Phase.generate,)
"""Without shrinking, whose hundreds of trainings take minutes; the problems are small as drawn."""


@pytest.mark.parametrize("kind", ARCHITECTURES)
@settings(settings.get_profile("engine"), max_examples=5, phases=PHASES)
@given(data=st.data())
def test_exact_methods_are_central_differences_of_plain_trainings(
    kind: str, data: st.DataObject
) -> None:
    judge(kind, data)


@pytest.mark.full
@pytest.mark.parametrize("kind", ARCHITECTURES)
@settings(settings.get_profile("engine"), max_examples=80, phases=PHASES)
@given(data=st.data())
def test_exact_methods_are_central_differences_of_many_plain_trainings(
    kind: str, data: st.DataObject
) -> None:
    judge(kind, data)
