"""Uses tuned hyperparameters in a plain PyTorch training loop; torch must be installed.

Every function takes arrays from `job.hyperparameters()`, which are in the user's units: penalties
and learning rates are e^λ, example weights and momenta are σ(λ), for raw hyperparameters λ.

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

PenaltyScope = Literal["weight", "unit", "layer", "model"]
"""What shares one penalty."""


def state_dict(model: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Convert the arrays of `job.model()` to tensors for `load_state_dict`.

    Of a model with frozen parameters they are only what training changed; see `load_model`.
    """
    return {name: torch.from_numpy(np.array(values)) for name, values in model.items()}


def load_model(model: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Load the arrays of `job.model()` into the model that your code builds.

    Afterwards `model.state_dict()` is the whole trained model. Frozen parameters are not among the
    arrays, and keep the values that the model has.

    Raises:
        ValueError: The arrays lack a parameter that requires a gradient, or hold a name or a shape
            that the model lacks.
    """
    own = model.state_dict(keep_vars=True)
    tensors = state_dict(arrays)
    known = {id(own[name]) for name in tensors if name in own}
    missing = [
        n for n, t in own.items() if getattr(t, "requires_grad", False) and id(t) not in known
    ]
    misfits = [n for n, t in tensors.items() if n not in own or own[n].shape != t.shape]
    if missing or misfits:
        raise ValueError(
            f"the model must be the one that the job trained; its arrays lack {missing}, and the "
            f"model has no {misfits} of the same shape: build it with the options of the job"
        )
    model.load_state_dict(tensors, strict=False)


def penalties(model: nn.Module, values: ArrayLike, per: PenaltyScope = "unit") -> dict[str, Tensor]:
    """The penalty of every weight, by parameter name and in the shape of the parameter.

    Args:
        model: The model that the job tuned. Parameters with fewer than two dimensions have no
            penalty.
        values: The tuned hyperparameter of kind l2 or l1, shape (penalties,).
        per: What shares one penalty, as in the spec of the job.
    Raises:
        ValueError: The number of values differs from the number of penalties of the model.
    """
    flat = torch.from_numpy(np.array(values)).flatten()
    coefficients: dict[str, Tensor] = {}
    first = 0
    for name, parameter, module in _parameters(model):
        if parameter.dim() < 2:
            continue
        shape = tuple(parameter.shape)
        view, keep = unit_shapes(module, shape) if per == "unit" else (shape, shape)
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
    """The term Σ_j c_j |w_j|^power to add to the training loss.

    Args:
        model: The model that is trained.
        coefficients: The result of `penalties`.
        power: 2 for l2, 1 for l1.
    """
    parameters = dict(model.named_parameters())
    terms = [(c * parameters[name].abs() ** power).sum() for name, c in coefficients.items()]
    return torch.stack(terms).sum()


def parameter_groups(
    model: nn.Module, values: ArrayLike, per: Literal["layer", "model"] = "layer"
) -> list[dict[str, Any]]:
    """Parameter groups for torch.optim.SGD whose weight decay equals the tuned l2 penalty.

    A weight decay of d adds d w to the gradient, and the penalty e^λ w² adds 2 e^λ w, so d = 2 e^λ.
    Penalties per unit or per weight have no such form; add `penalty` to the loss instead.
    """
    decays = {
        name: 2.0 * float(own.flatten()[0]) for name, own in penalties(model, values, per).items()
    }
    return [
        {"params": [parameter], "weight_decay": decays.get(name, 0.0)}
        for name, parameter, _ in _parameters(model)
    ]


class WeightedExamples(Dataset[tuple[Any, Any, float]]):
    """A data set that adds the tuned weight to each example: (input, target, weight).

    The tuned training loss is (weights * losses).mean() over a minibatch.
    """

    def __init__(self, examples: Any, weights: ArrayLike) -> None:
        self._weights = np.asarray(weights)
        self._examples = examples
        if len(self._weights) != len(examples):
            raise ValueError(
                f"weights must have one entry for each of the {len(examples)} examples, "
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
    """A sampler for a DataLoader that draws examples in proportion to their weights.

    The expected gradient is that of the weighted loss divided by the mean weight, so multiply the
    learning rate by the mean weight to keep the size of the steps.

    Args:
        weights: The tuned weights, shape (examples,).
        examples: The number of draws per epoch; by default the sum of the weights, which is the
            effective number of examples.
        generator: The source of random numbers; by default torch's global one.
    """
    values = np.asarray(weights, dtype=float)
    drawn = examples or max(1, round(float(values.sum())))
    return WeightedRandomSampler(values.tolist(), drawn, generator=generator)


def schedule(values: ArrayLike, initial: float | None = None) -> Callable[[int], float]:
    """The function of the step that torch's LambdaLR takes: the rate relative to the initial one.

    Args:
        values: The learning rate of each step, shape (steps,); the last one holds afterwards.
        initial: The learning rate that the optimizer was created with. With None the function
            returns absolute rates.
    """
    rates = np.asarray(values, dtype=float).ravel()
    return lambda step: float(rates[min(step, len(rates) - 1)]) / (initial or 1.0)


def scale_weights(model: nn.Module, values: ArrayLike) -> None:
    """Multiply the initial weights in place by the tuned init_scale, one per parameter tensor.

    Raises:
        ValueError: The number of values differs from the number of parameter tensors.
    """
    scales = np.asarray(values, dtype=float).ravel()
    parameters = [parameter for _, parameter, _ in _parameters(model)]
    if len(scales) != len(parameters):
        raise ValueError(f"the model has {len(parameters)} scales, got {len(scales)}")
    with torch.no_grad():
        for parameter, scale in zip(parameters, scales, strict=True):
            parameter.mul_(float(scale))


class TunedSGD(torch.optim.Optimizer):
    """Gradient descent with tuned learning rates and momenta: v' = γ v - g, then w' = w + α v'.

    Args:
        params: The parameters of the model, in the order of `model.parameters()`.
        learning_rate: α as a number, per step with shape (steps,), or per layer and step with
            shape (layers, steps). A layer is a parameter tensor; either size may be 1. The values
            of the last step hold afterwards.
        momentum: γ, in the same shapes.
        damped: Use the rule of the inner optimizer damped_sgd, v' = γ v - (1 - γ) g. The default
            is that of sgd.
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
        """Take one step, with the learning rate and momentum of its number."""
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
    """Name, parameter and its module, in the engine's order; a shared parameter comes once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter, module


def unit_shapes(
    module: nn.Module, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape in which to view a weight, and the shape with one entry per input unit."""
    rest = (1,) * (len(shape) - 2)
    if isinstance(module, nn.modules.conv._ConvTransposeNd | nn.Embedding | nn.EmbeddingBag):
        return shape, (shape[0], 1, *rest)
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
        out, per_group = shape[0] // module.groups, shape[1]
        view = (module.groups, out, per_group, *shape[2:])
        return view, (module.groups, 1, per_group, *rest)
    return shape, (1, shape[1], *rest)
