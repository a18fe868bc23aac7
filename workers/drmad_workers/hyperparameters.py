"""Generic kinds of hyperparameters that fit any model, and how each enters the training loss.

A kind (`L2`, `SampleWeight`, `CustomTensor`) is what a user asks for; bound to a model and its
data it becomes a `BoundHyperparameter`: a tensor λ with a name, a shape, a transform and bounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from drmad_workers.errors import ProblemError
from drmad_workers.problem import Problem, Transform

Per = Literal["weight", "unit", "layer", "model"]


class Group(NamedTuple):
    """A named stretch of the flattened hyperparameter tensor."""

    label: str
    start: int
    stop: int


@dataclass(frozen=True)
class Slot:
    """Where one elementary parameter lies in the flat weights, and the module it belongs to."""

    name: str
    start: int
    stop: int
    shape: torch.Size
    module: nn.Module


def slots_of(model: nn.Module) -> list[Slot]:
    """The trainable parameters in the order of `model.parameters()`, shared ones once."""
    slots: list[Slot] = []
    seen: set[int] = set()
    start = 0
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                stop = start + parameter.numel()
                slots.append(Slot(name, start, stop, parameter.shape, module))
                start = stop
    return slots


@dataclass(frozen=True)
class BoundHyperparameter:
    """A tensor λ of hyperparameters of one problem; it enters the losses as transform(λ).

    Attributes:
        name: by which values and hypergradients are exchanged.
        initial: λ before the first meta-iteration.
        transform: from λ to the value that the loss takes.
        lower, upper: bounds of λ itself, or None.
        groups: labelled stretches of the flattened λ, such as one per layer.
    """

    name: str
    initial: Tensor
    transform: Transform
    lower: float | None
    upper: float | None
    groups: Sequence[Group]

    @property
    def shape(self) -> torch.Size:
        return self.initial.shape

    def value(self, raw: Tensor) -> Tensor:
        """transform(λ)."""
        if self.transform == "exp":
            return raw.exp()
        if self.transform == "sigmoid":
            return raw.sigmoid()
        return raw.clone()

    def chain(self, value: Tensor, gradient: Tensor) -> Tensor:
        """From the derivative in the value to the derivative in λ."""
        if self.transform == "exp":
            return gradient * value
        if self.transform == "sigmoid":
            return gradient * value * (1.0 - value)
        return gradient


@dataclass(frozen=True)
class BoundTensor(BoundHyperparameter):
    """A tensor that the user's own losses take by name."""


@dataclass(frozen=True)
class BoundSampleWeight(BoundHyperparameter):
    """(1/|B|) Σ_{i in B} σ(λ_i) ℓ_i; shape (training examples,)."""


class Block(NamedTuple):
    """One penalised parameter: `view` is its shape, `keep` the shape of its penalties.

    `keep` broadcasts to `view`; `start`, `stop` bound the weights in the flat vector, `first`,
    `last` the penalties in λ.
    """

    start: int
    stop: int
    view: tuple[int, ...]
    keep: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True)
class BoundL2(BoundHyperparameter):
    """Σ_u e^{λ_u} Σ_{j in u} w_j²; its derivatives are written out in place of autograd's."""

    blocks: Sequence[Block]

    def spread(self, value: Tensor, coefficients: Tensor) -> None:
        """Adds 2 e^{λ_u(j)} for every weight j to `coefficients`, shape (P,)."""
        for start, stop, view, keep, first, last in self.blocks:
            target = coefficients[start:stop].view(view)
            target.add_(value[first:last].view(keep), alpha=2.0)

    def gather(self, products: Tensor) -> Tensor:
        """Σ_{j in u} 2 products_j for every penalty u, from shape (P,) to the shape of λ."""
        out = torch.zeros(self.shape, dtype=products.dtype, device=products.device)
        for start, stop, view, keep, first, last in self.blocks:
            summed = products[start:stop].view(view).sum_to_size(keep)
            out[first:last].add_(summed.reshape(-1), alpha=2.0)
        return out


class Kind(Protocol):
    """What a user asks to tune."""

    @property
    def name(self) -> str: ...

    def bind(
        self, problem: Problem, slots: Sequence[Slot], examples: int, dtype: torch.dtype
    ) -> BoundHyperparameter: ...


@dataclass(frozen=True)
class L2:
    """Log penalties λ: the training loss gains Σ_u e^{λ_u} Σ_{j in u} w_j².

    Parameters with fewer than two dimensions (biases, scales of normalisation) are not penalised.

    Attributes:
        per: one λ per "weight"; per "unit", which means per *input* unit of each weight matrix
            (a column of torch's (out, in), a row of an embedding) and per input channel of a
            convolution, as the papers do; per "layer", that is per weight matrix; or one for
            the whole "model".
        init: the log penalty to start from.
        lower, upper: bounds of λ.
    """

    name: str = "l2"
    per: Per = "weight"
    init: float = -9.0
    lower: float | None = None
    upper: float | None = None

    def bind(
        self, problem: Problem, slots: Sequence[Slot], examples: int, dtype: torch.dtype
    ) -> BoundHyperparameter:
        penalised = [slot for slot in slots if len(slot.shape) >= 2]
        if not penalised:
            raise ProblemError(
                f"{self.name} needs a trainable parameter of two or more dimensions (biases are "
                "not penalised), and the model has none",
                f"hyperparameters.{self.name}",
            )
        if self.per not in ("weight", "unit", "layer", "model"):
            raise ProblemError(
                f"{self.name}: per must be weight, unit, layer or model, got {self.per!r}",
                f"hyperparameters.{self.name}.per",
            )
        blocks: list[Block] = []
        groups: list[Group] = []
        first = 0
        for slot in penalised:
            view, keep = unit_shapes(slot) if self.per == "unit" else (tuple(slot.shape), ())
            if self.per == "weight":
                keep = view
            last = first + math.prod(keep)
            keep = keep or (1,) * len(view)
            blocks.append(Block(slot.start, slot.stop, view, keep, first, last))
            if self.per != "model":
                groups.append(Group(slot.name, first, last))
                first = last
        if self.per == "model":
            groups = [Group("model", 0, 1)]
        initial = torch.full((groups[-1].stop,), self.init, dtype=dtype)
        return BoundL2(self.name, initial, "exp", self.lower, self.upper, groups, blocks)


def unit_shapes(slot: Slot) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A view of the weights, and the broadcastable shape with one entry per input unit."""
    shape = tuple(slot.shape)
    rest = (1,) * (len(shape) - 2)
    module = slot.module
    if isinstance(module, nn.modules.conv._ConvTransposeNd | nn.Embedding | nn.EmbeddingBag):
        return shape, (shape[0], 1, *rest)
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
        out, per_group = shape[0] // module.groups, shape[1]
        view = (module.groups, out, per_group, *shape[2:])
        return view, (module.groups, 1, per_group, *rest)
    return shape, (1, shape[1], *rest)


@dataclass(frozen=True)
class SampleWeight:
    """One λ_i per training example, whose loss counts σ(λ_i) times: (1/|B|) Σ σ(λ_i) ℓ_i.

    With the problem's own `inner_loss` the engine weighs nothing: the loss is handed all
    σ(λ) under this name and picks those of its batch by `batch.index`.
    """

    name: str = "sample_weight"
    init: float = 0.0
    lower: float | None = None
    upper: float | None = None

    def bind(
        self, problem: Problem, slots: Sequence[Slot], examples: int, dtype: torch.dtype
    ) -> BoundHyperparameter:
        bound = BoundSampleWeight if problem.inner_loss is None else BoundTensor
        initial = torch.full((examples,), self.init, dtype=dtype)
        groups = [Group(self.name, 0, examples)]
        return bound(self.name, initial, "sigmoid", self.lower, self.upper, groups)


@dataclass(frozen=True)
class CustomTensor:
    """Tunes the tensor that the problem states under this name in `hyperparameters`."""

    name: str

    def bind(
        self, problem: Problem, slots: Sequence[Slot], examples: int, dtype: torch.dtype
    ) -> BoundHyperparameter:
        stated = problem.hyperparameters.get(self.name)
        if stated is None:
            known = ", ".join(sorted(problem.hyperparameters)) or "none"
            raise ProblemError(
                f"the problem must state a hyperparameter named {self.name!r}, it states: {known}",
                f"hyperparameters.{self.name}",
            )
        initial = stated.init.detach().to(device="cpu", dtype=dtype, copy=True)
        groups = [Group(self.name, 0, initial.numel())]
        return BoundTensor(self.name, initial, stated.transform, stated.lower, stated.upper, groups)


def bind_all(
    kinds: Sequence[Kind],
    problem: Problem,
    slots: Sequence[Slot],
    examples: int,
    dtype: torch.dtype,
) -> dict[str, BoundHyperparameter]:
    """Binds every kind; names are unique and are the user's only for a `CustomTensor`."""
    bound: dict[str, BoundHyperparameter] = {}
    for kind in kinds:
        taken = kind.name in bound or (
            kind.name in problem.hyperparameters and not isinstance(kind, CustomTensor)
        )
        if taken:
            raise ProblemError(
                f"names of hyperparameters must differ, got {kind.name!r} twice: name one of them",
                f"hyperparameters.{kind.name}",
            )
        bound[kind.name] = kind.bind(problem, slots, examples, dtype)
    if not bound:
        raise ProblemError("there must be at least one hyperparameter to tune", "hyperparameters")
    return bound
