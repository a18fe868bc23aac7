"""Generic kinds of hyperparameters that fit any model, and how each enters the training loss.

A kind (`L2`, `LearningRate`, `SampleWeight`, ...) is what a user asks for; bound to a model and its
data it becomes a `BoundHyperparameter`: a tensor λ with a name, a shape, a transform and bounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor, nn

from drmad_workers.data.examples import Examples
from drmad_workers.errors import ProblemError
from drmad_workers.problem import Problem, Transform
from drmad_workers.random_streams import Purpose, seed_of

Per = Literal["weight", "unit", "layer", "model"]
PerStep = Literal["model", "layer", "step", "step_and_layer"]
RateRole = Literal["learning_rate", "momentum"]

STRETCHES = 10
"""A schedule is labelled in so many stretches of steps."""


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
class Setting:
    """What a kind is bound to: the problem, and how it is trained.

    Attributes:
        slots: of the problem's model.
        train: the training examples.
        steps, learning_rate, momentum: T, α and γ (of Adam, β₁) of the training.
        dtype: of the hyperparameters.
        seed: of what a kind draws.
    """

    problem: Problem
    slots: Sequence[Slot]
    train: Examples
    steps: int
    learning_rate: float
    momentum: float
    dtype: torch.dtype
    seed: int = 0


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

    what: ClassVar[str] = "hyperparameter"
    """How to call it in a message."""

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

    what: ClassVar[str] = "weight of an example"


@dataclass(frozen=True)
class BoundClassWeight(BoundTensor):
    """(1/|B|) Σ_{i in B} e^{λ_c} ℓ_i with c the class of i; shape (classes,)."""

    what: ClassVar[str] = "weight of a class"


@dataclass(frozen=True)
class BoundTrainingData(BoundHyperparameter):
    """The inputs of the training examples themselves; shape (training examples, ...)."""

    what: ClassVar[str] = "training_data"


@dataclass(frozen=True)
class BoundRate(BoundHyperparameter):
    """α_t or γ_t of the inner optimizer; `layout` is its shape as (L or 1, T or 1)."""

    role: RateRole
    layout: tuple[int, int]


@dataclass(frozen=True)
class BoundInitScale(BoundHyperparameter):
    """w_0 = e^{λ_l} × the drawn w_0 of layer l; shape (L,)."""

    sizes: Sequence[int]

    def multiply(self, value: Tensor, weights: Tensor) -> None:
        for scale, part in zip(value, torch.split(weights, list(self.sizes)), strict=True):
            part.mul_(scale)

    def spread(self, factors: Tensor, weights: Tensor, out: Tensor) -> None:
        """out += factor × weights by layer; shapes (D, L), (P,) and (D, P)."""
        parts = torch.split(out, list(self.sizes), dim=1)
        drawn = torch.split(weights, list(self.sizes))
        for part, factor, layer in zip(parts, factors.unbind(1), drawn, strict=True):
            part.add_(factor[:, None] * layer)

    def gather(self, products: Tensor) -> Tensor:
        """Sums by layer, from shape (P,) to (L,)."""
        return torch.stack([part.sum() for part in torch.split(products, list(self.sizes))])


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
class BoundPenalty(BoundHyperparameter):
    """Σ_u e^{λ_u} Σ_{j in u} |w_j|^k, k = `power`; see penalties.py for its derivatives."""

    power: int
    blocks: Sequence[Block]

    def spread(self, value: Tensor, coefficients: Tensor) -> None:
        """Adds e^{λ_u(j)} for every weight j to `coefficients`, shape (..., P)."""
        leading = coefficients.shape[:-1]
        for start, stop, view, keep, first, last in self.blocks:
            target = coefficients[..., start:stop].view(*leading, *view)
            target.add_(value[..., first:last].view(*leading, *keep))

    def gather(self, products: Tensor) -> Tensor:
        """Σ_{j in u} products_j for every penalty u, from shape (P,) to the shape of λ."""
        out = torch.zeros(self.shape, dtype=products.dtype, device=products.device)
        for start, stop, view, keep, first, last in self.blocks:
            summed = products[start:stop].view(view).sum_to_size(keep)
            out[first:last].add_(summed.reshape(-1))
        return out


class Kind(Protocol):
    """What a user asks to tune."""

    @property
    def name(self) -> str: ...

    def bind(self, setting: Setting) -> BoundHyperparameter: ...


@dataclass(frozen=True)
class Penalty:
    """Log penalties λ: the training loss gains Σ_u e^{λ_u} Σ_{j in u} |w_j|^k.

    Parameters with fewer than two dimensions (biases, scales of normalisation) are not penalised.

    Attributes:
        per: one λ per "weight"; per "unit", which means per *input* unit of each weight matrix
            (a column of torch's (out, in), a row of an embedding) and per input channel of a
            convolution, as the papers do; per "layer", that is per weight matrix; or one for
            the whole "model".
        init: the log penalty to start from.
        lower, upper: bounds of λ.
    """

    name: str
    per: Per = "weight"
    init: float = -9.0
    lower: float | None = None
    upper: float | None = None

    power: ClassVar[int]

    def bind(self, setting: Setting) -> BoundHyperparameter:
        penalised = [slot for slot in setting.slots if len(slot.shape) >= 2]
        if not penalised:
            raise ProblemError(
                f"{self.name} needs a trainable parameter of two or more dimensions (biases are "
                "not penalised), and the model has none",
                f"hyperparameters.{self.name}",
            )
        require_one_of(get_args(Per), self.per, self.name)
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
        initial = torch.full((groups[-1].stop,), self.init, dtype=setting.dtype)
        return BoundPenalty(
            self.name, initial, "exp", self.lower, self.upper, groups, self.power, blocks
        )


@dataclass(frozen=True)
class L2(Penalty):
    """Weight decay: Σ_u e^{λ_u} Σ_{j in u} w_j², see Penalty."""

    name: str = "l2"
    power: ClassVar[int] = 2


@dataclass(frozen=True)
class L1(Penalty):
    """Lasso: Σ_u e^{λ_u} Σ_{j in u} |w_j|, see Penalty.

    Its gradient is e^λ sign w, 0 at the kink w = 0; the kinks that a weight crosses in training
    have no part in the hypergradient.
    """

    name: str = "l1"
    power: ClassVar[int] = 1


def require_one_of(allowed: Sequence[str], given: str, name: str, option: str = "per") -> None:
    if given not in allowed:
        raise ProblemError(
            f"{name}: {option} must be one of {', '.join(allowed)}, got {given!r}",
            f"hyperparameters.{name}.{option}",
        )


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
class LearningRate:
    """λ = log α_t, the learning rate of the inner optimizer.

    Attributes:
        per: one for the whole "model"; one per "layer", "step" or "step_and_layer", the last of
            shape (layers, steps). A layer is one parameter tensor: a matrix and its bias are two.
        init: log α to start from; None takes the training's own learning rate.
        lower, upper: bounds of λ.
    """

    name: str = "learning_rate"
    per: PerStep = "step"
    init: float | None = None
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        init = math.log(setting.learning_rate) if self.init is None else self.init
        return bind_rate(self, "learning_rate", "exp", init, setting)


@dataclass(frozen=True)
class Momentum:
    """γ_t = σ(λ), the momentum of the inner optimizer; of Adam its β₁.

    Attributes:
        per: see LearningRate.
        init: the logit to start from; None takes the training's own momentum, but at least 0.01,
            as no logit is that of 0.
        lower, upper: bounds of λ.
    """

    name: str = "momentum"
    per: PerStep = "step"
    init: float | None = None
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        own = max(setting.momentum, 0.01)
        init = math.log(own / (1.0 - own)) if self.init is None else self.init
        return bind_rate(self, "momentum", "sigmoid", init, setting)


def bind_rate(
    kind: LearningRate | Momentum,
    role: RateRole,
    transform: Transform,
    init: float,
    setting: Setting,
) -> BoundRate:
    require_one_of(get_args(PerStep), kind.per, kind.name)
    layers = len(setting.slots) if "layer" in kind.per else 1
    steps = setting.steps if "step" in kind.per else 1
    shape = {"model": (1,), "layer": (layers,), "step": (steps,)}.get(kind.per, (layers, steps))
    if layers > 1 or "layer" in kind.per:
        groups = [
            Group(slot.name, i * steps, (i + 1) * steps) for i, slot in enumerate(setting.slots)
        ]
    elif kind.per == "step":
        groups = stretches(steps)
    else:
        groups = [Group("model", 0, 1)]
    initial = torch.full(shape, init, dtype=setting.dtype)
    bounds = (kind.lower, kind.upper)
    return BoundRate(kind.name, initial, transform, *bounds, groups, role, (layers, steps))


def stretches(steps: int) -> list[Group]:
    """About STRETCHES stretches of steps of equal length, named by their first and last step."""
    length = -(-steps // STRETCHES)
    return [
        Group(
            f"steps {start} to {min(start + length, steps) - 1}", start, min(start + length, steps)
        )
        for start in range(0, steps, length)
    ]


@dataclass(frozen=True)
class InitScale:
    """w_0 = e^{λ_l} × the drawn w_0, one λ_l per layer (parameter tensor).

    Attributes:
        init: the log scale to start from; 0 keeps the weights as they are drawn.
        lower, upper: bounds of λ.
    """

    name: str = "init_scale"
    init: float = 0.0
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        slots = setting.slots
        groups = [Group(slot.name, i, i + 1) for i, slot in enumerate(slots)]
        initial = torch.full((len(slots),), self.init, dtype=setting.dtype)
        sizes = [slot.stop - slot.start for slot in slots]
        return BoundInitScale(self.name, initial, "exp", self.lower, self.upper, groups, sizes)


@dataclass(frozen=True)
class TrainingData:
    """The inputs of the training examples themselves (their targets stay): data distillation.

    Attributes:
        init: "data" starts from the training inputs, "noise" from normal numbers with their mean
            and standard deviation.
        lower, upper: bounds of every input, such as 0 and 1 for pixels.
    """

    name: str = "training_data"
    init: Literal["data", "noise"] = "data"
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        inputs = setting.train.all_inputs()
        if inputs is None or not inputs.is_floating_point():
            raise ProblemError(
                f"{self.name} needs training inputs of floating point that fit into memory",
                f"hyperparameters.{self.name}",
            )
        require_one_of(("data", "noise"), self.init, self.name, "init")
        initial = inputs.detach().to(device="cpu", dtype=setting.dtype, copy=True)
        if self.init == "noise":
            draw = torch.Generator().manual_seed(seed_of(Purpose.TRAINING_DATA, setting.seed))
            noise = torch.randn(initial.shape, generator=draw, dtype=setting.dtype)
            initial = (initial.mean() + initial.std(correction=0) * noise).clamp(
                self.lower if self.lower is not None else -math.inf, self.upper
            )
        size = math.prod(initial.shape[1:])
        groups = [Group(f"example {i}", i * size, (i + 1) * size) for i in range(len(initial))]
        return BoundTrainingData(self.name, initial, "identity", self.lower, self.upper, groups)


@dataclass(frozen=True)
class LossWeight:
    """Weights e^λ of the parts of the training loss.

    Without an `inner_loss` of the problem's own, one per class of the integer targets: the loss
    of an example counts e^{λ_c} times, c its class. With one, the engine weighs nothing: the loss
    is handed all e^λ under this name, one per `terms`, and applies them to its own terms.

    Attributes:
        terms: how many terms the problem's own `inner_loss` has; None for one per class.
        init: the log weight to start from; 0 is a weight of one.
        lower, upper: bounds of λ.
    """

    name: str = "loss_weight"
    terms: int | None = None
    init: float = 0.0
    lower: float | None = None
    upper: float | None = None

    def bind(self, setting: Setting) -> BoundHyperparameter:
        own_loss = setting.problem.inner_loss is not None
        if self.terms is not None and (not own_loss or self.terms < 1):
            raise ProblemError(
                f"{self.name}: terms must be at least 1 and needs an inner_loss that has them, got "
                f"{self.terms}: leave it out for one weight per class",
                f"hyperparameters.{self.name}.terms",
            )
        label, count = "term", self.terms or 0
        if self.terms is None:
            label, count = "class", self._classes(setting.train)
        groups = [Group(f"{label} {i}", i, i + 1) for i in range(count)]
        initial = torch.full((count,), self.init, dtype=setting.dtype)
        bound = BoundTensor if own_loss else BoundClassWeight
        return bound(self.name, initial, "exp", self.lower, self.upper, groups)

    def _classes(self, train: Examples) -> int:
        targets = train.all_targets()
        if targets is None or targets.dtype != torch.int64 or targets.ndim != 1:
            raise ProblemError(
                f"{self.name} per class needs training targets that are class numbers (int64) and "
                "fit into memory",
                f"hyperparameters.{self.name}",
            )
        return int(targets.max()) + 1


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

    def bind(self, setting: Setting) -> BoundHyperparameter:
        bound = BoundSampleWeight if setting.problem.inner_loss is None else BoundTensor
        examples = setting.train.rows
        initial = torch.full((examples,), self.init, dtype=setting.dtype)
        groups = [Group(self.name, 0, examples)]
        return bound(self.name, initial, "sigmoid", self.lower, self.upper, groups)


@dataclass(frozen=True)
class CustomTensor:
    """Tunes the tensor that the problem states under this name in `hyperparameters`."""

    name: str

    def bind(self, setting: Setting) -> BoundHyperparameter:
        stated = setting.problem.hyperparameters.get(self.name)
        if stated is None:
            known = ", ".join(sorted(setting.problem.hyperparameters)) or "none"
            raise ProblemError(
                f"the problem must state a hyperparameter named {self.name!r}, it states: {known}",
                f"hyperparameters.{self.name}",
            )
        initial = stated.init.detach().to(device="cpu", dtype=setting.dtype, copy=True)
        groups = [Group(self.name, 0, initial.numel())]
        return BoundTensor(self.name, initial, stated.transform, stated.lower, stated.upper, groups)


def bind_all(kinds: Sequence[Kind], setting: Setting) -> dict[str, BoundHyperparameter]:
    """Binds every kind; names are unique and are the user's only for a `CustomTensor`."""
    bound: dict[str, BoundHyperparameter] = {}
    for kind in kinds:
        taken = kind.name in bound or (
            kind.name in setting.problem.hyperparameters and not isinstance(kind, CustomTensor)
        )
        if taken:
            raise ProblemError(
                f"names of hyperparameters must differ, got {kind.name!r} twice: name one of them",
                f"hyperparameters.{kind.name}",
            )
        bound[kind.name] = within_bounds(kind.bind(setting))
    if not bound:
        raise ProblemError("there must be at least one hyperparameter to tune", "hyperparameters")
    for role in get_args(RateRole):
        names = [b.name for b in bound.values() if isinstance(b, BoundRate) and b.role == role]
        if len(names) > 1:
            raise ProblemError(
                f"there can be one {role} only, got {', '.join(names)}",
                f"hyperparameters.{names[1]}",
            )
    return bound


def within_bounds(bound: BoundHyperparameter) -> BoundHyperparameter:
    """The same; raises ProblemError when it would begin outside of its bounds."""
    low = -math.inf if bound.lower is None else bound.lower
    high = math.inf if bound.upper is None else bound.upper
    if bool((bound.initial < low).any() or (bound.initial > high).any()):
        raise ProblemError(
            f"{bound.name} must begin between its bounds, [{low}, {high}], got values from "
            f"{float(bound.initial.min()):.4g} to {float(bound.initial.max()):.4g}",
            f"hyperparameters.{bound.name}",
        )
    return bound
