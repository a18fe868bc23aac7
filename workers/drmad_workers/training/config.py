"""The settings of an inner training run, and the optimizer that they describe."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Self, get_args

import torch

from drmad_client.spec import bounds, defaults, refusals
from drmad_client.spec.inner.optimizers import OPTIMIZERS, OptimizerName, OptimizerTraits
from drmad_workers.errors import ProblemError, require_bounds
from drmad_workers.hyperparameters.groups import ParameterGroup, own_values
from drmad_workers.hyperparameters.rates import RateRole
from drmad_workers.numerics import Precision
from drmad_workers.objective.objective import Objective
from drmad_workers.training.clipping import Clip, NormClip, ValueClip
from drmad_workers.training.optimizers import (
    Adam,
    InnerOptimizer,
    MomentumSGD,
    NamedRule,
    Rate,
    RuleOptimizer,
)
from drmad_workers.training.optimizers.registry import optimizer_class
from drmad_workers.training.schedules import ConstantSchedule, Schedule
from drmad_workers.update_rule import UpdateRule


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of the training run of every meta-iteration.

    Attributes:
        optimizer: "sgd" (torch's momentum), "damped_sgd" (the momentum of the papers, where α
            corresponds to α(1-γ) in torch), "adam", "adamw", "rmsprop" (all as in torch), "lion",
            "muon" (as in torch for matrices, AdamW for the rest), or "custom", the rule that
            `Problem.optimizer` states.
        steps: the number of inner steps T, at least 1.
        batch_size: the rows of a minibatch.
        learning_rate: α > 0.
        schedule: the factors of α in each step, whether α is tuned or not.
        momentum: γ in [0, 1), of both kinds of SGD, RMSprop and Muon.
        betas: β₁ and β₂ in [0, 1), of Adam, AdamW and Lion, and of Muon's AdamW.
        eps: ε > 0, of Adam, AdamW, RMSprop and Muon.
        weight_decay: ω >= 0: adds ω w to the gradient, as torch's SGD, Adam and RMSprop do; AdamW,
            Lion and Muon decouple it from the gradient.
        precision: the type of all tensors, "float32" or "float64". "bfloat16" evaluates the losses
            under autocast, and "tf32" rounds the factors of products on a GPU; weights, optimizer
            memory and hypergradient are float32.
        deterministic: whether a GPU takes operations that have the same bits again.
        evaluation_rows: the rows of held-out data that a pass of the model takes, and of the epoch
            of `implicit`; None chooses them by the memory of a row, at least a minibatch, and
            halves them when an allocation fails.
        resample: whether every meta-iteration draws new minibatches, and new initial weights
            where `Problem.initialize` draws them; otherwise all of them use those of the first.
        groups: parameters with rates of their own, or frozen; the first that matches counts.
        nesterov: whether SGD or Muon takes Nesterov's momentum, as in torch.
        accumulate: the minibatches whose mean gradient a step takes, one after the other.
        clip_norm, clip_value: the bound of clip_grad_norm_ over all parameters, or that of
            clip_grad_value_; None clips no gradient.
        smoothing: a in [0, 1) of RMSprop, the `alpha` of torch.
        data_workers: the processes that read training data which do not lie in memory, ahead of the
            pass that uses them; 0 reads in the process that trains. Every result is the same.
        rule: the rule of "custom", which the engine takes from the problem; see `with_rule`.
    """

    optimizer: OptimizerName = defaults.Training.optimizer
    steps: int = defaults.Training.steps
    batch_size: int = defaults.Training.batch_size
    learning_rate: float = defaults.Training.learning_rate
    momentum: float = defaults.Training.momentum
    betas: tuple[float, float] = defaults.Training.betas
    eps: float = defaults.Training.eps
    weight_decay: float = defaults.Training.weight_decay
    precision: Precision = defaults.Training.precision
    deterministic: bool = defaults.Training.deterministic
    evaluation_rows: int | None = None
    resample: bool = defaults.Training.resample
    schedule: Schedule = field(default_factory=ConstantSchedule)
    groups: Sequence[ParameterGroup] = ()
    nesterov: bool = defaults.Training.nesterov
    accumulate: int = defaults.Training.accumulate
    clip_norm: float | None = None
    clip_value: float | None = None
    smoothing: float = defaults.Training.smoothing
    data_workers: int = defaults.Training.data_workers
    rule: UpdateRule | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        def require(holds: bool, name: str, what: str) -> None:
            if not holds:
                raise ProblemError(
                    f"{name} must be {what}, got {getattr(self, name)!r}", f"training.{name}"
                )

        for name, allowed in (("optimizer", OPTIMIZERS), ("precision", get_args(Precision))):
            require(getattr(self, name) in allowed, name, f"one of {', '.join(allowed)}")
        require_bounds(self, bounds.Training, "training")
        pair = len(self.betas) == 2 and all(map(bounds.BETA.hold, self.betas))
        require(pair, "betas", f"two numbers, each {bounds.BETA}")
        self.schedule.check(self.steps)
        takes_nesterov = "nesterov" not in self.traits.unread
        require(takes_nesterov or not self.nesterov, "nesterov", f"false with {self.optimizer}")
        for refusal in (
            *refusals.nesterov_refusals(self.optimizer, self.nesterov, self.momentum),
            *refusals.clip_refusals(self.clip_norm, self.clip_value),
        ):
            raise ProblemError(refusal.message, refusal.field)
        for number, group in enumerate(self.groups):
            for refusal in refusals.group_refusals(number, asdict(group), self.traits.unread):
                raise ProblemError(refusal.message, refusal.field)
            for name in refusals.GROUP_RATES:
                value, allowed = getattr(group, name), getattr(bounds.Training, name)
                if value is not None and not allowed.hold(value):
                    raise ProblemError(
                        f"{name} must be {allowed}, got {value!r}",
                        f"training.groups[{number}].{name}",
                    )

    def draw_of(self, draw: int) -> int:
        """The draw of w_0 and minibatches that a meta-iteration's draw stands for."""
        return draw if self.resample else 0

    @property
    def traits(self) -> OptimizerTraits:
        """The optimizer's row in the table."""
        return OPTIMIZERS[self.optimizer]

    @property
    def dtype(self) -> torch.dtype:
        """The type of weights, optimizer memory and hypergradient."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def first_decay(self) -> float:
        """The value that the hyperparameter `momentum` replaces: γ, or β₁ of Adam."""
        return self.betas[0] if self.traits.first_decay == "betas" else self.momentum

    @property
    def memory_rows(self) -> int:
        """Rows of the state, shape (P,) each, that the optimizer keeps beside the weights."""
        return self._optimizer().memory_rows

    @property
    def path_rows(self) -> int:
        """Rows of the state that an approximate trajectory carries; see InnerOptimizer."""
        made = self._optimizer()
        return 1 + made.memory_rows if isinstance(made, UpdateRule) else made.path_rows

    def with_rule(self, rule: UpdateRule | None) -> Self:
        """The same training by the rule of a problem, which has one exactly for "custom".

        Raises:
            ProblemError: the problem states a rule and the training another optimizer, or the
                training states "custom" and the problem no rule.
        """
        if (rule is not None) != (self.optimizer == "custom"):
            found = "no optimizer" if rule is None else f"optimizer={type(rule).__name__}(...)"
            raise ProblemError(
                "the problem states its optimizer exactly where training.optimizer is custom, got "
                f"training.optimizer {self.optimizer} and a Problem with {found}: change one of "
                "the two",
                "training.optimizer",
            )
        return replace(self, rule=rule)

    @property
    def own_rule(self) -> UpdateRule | None:
        """The rule at these settings; None for an optimizer with a reverse of its own."""
        made = self._optimizer()
        return made if isinstance(made, UpdateRule) else None

    def _optimizer(self) -> UpdateRule | type[Adam] | type[MomentumSGD]:
        """The rule at these settings, or the class of an optimizer with a reverse of its own."""
        if self.optimizer == "custom":
            if self.rule is None:
                raise ProblemError(
                    "training.optimizer custom needs the rule of a problem: state "
                    "Problem(optimizer=...)",
                    "training.optimizer",
                )
            return self.rule
        found = optimizer_class(self.optimizer)
        return found.configured(self) if issubclass(found, NamedRule) else found

    @property
    def factors(self) -> list[float] | None:
        """The factor of the learning rate in each step; None if all are 1."""
        return None if self.schedule.is_constant else self.schedule.values(self.steps)

    @property
    def clip(self) -> Clip | None:
        """What clips the gradients; None for nothing."""
        if self.clip_norm is not None:
            return NormClip(self.clip_norm)
        return None if self.clip_value is None else ValueClip(self.clip_value)

    def dynamics(self, objective: Objective) -> InnerOptimizer:
        """The inner optimizer, at the rates that the objective's hyperparameters state."""
        rates = (
            self._rate(objective, "learning_rate", self.factors),
            self._rate(objective, "momentum"),
            self._rate(objective, "weight_decay"),
        )
        made = self._optimizer()
        if isinstance(made, UpdateRule):
            shapes = [slot.shape for slot in objective.parameters.slots]
            return RuleOptimizer(made, *rates, shapes)
        return made.configured(self, *rates)

    def constant(self, role: RateRole) -> float:
        """The rate of this role where no group states one."""
        if role == "momentum":
            return self.first_decay
        return self.learning_rate if role == "learning_rate" else self.weight_decay

    def own_values(self, role: RateRole, names: Sequence[str]) -> list[float]:
        """The rate of this role of each parameter by its name, where it is not tuned."""
        return own_values(self.groups, names, role, self.constant(role))

    def _rate(
        self, objective: Objective, role: RateRole, factors: Sequence[float] | None = None
    ) -> Rate:
        """The rate of every step: the hyperparameter of this role, or the training's own.

        The factors of the steps multiply it. The derivative by the rate accumulates in the
        objective's gradient sums.
        """
        parameters = objective.parameters
        sizes = [slot.stop - slot.start for slot in parameters.slots]
        own = self.own_values(role, [slot.name for slot in parameters.slots])
        tuned = objective.sums.tuned_rate(role)
        if tuned is not None:
            table = tuned.bound.table(tuned.values, own)
            total = tuned.total.view(tuned.bound.layout)
            return Rate(table, sizes, total, tuned.bound.rows, factors)
        if len(set(own)) == 1:
            return Rate(own[0], sizes, factors=factors)
        return Rate(parameters.weights.new_tensor(own)[:, None], sizes, factors=factors)
