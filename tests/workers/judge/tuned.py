"""The tuned hyperparameters of a plain training, each by the definition of its kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from drmad_workers import (
    L1,
    L2,
    Batch,
    CustomTensor,
    InitScale,
    LearningRate,
    LossWeight,
    Momentum,
    ParameterGroup,
    Problem,
    SampleWeight,
    TrainingConfig,
    TrainingData,
    WeightDecay,
)
from drmad_workers.hyperparameters.base import Kind
from tests.workers.judge.contents import losses_of
from tests.workers.judge.optimizers import Rates
from tests.workers.judge.schedules import factors_of

TRANSFORMS = {"identity": lambda raw: raw, "exp": torch.exp, "sigmoid": torch.sigmoid}


@dataclass(frozen=True)
class Layer:
    """A trained parameter, its name, and the module that holds it."""

    name: str
    module: nn.Module
    parameter: nn.Parameter


class Tuned:
    """Losses, penalties and rates of a problem at the hyperparameters λ."""

    def __init__(
        self,
        problem: Problem,
        kinds: Sequence[Kind],
        training: TrainingConfig,
        layers: Sequence[Layer],
        values: Mapping[str, Tensor],
        dtype: torch.dtype,
    ) -> None:
        self._problem = problem
        self._training = training
        self._layers = layers
        self._factors = factors_of(training.schedule, training.steps)
        self._kinds = [(kind, values[kind.name].to(dtype)) for kind in kinds]
        self._named = {
            name: TRANSFORMS[stated.transform](values.get(name, stated.init).to(dtype))
            for name, stated in problem.hyperparameters.items()
        }
        if problem.inner_loss is not None:
            for kind, raw in self._kinds:
                if isinstance(kind, SampleWeight):
                    self._named[kind.name] = self._by_row(kind, raw)
                elif isinstance(kind, LossWeight):
                    self._named[kind.name] = raw.exp()

    def scale_weights(self) -> None:
        """w_0 *= e^λ, one λ per parameter tensor."""
        for kind, raw in self._kinds:
            if isinstance(kind, InitScale):
                with torch.no_grad():
                    for layer, scale in zip(self._layers, raw.exp(), strict=True):
                        layer.parameter.mul_(scale)

    def with_inputs(self, batch: Batch) -> Batch:
        """The minibatch, with the inputs that are tuned if they are."""
        found = [raw for kind, raw in self._kinds if isinstance(kind, TrainingData)]
        return batch.with_inputs(found[0][batch.index].clone()) if found else batch

    def training_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The training loss of a minibatch with all penalties."""
        problem = self._problem
        if problem.inner_loss is not None:
            return problem.inner_loss(model, self._named, batch) + self._penalties()
        losses = losses_of(problem, model, batch.content)
        normalised = torch.ones_like(losses)
        for kind, raw in self._kinds:
            if isinstance(kind, SampleWeight):
                weights = self._by_row(kind, raw)[batch.index]
                losses = losses * weights
                if kind.normalised:
                    normalised = normalised * weights
            elif isinstance(kind, LossWeight):
                losses = losses * raw.exp()[self._classes(batch.content)]
        return losses.sum() / normalised.sum() + self._penalties()

    def _by_row(self, kind: SampleWeight, raw: Tensor) -> Tensor:
        """The weight of every training row."""
        if kind.per == "example":
            return raw.sigmoid()
        columns = self._problem.columns
        column = self._problem.train[1] if kind.per == "class" else columns[kind.column or "source"]
        keys = column.tolist() if isinstance(column, Tensor) else list(column)
        known = sorted(set(keys))
        return raw.sigmoid()[[known.index(key) for key in keys]]

    def _classes(self, content: Any) -> Tensor:
        targets = self._problem.targets
        classes: Tensor = targets(content) if targets else content[1]
        return classes

    def held_out_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        problem = self._problem
        if problem.outer_loss is not None:
            return problem.outer_loss(model, self._named, batch)
        return losses_of(problem, model, batch.content).mean()

    def rates(self, step: int) -> list[Rates]:
        """Learning rate, momentum and weight decay of every layer in a step."""
        training = self._training
        rate = self._rate(LearningRate, "learning_rate", training.learning_rate, step)
        momentum = self._rate(Momentum, "momentum", training.first_decay, step)
        decay = self._rate(WeightDecay, "weight_decay", training.weight_decay, step)
        rate = [number * self._factors[step] for number in rate]
        return [Rates(*each) for each in zip(rate, momentum, decay, strict=True)]

    def _rate(self, tuned: type[Kind], name: str, common: float, step: int) -> list[float]:
        """The rate of every layer: of its group, of the training, or tuned."""
        groups = [first_group(self._training.groups, layer.name) for layer in self._layers]
        stated = [None if group is None else getattr(group, name) for group in groups]
        own = [common if value is None else float(value) for value in stated]
        for kind, raw in self._kinds:
            if type(kind) is not tuned:
                continue
            assert isinstance(kind, LearningRate | Momentum | WeightDecay)
            values = raw.sigmoid() if isinstance(kind, Momentum) else raw.exp()
            if kind.per in ("model", "step"):
                value = float(values[step if kind.per == "step" else 0])
                return [value if each is None else float(each) for each in stated]
            if kind.per == "layer":
                return [float(value) for value in values]
            if kind.per == "step_and_layer":
                return [float(value) for value in values[:, step]]
            if kind.groups:
                matched = [first_match(kind.groups, layer.name) for layer in self._layers]
                pairs = zip(matched, own, strict=True)
                return [kept if row is None else float(values[row]) for row, kept in pairs]
            trained = [group for group in self._training.groups if group in groups]
            return [float(values[-1 if g is None else trained.index(g)]) for g in groups]
        return own

    def _penalties(self) -> Tensor:
        """Σ_u e^{λ_u} Σ_{j in u} |w_j|^k over matrices and convolutions."""
        total = torch.zeros(())
        for kind, raw in self._kinds:
            if not isinstance(kind, L1 | L2):
                continue
            power, first = (2 if isinstance(kind, L2) else 1), 0
            for layer in self._layers:
                if layer.parameter.ndim < 2:
                    continue
                units = units_of(layer, kind.per)
                own = raw.exp()[first + units]
                total = total + (own * layer.parameter.abs() ** power).sum()
                first += 0 if kind.per == "model" else int(units.max()) + 1
        return total


def units_of(layer: Layer, per: str) -> Tensor:
    """The number of the penalty of every weight, in the shape of the parameter."""
    shape, module = layer.parameter.shape, layer.module
    if per in ("model", "layer"):
        return torch.zeros(shape, dtype=torch.int64)
    if per == "weight":
        return torch.arange(layer.parameter.numel()).view(shape)
    transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
    by_row = isinstance(module, transposed | nn.Embedding | nn.EmbeddingBag)
    axis = 0 if by_row else 1
    lead = [1] * len(shape)
    lead[axis] = shape[axis]
    units = torch.arange(shape[axis]).view(lead).expand(shape)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        outputs = torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1))
        group = outputs // (shape[0] // module.groups)
        units = units + group * shape[1]
    return units


def first_match(patterns: Sequence[str], name: str) -> int | None:
    """The number of the first pattern of which an alternative matches."""
    for number, pattern in enumerate(patterns):
        if any(fnmatchcase(name, alternative) for alternative in pattern.split("|")):
            return number
    return None


def first_group(groups: Sequence[ParameterGroup], name: str) -> ParameterGroup | None:
    number = first_match([group.match for group in groups], name)
    return None if number is None else groups[number]


def custom(name: str = "h") -> tuple[Kind, ...]:
    """The one tensor that a problem of one's own states."""
    return (CustomTensor(name),)
