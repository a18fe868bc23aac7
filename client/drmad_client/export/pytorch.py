"""Tuned hyperparameters as a plain PyTorch training loop takes them; needs torch.

Every function takes arrays as `job.hyperparameters()` gives them, in the user's own units:
penalties and learning rates e^λ, weights and momenta σ(λ).

    tuned = job.hyperparameters()
    coefficients = penalties(model, tuned["l2"], per="unit")
    optimizer = TunedSGD(model.parameters(), tuned["learning_rate"], 0.9)
    ...
    loss = cross_entropy(model(x), y) + penalty(model, coefficients)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT
from torch.utils.data import Dataset, WeightedRandomSampler

Per = Literal["weight", "unit", "layer", "model"]
Arrays = Mapping[str, NDArray[Any]]


def state_dict(model: Arrays) -> dict[str, Tensor]:
    """What `job.model()` gives, for `load_state_dict`."""
    return {name: torch.from_numpy(np.array(values)) for name, values in model.items()}


def penalties(model: nn.Module, values: ArrayLike, per: Per = "unit") -> dict[str, Tensor]:
    """The penalty of every weight, in the shape of its parameter, by parameter name.

    Args:
        model: As it was tuned. Parameters of fewer than two dimensions have no penalty.
        values: Of a hyperparameter of kind l2 or l1, shape (penalties,).
        per: As in the job: what shares one penalty.
    Raises:
        ValueError: `values` has another number of penalties than the model has.
    """
    flat = torch.from_numpy(np.array(values)).flatten()
    coefficients: dict[str, Tensor] = {}
    first = 0
    for name, parameter, module in _parameters(model):
        if parameter.dim() < 2:
            continue
        shape = tuple(parameter.shape)
        view, keep = _units(module, shape) if per == "unit" else (shape, shape)
        if per in ("layer", "model"):
            keep = (1,) * len(shape)
        last = first + math.prod(keep)
        part = flat[first:last]
        if len(part) == math.prod(keep):
            own = part.reshape(keep).expand(view).reshape(shape)
            coefficients[name] = own.to(parameter.device, parameter.dtype)
        first = first if per == "model" else last
    wanted = 1 if per == "model" else first
    if len(flat) != wanted:
        raise ValueError(f"the model has {wanted} penalties per {per}, got {len(flat)}")
    return coefficients


def penalty(model: nn.Module, coefficients: Mapping[str, Tensor], power: int = 2) -> Tensor:
    """Σ_j c_j |w_j|^power, the term that the training loss gains; power 1 for l1.

    `coefficients`: from `penalties`.
    """
    parameters = dict(model.named_parameters())
    terms = [(c * parameters[name].abs() ** power).sum() for name, c in coefficients.items()]
    return torch.stack(terms).sum()


def parameter_groups(
    model: nn.Module, values: ArrayLike, per: Literal["layer", "model"] = "layer"
) -> list[dict[str, Any]]:
    """Groups for torch.optim.SGD whose weight decay is the tuned l2 penalty.

    torch's decay d adds d w to the gradient, the penalty e^λ w² adds 2 e^λ w: d = 2 e^λ. Penalties
    per unit or per weight have no such form: add `penalty` to the loss instead.
    """
    decays = {
        name: 2.0 * float(own.flatten()[0]) for name, own in penalties(model, values, per).items()
    }
    return [
        {"params": [parameter], "weight_decay": decays.get(name, 0.0)}
        for name, parameter, _ in _parameters(model)
    ]


class WeightedExamples(Dataset[tuple[Any, Any, float]]):
    """A data set with the tuned weight of each example: (input, target, weight).

    The loss that was tuned is (weights * losses).mean() over a minibatch.
    """

    def __init__(self, examples: Any, weights: ArrayLike) -> None:
        self._weights = np.asarray(weights)
        self._examples = examples
        if len(self._weights) != len(examples):
            raise ValueError(
                f"there must be a weight for each of the {len(examples)} examples, "
                f"got {len(self._weights)}"
            )

    def __len__(self) -> int:
        return len(self._weights)

    def __getitem__(self, index: int) -> tuple[Any, Any, float]:
        inputs, target = self._examples[index]
        return inputs, target, float(self._weights[index])


def sampler(
    weights: ArrayLike, examples: int | None = None, generator: torch.Generator | None = None
) -> WeightedRandomSampler:
    """Draws each example as often as its weight says, for a DataLoader.

    The expected gradient is that of the weighted loss divided by the mean weight: keep the product
    of learning rate and mean weight for the same pace. `examples`: of an epoch; else the effective
    number of examples, the sum of the weights.
    """
    values = np.asarray(weights, dtype=float)
    drawn = examples or max(1, round(float(values.sum())))
    return WeightedRandomSampler(values.tolist(), drawn, generator=generator)


def schedule(values: ArrayLike, initial: float | None = None) -> Callable[[int], float]:
    """The learning rate of a step, as torch's LambdaLR takes it: relative to the optimizer's own.

    Args:
        values: One per step; after the last one it stays.
        initial: Learning rate that the optimizer was made with; None answers absolute rates.
    """
    rates = np.asarray(values, dtype=float).ravel()
    return lambda step: float(rates[min(step, len(rates) - 1)]) / (initial or 1.0)


def scale_weights(model: nn.Module, values: ArrayLike) -> None:
    """Multiply the initial weights, in place, by the tuned init_scale: one per parameter tensor."""
    scales = np.asarray(values, dtype=float).ravel()
    parameters = [parameter for _, parameter, _ in _parameters(model)]
    if len(scales) != len(parameters):
        raise ValueError(f"the model has {len(parameters)} scales, got {len(scales)}")
    with torch.no_grad():
        for parameter, scale in zip(parameters, scales, strict=True):
            parameter.mul_(float(scale))


class TunedSGD(torch.optim.Optimizer):
    """Gradient descent with tuned learning rates and momenta.

    Args:
        params: Of the model, in the order of `model.parameters()`.
        learning_rate: A number; one per step, shape (steps,); or (layers, steps), where a layer is
            a parameter tensor and either size may be 1. After the last step the last rate stays.
        momentum: Likewise.
        damped: The papers' rule v' = γ v - (1 - γ) g (damped_sgd) in place of torch's
            v' = γ v - g (sgd). Then w' = w + α v'.
    """

    def __init__(
        self,
        params: ParamsT,
        learning_rate: ArrayLike,
        momentum: ArrayLike = 0.9,
        *,
        damped: bool = False,
    ) -> None:
        super().__init__(params, {})
        self._damped = damped
        self._steps = 0
        layers = sum(len(group["params"]) for group in self.param_groups)
        self._rates = _table(learning_rate, layers, "learning_rate")
        self._momenta = _table(momentum, layers, "momentum")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; the number of steps taken chooses the rates."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = (p for group in self.param_groups for p in group["params"])
        for layer, parameter in enumerate(parameters):
            if parameter.grad is None:
                continue
            rate, momentum = (_at(t, layer, self._steps) for t in (self._rates, self._momenta))
            state = self.state[parameter]
            if "velocity" not in state:
                state["velocity"] = torch.zeros_like(parameter)
            share = 1.0 - momentum if self._damped else 1.0
            velocity = state["velocity"].mul_(momentum).sub_(parameter.grad, alpha=share)
            parameter.add_(velocity, alpha=rate)
        self._steps += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "steps"})
        self._steps = state_dict["steps"]


def _table(values: ArrayLike, layers: int, name: str) -> NDArray[np.floating[Any]]:
    table = np.atleast_2d(np.asarray(values, dtype=float))
    if table.ndim != 2 or table.shape[0] not in (1, layers):
        raise ValueError(
            f"{name} must be a number, (steps,) or ({layers}, steps), got shape {table.shape}"
        )
    return table


def _at(table: NDArray[np.floating[Any]], layer: int, step: int) -> float:
    layers, steps = table.shape
    return float(table[layer if layers > 1 else 0, min(step, steps - 1)])


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Name, parameter and its module, in the engine's order; shared ones once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter, module


def _units(module: nn.Module, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A view of the weights, and the broadcastable shape with one entry per input unit."""
    rest = (1,) * (len(shape) - 2)
    if isinstance(module, nn.modules.conv._ConvTransposeNd | nn.Embedding | nn.EmbeddingBag):
        return shape, (shape[0], 1, *rest)
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
        out, per_group = shape[0] // module.groups, shape[1]
        view = (module.groups, out, per_group, *shape[2:])
        return view, (module.groups, 1, per_group, *rest)
    return shape, (1, shape[1], *rest)
