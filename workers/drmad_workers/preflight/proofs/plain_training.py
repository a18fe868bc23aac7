"""A training run by torch.optim's functions and `loss.backward()` on the user's own module.

From the engine come the draws alone: the minibatches, the seed of each step's noise, and w_0 unless
it is the weights that the module was given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from drmad_workers.hyperparameters.base import BoundHyperparameter
from drmad_workers.hyperparameters.init_scale import BoundInitScale
from drmad_workers.hyperparameters.rates import BoundRate, RateRole
from drmad_workers.objective.parameters.flat_parameters import trainable
from drmad_workers.objective.plain_objective import borrowed
from drmad_workers.preflight.proofs.short_problem import ShortProblem
from drmad_workers.training.config import TrainingConfig
from drmad_workers.update_rule import StepRates

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
        if run.objective.problem.initialize is not None:  # else the module stands at w_0
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
    """The inner optimizer by the functions of torch.optim, with rates per parameter and step.

    The classes of torch.optim load torch._dynamo, which takes a second and 80 MB.
    """

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
        self._parameters = [*own.values(), *others]
        self._count = len(own)
        self._second_decay, self._eps = training.betas[1], training.eps
        self._nesterov = training.nesterov
        self._rule = training.own_rule
        rows = 0 if self._rule is None else self._rule.memory_rows
        self._memory = [[torch.zeros_like(p) for _ in range(rows)] for p in self._parameters]
        # torch takes the first gradient undamped unless there is a velocity already
        self._first = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._second = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = [torch.tensor(0.0) for _ in self._parameters]

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, step: int) -> None:
        for number in range(len(self._parameters)):
            rate, decay, weight_decay = (
                self._rate(role, number, step) for role in get_args(RateRole)
            )
            rate *= self._factors[step]
            if self._rule is not None:
                self._ruled(number, step, StepRates(rate, decay, weight_decay))
            elif self._name in ("adam", "adamw"):
                self._adam(number, rate, decay, weight_decay)
            else:
                self._sgd(number, rate, decay, weight_decay)

    def _ruled(self, number: int, step: int, rates: StepRates) -> None:
        """A step of an update rule, which torch.optim does not have, on the parameter by itself."""
        assert self._rule is not None
        parameter, memory = self._parameters[number], self._memory[number]
        gradient = _dense_gradient(parameter)
        moved, kept = self._rule.update(step, parameter.detach(), memory, gradient, rates)
        parameter.copy_(moved)
        self._memory[number] = list(kept)

    def _sgd(self, number: int, rate: float, decay: float, weight_decay: float) -> None:
        parameter = self._parameters[number]
        sgd(
            [parameter],
            [_dense_gradient(parameter)],
            [self._first[number]],
            foreach=False,
            weight_decay=weight_decay,
            momentum=decay,
            lr=rate,
            dampening=decay if self._name == "damped_sgd" else 0.0,
            nesterov=self._nesterov,
            maximize=False,
        )

    def _adam(self, number: int, rate: float, decay: float, weight_decay: float) -> None:
        parameter = self._parameters[number]
        update = adam if self._name == "adam" else adamw
        update(
            [parameter],
            [_dense_gradient(parameter)],
            [self._first[number]],
            [self._second[number]],
            [],
            [self._steps[number]],
            foreach=False,
            amsgrad=False,
            beta1=decay,
            beta2=self._second_decay,
            lr=rate,
            weight_decay=weight_decay,
            eps=self._eps,
            maximize=False,
        )

    def _rate(self, role: RateRole, number: int, step: int) -> float:
        table = self._tables[role]
        if number >= self._count:
            return self._constants[role]
        layers, steps = table.shape
        return float(table[number if layers > 1 else 0, step if steps > 1 else 0])


def _dense_gradient(parameter: nn.Parameter) -> Tensor:
    """Zero where the loss gave none: weight decay and momentum move the weight all the same."""
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(parameter)
    return gradient.to_dense() if gradient.is_sparse else gradient


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
