"""The schedules of the learning rate: a factor for each inner step.

Times in steps are shares of all steps below 1, or whole numbers of steps; shares are rounded up, as
transformers does. `t` is the step, from 0, and T the number of all steps.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from drmad_client.spec import bounds, defaults, refusals
from drmad_workers.errors import ProblemError


@dataclass(frozen=True)
class Schedule(ABC):
    """The factors by which the learning rate of each step is multiplied, tuned or not."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, allowed = getattr(self, field.name), getattr(bounds.Schedule, field.name)
            for number in value if isinstance(value, tuple | list) else (value,):
                if number is not None and not allowed.hold(number):
                    raise ProblemError(
                        f"{field.name} must be {allowed}, got {number!r}",
                        f"training.schedule.{field.name}",
                    )

    def check(self, steps: int) -> None:
        """Raises ProblemError unless the options fit together and fit T."""
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        for refusal in refusals.schedule_refusals(options, steps):
            raise ProblemError(refusal.message, refusal.field)

    def values(self, steps: int) -> list[float]:
        """The factor of each of the T = `steps` steps."""
        return [self.value(step, steps) for step in range(steps)]

    @property
    def is_constant(self) -> bool:
        """Whether the factor is 1 in every step."""
        return False

    @abstractmethod
    def value(self, step: int, steps: int) -> float:
        """The factor of one step."""


@dataclass(frozen=True)
class ConstantSchedule(Schedule):
    """1 after a linear warm-up from 0: t/W for t < W.

    Attributes:
        warmup: W, the steps of the warm-up.
    """

    warmup: float = defaults.Schedule.warmup

    @property
    def is_constant(self) -> bool:
        return self.warmup == 0

    def value(self, step: int, steps: int) -> float:
        warmup = in_steps(self.warmup, steps)
        if step < warmup:
            return step / warmup
        return self.after(step, steps, warmup)

    def after(self, step: int, steps: int, warmup: int) -> float:
        """The factor of a step after the warm-up of `warmup` steps."""
        return 1.0


@dataclass(frozen=True)
class LinearSchedule(ConstantSchedule):
    """After the warm-up a straight line to `final`: 1 - (1 - final) (t - W) / (T - W).

    Attributes:
        warmup: see ConstantSchedule.
        final: the factor after the last step.
    """

    final: float = defaults.Schedule.final

    @property
    def is_constant(self) -> bool:
        return False

    def after(self, step: int, steps: int, warmup: int) -> float:
        share = (step - warmup) / (steps - warmup)
        return 1.0 - (1.0 - self.final) * share


@dataclass(frozen=True)
class CosineSchedule(LinearSchedule):
    """After the warm-up half a cosine to `final`: final + (1 - final) (1 + cos πs) / 2.

    s = (t - W) / (T - W); the attributes are those of LinearSchedule.
    """

    def after(self, step: int, steps: int, warmup: int) -> float:
        share = (step - warmup) / (steps - warmup)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * share))


@dataclass(frozen=True)
class StepSchedule(ConstantSchedule):
    """A product with `factor` every so many steps, or at milestones; the warm-up multiplies it.

    Attributes:
        warmup: see ConstantSchedule.
        every: the steps between two products; None for milestones.
        milestones: the steps before which the products are taken.
        factor: the factor of a product.
    """

    every: float | None = None
    milestones: Sequence[float] = ()
    factor: float = defaults.Schedule.factor

    @property
    def is_constant(self) -> bool:
        return False

    def value(self, step: int, steps: int) -> float:
        if self.every is not None:
            products = step // in_steps(self.every, steps)
        else:
            products = sum(in_steps(time, steps) <= step for time in self.milestones)
        return super().value(step, steps) * self.factor**products


@dataclass(frozen=True)
class OneCycleSchedule(Schedule):
    """One cycle of two half cosines, as torch's OneCycleLR without a cycle of the momentum.

    The factor rises from `start` at step 0 to 1 at step W - 1, and falls to `final` at step T - 1.

    Attributes:
        warmup: W, the steps of the rise; a share is not rounded.
        start: the factor of the first step.
        final: the factor of the last step.
    """

    warmup: float = defaults.Schedule.one_cycle_warmup
    start: float = defaults.Schedule.one_cycle_start
    final: float = defaults.Schedule.one_cycle_final

    def value(self, step: int, steps: int) -> float:
        top = (self.warmup * steps if self.warmup < 1 else self.warmup) - 1.0
        if step <= top:
            return half_cosine(self.start, 1.0, step / top if top else 1.0)
        return half_cosine(1.0, self.final, (step - top) / (steps - 1 - top))


@dataclass(frozen=True)
class InverseSqrtSchedule(ConstantSchedule):
    """After the warm-up 1 / √((t + t₀ - W) / t₀).

    Attributes:
        warmup: see ConstantSchedule.
        timescale: t₀ in steps; None takes W, or 10,000 if that is 0.
    """

    timescale: float | None = None

    @property
    def is_constant(self) -> bool:
        return False

    def after(self, step: int, steps: int, warmup: int) -> float:
        scale = in_steps(self.timescale, steps) if self.timescale else warmup or 10_000
        return 1.0 / math.sqrt((step + scale - warmup) / scale)


@dataclass(frozen=True)
class TableSchedule(Schedule):
    """Factors that are given.

    Attributes:
        factors: one factor for each step, or for each position.
        at: increasing positions as shares of all steps; the factors between them are interpolated
            linearly at t/T, and those beyond the ends stay. None gives each step a factor.
    """

    factors: Sequence[float]
    at: Sequence[float] | None = None

    def value(self, step: int, steps: int) -> float:
        if self.at is None:
            return self.factors[step]
        return float(np.interp(step / steps, self.at, self.factors))


def in_steps(time: float, steps: int) -> int:
    """A time as a number of steps; a share below 1 is rounded up."""
    return math.ceil(time * steps) if time < 1 else int(time)


def half_cosine(start: float, end: float, share: float) -> float:
    """From start to end as a half cosine, at a share of the way in [0, 1]."""
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1.0)
