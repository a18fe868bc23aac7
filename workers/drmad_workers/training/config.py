"""The settings of an inner training run, and the optimizer that they describe."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.kinds import RateRole
from drmad_workers.objective.objective import Objective
from drmad_workers.training.optimizers import Adam, InnerOptimizer, MomentumSGD, Optimizer, Rate

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainingConfig:
    """How the model is trained in every meta-iteration.

    Attributes:
        optimizer: "sgd" (torch's momentum), "damped_sgd" (the papers': learning rate α is
            worth α(1-γ) of torch's), "adam" or "adamw" (both torch's).
        steps: T, at least 1.
        batch_size: rows of a minibatch.
        learning_rate: α > 0.
        momentum: γ in [0, 1); the two of SGD.
        betas: β₁ and β₂ in [0, 1); this and the rest of the two of Adam.
        eps: ε > 0.
        weight_decay: ω >= 0; to tune a decay, or for SGD, use the hyperparameter l2.
        precision: "bfloat16" takes the losses under autocast; weights, memory and hypergradient
            stay in float32.
        resample: fresh first weights and minibatches in every meta-iteration; otherwise those of
            the first one come again. (How w_0 is drawn is `Problem.initialize`'s to say.)
    """

    optimizer: Optimizer = "sgd"
    steps: int = 1000
    batch_size: int = 100
    learning_rate: float = 0.05
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    precision: Precision = "float32"
    resample: bool = True

    def __post_init__(self) -> None:
        def require(holds: bool, field: str, what: str) -> None:
            if not holds:
                raise ProblemError(
                    f"{field} must be {what}, got {getattr(self, field)!r}", f"training.{field}"
                )

        for field, values in (("optimizer", Optimizer), ("precision", Precision)):
            allowed = get_args(values)
            require(getattr(self, field) in allowed, field, f"one of {', '.join(allowed)}")
        require(self.steps >= 1, "steps", "at least 1")
        for field in ("learning_rate", "eps"):
            require(0.0 < getattr(self, field) < math.inf, field, "a positive number")
        require(0.0 <= self.momentum < 1.0, "momentum", "at least 0 and below 1")
        pair = len(self.betas) == 2 and all(0.0 <= beta < 1.0 for beta in self.betas)
        require(pair, "betas", "two numbers, each at least 0 and below 1")
        require(0.0 <= self.weight_decay < math.inf, "weight_decay", "at least 0")
        require(
            self.is_adam or self.weight_decay == 0.0,
            "weight_decay",
            f"0 for {self.optimizer} (use an l2 hyperparameter)",
        )

    @property
    def is_adam(self) -> bool:
        return self.optimizer in ("adam", "adamw")

    @property
    def first_decay(self) -> float:
        """γ, of Adam β₁: what the hyperparameter `momentum` stands for."""
        return self.betas[0] if self.is_adam else self.momentum

    @property
    def memory_rows(self) -> int:
        """Copies of the weights that the optimizer remembers."""
        return Adam.memory_rows if self.is_adam else MomentumSGD.memory_rows

    def dynamics(self, objective: Objective) -> InnerOptimizer:
        """The update rule, at the rates that the objective's hyperparameters state."""
        learning_rate = rate(objective, "learning_rate", self.learning_rate)
        momentum = rate(objective, "momentum", self.first_decay)
        if self.is_adam:
            decoupled = self.optimizer == "adamw"
            rest = (self.betas[1], self.eps, self.weight_decay, decoupled)
            return Adam(learning_rate, momentum, *rest)
        return MomentumSGD(learning_rate, momentum, self.optimizer == "damped_sgd")


def rate(objective: Objective, role: RateRole, constant: float) -> Rate:
    """The rate of every step: the hyperparameter of this role, or `constant` if none is tuned.

    The derivative by the rate accumulates in the objective's gradient sums.
    """
    sizes = [slot.stop - slot.start for slot in objective.parameters.slots]
    tuned = objective.sums.tuned_rate(role)
    return Rate(constant, sizes) if tuned is None else Rate(tuned.values, sizes, tuned.total)
