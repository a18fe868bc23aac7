"""The interface of an inner optimizer: its update as a function of state, and the exact reverse.

The state is one tensor of shape (1 + S, P): the weights w, and below them the memory of the
optimizer: the velocity v, or Adam's two moments.

[Maclaurin2015] Gradient-based hyperparameter optimization through reversible learning, 1502.03492.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from torch import Tensor

from drmad_workers.training.optimizers.rates import Factor, Rate
from drmad_workers.update_rule import UpdateRule


class OptimizerSettings(Protocol):
    """The settings of a training run that an optimizer reads beside its rates."""

    @property
    def optimizer(self) -> str: ...

    @property
    def nesterov(self) -> bool: ...

    @property
    def betas(self) -> tuple[float, float]: ...

    @property
    def eps(self) -> float: ...

    @property
    def smoothing(self) -> float: ...


class NamedRule(UpdateRule):
    """An update rule of the table of optimizers."""

    @classmethod
    @abstractmethod
    def configured(cls, settings: OptimizerSettings) -> Self:
        """The rule at the settings of a training run."""


class InnerOptimizer(ABC):
    """An update rule (w, memory) -> (w', memory') under a gradient, and its reverse.

    Attributes:
        memory_rows: S.
        point_rows: leading rows of the state that the reverse of a step reads.
        path_rows: leading rows that an approximate trajectory must carry; the others follow from
            the weights of neighbouring steps.
        reads_gradient: whether the reverse also reads the gradient at the point.
        learning_rate, momentum, weight_decay: α, γ (of Adam, β₁) and ω.
        first: the steps of the training before step 0, see training.window.Window. What depends on
            the number of steps so far counts them; the rates are those of the steps from 0 on.
    """

    learning_rate: Rate
    momentum: Rate
    weight_decay: Rate
    first: int = 0
    memory_rows: int
    path_rows: int
    point_rows: int
    reads_gradient: bool

    @property
    def rates(self) -> Mapping[str, Rate]:
        """The coefficients that a hyperparameter can tune, in the order that `updated` takes."""
        return {
            "learning_rate": self.learning_rate,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
        }

    def reads_gradient_at(self, velocity_after: Tensor | None) -> bool:
        """Whether `pull_back` reads the gradient where it is given this velocity."""
        return self.reads_gradient

    @abstractmethod
    def step(self, step: int, state: Tensor, gradient: Tensor) -> None:
        """Takes the state from before `step` to after it, in place; `gradient` has shape (P,)."""

    @abstractmethod
    def updated(
        self,
        step: int,
        state: Sequence[Tensor],
        gradient: Tensor,
        rate: Factor,
        decay: Factor,
        weight_decay: Factor,
    ) -> Sequence[Tensor]:
        """The state after `step`, as a differentiable function of all but the step.

        The rows of the state and the gradient have shape (..., P); α_t, γ_t and ω are numbers, or
        have a shape that broadcasts to it.
        """

    @abstractmethod
    def pull_back(
        self,
        step: int,
        count: int,
        adjoint: Tensor,
        cotangent: Tensor,
        state: Tensor,
        gradient: Tensor | None = None,
        velocity_after: Tensor | None = None,
    ) -> None:
        """Reverse of the joint map of the steps `step` .. `step + count - 1` under one gradient ḡ.

        It leaves out the dependence of ḡ on w and λ. The derivatives by the rates gather in
        Rate.total.

        Args:
            adjoint: the derivatives by the state after the steps, shape (1 + S, P); those by the
                state before them are written here.
            cotangent: shape (P,); the vector u is written here for which
                (dw, dλ) -= ∂<ḡ(w, λ), u> remains to be done.
            state: where the steps are linearised, shape (1 + S, P); `point_rows` of it are read.
            gradient: ḡ there, where `reads_gradient_at` says so.
            velocity_after: see MomentumSGD; None where the state is one of the true trajectory.
        """
