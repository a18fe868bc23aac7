"""A training run by torch.optim and `loss.backward()` on the user's own module.

From the engine come the draws alone: w_0, the minibatches, and the seed of each step's noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.hyperparameters.init_scale import BoundInitScale
from drmad_workers.hyperparameters.rates import BoundRate, RateRole
from drmad_workers.objective.flat_parameters import trainable
from drmad_workers.objective.plain_objective import borrowed
from drmad_workers.preflight.proofs.short_problem import ShortProblem
from drmad_workers.training.config import TrainingConfig

OnWeights = Callable[[int, list[Tensor]], None]
"""Called with the number of steps that were taken and the parameters in the engine's order."""


@dataclass(frozen=True)
class Written:
    """A parameter that changed beside the optimizer's step, and the step in which it did."""

    name: str
    step: int


def train(
    short: ShortProblem,
    raw: dict[str, Tensor],
    on_weights: OnWeights | None = None,
    shaken: bool = False,
) -> tuple[float, Written | None]:
    """Trains from w_0 at λ; the module is afterwards as it was.

    Args:
        raw: λ by name.
        on_weights: receives w_0 and the weights after each step.
        shaken: moves each weight before each step by about its rounding error.
    Returns:
        The outer loss at w_T, and the first parameter that the loss or its backward pass wrote to.
    """
    run, seed = short.run(raw)
    parameters, plain = run.objective.parameters, short.plain
    values = short.transformed(raw)
    bound = short.tuner.hyperparameters
    draw = torch.Generator(device=short.replica.device).manual_seed(1)
    written: Written | None = None
    with borrowed(plain.model):
        parameters.draw(seed, run.objective.problem.initialize)
        for parameter in trainable(plain.model):  # the engine's vector stays as it is
            parameter.data = parameter.data.clone()
        parameters.train()
        own = plain.parameters()
        _scale(own, bound, values)
        optimizer = Optimizer(short, own, plain.model, values)
        if on_weights is not None:
            on_weights(0, list(own.values()))
        for step in range(short.training.steps):
            if shaken:
                _shake(own, draw)
            before = [p.detach().clone() for p in own.values()]
            optimizer.zero_grad()
            for part in run.parts(step):
                loss = plain.training_loss(values, run.batch(part)) / run.accumulate
                loss.backward()  # type: ignore[no-untyped-call]
            if written is None:
                written = _written(own, before, step)
            clip(short.training, list(own.values()))
            optimizer.step(step)
            if on_weights is not None:
                on_weights(step + 1, list(own.values()))
        plain.model.eval()
        outer = plain.outer_loss(values, short.replica.valid_examples)
    return outer, written


def clip(training: TrainingConfig, parameters: list[nn.Parameter]) -> None:
    """Clips the gradients as torch does."""
    if training.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, training.clip_norm)
    if training.clip_value is not None:
        torch.nn.utils.clip_grad_value_(parameters, training.clip_value)


class Optimizer:
    """The inner optimizer from torch.optim, with one group per parameter and rates per step."""

    def __init__(
        self,
        short: ShortProblem,
        own: dict[str, nn.Parameter],
        model: nn.Module,
        values: dict[str, Tensor],
    ) -> None:
        training = short.training
        names = list(own)
        roles = get_args(RateRole)
        self._constants = {role: training.constant(role) for role in roles}
        each = {role: training.own_values(role, names) for role in roles}
        self._tables = {
            role: torch.tensor(values, dtype=torch.float64)[:, None]
            for role, values in each.items()
        }
        for bound in short.tuner.hyperparameters.values():
            if isinstance(bound, BoundRate):
                table = bound.table(values[bound.name], each[bound.role])
                self._tables[bound.role] = table.cpu()
        self._name = training.optimizer
        self._factors = training.schedule.values(training.steps)
        ours = {id(parameter) for parameter in own.values()}
        others = [p for p in trainable(model) if id(p) not in ours]
        groups: list[dict[str, Any]] = [{"params": [p]} for p in [*own.values(), *others]]
        self._count = len(own)
        if self._name in ("adam", "adamw"):
            of_name = torch.optim.Adam if self._name == "adam" else torch.optim.AdamW
            self._inner: torch.optim.Optimizer = of_name(
                groups, betas=training.betas, eps=training.eps, weight_decay=0.0, foreach=False
            )
        else:
            self._inner = torch.optim.SGD(
                groups, lr=1.0, momentum=0.5, foreach=False, nesterov=training.nesterov
            )
            for parameter in (p for group in groups for p in group["params"]):
                # torch takes the first gradient undamped unless there is a velocity already
                self._inner.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def zero_grad(self) -> None:
        self._inner.zero_grad()

    def step(self, step: int) -> None:
        for number, group in enumerate(self._inner.param_groups):
            rate, decay, weight_decay = (
                self._rate(role, number, step) for role in get_args(RateRole)
            )
            group["lr"], group["weight_decay"] = rate * self._factors[step], weight_decay
            if "betas" in group:
                group["betas"] = (decay, group["betas"][1])
            else:
                group["momentum"] = decay
                group["dampening"] = decay if self._name == "damped_sgd" else 0.0
            for parameter in group["params"]:
                if parameter.grad is None:  # weight decay and momentum move it all the same
                    parameter.grad = torch.zeros_like(parameter)
                elif parameter.grad.is_sparse:
                    parameter.grad = parameter.grad.to_dense()
        self._inner.step()

    def _rate(self, role: RateRole, number: int, step: int) -> float:
        table = self._tables[role]
        if number >= self._count:
            return self._constants[role]
        layers, steps = table.shape
        return float(table[number if layers > 1 else 0, step if steps > 1 else 0])


def _scale(
    own: dict[str, nn.Parameter],
    bound: dict[str, BoundHyperparameter],
    values: dict[str, Tensor],
) -> None:
    for scale in (b for b in bound.values() if isinstance(b, BoundInitScale)):
        for parameter, factor in zip(own.values(), values[scale.name], strict=True):
            parameter.data.mul_(factor)


def _shake(own: dict[str, nn.Parameter], draw: torch.Generator) -> None:
    for parameter in own.values():
        data = parameter.data
        noise = torch.randn(data.shape, generator=draw, dtype=data.dtype, device=data.device)
        data.addcmul_(data, noise, value=torch.finfo(data.dtype).eps)


def _written(own: dict[str, nn.Parameter], before: list[Tensor], step: int) -> Written | None:
    for (name, parameter), old in zip(own.items(), before, strict=True):
        if not torch.equal(parameter.detach(), old):
            return Written(name, step)
    return None
