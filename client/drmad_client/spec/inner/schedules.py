"""The schedules of the learning rate: one class each, with its options.

A schedule is a factor of the learning rate in every inner step. Times in steps are shares of all
steps below 1, or whole numbers of steps.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from drmad_client.spec import bounds, defaults
from drmad_client.spec.base import Spec

_Factor = Annotated[float, bounds.Schedule.factors]
_MAX_ENTRIES = 1_000_000


class ScheduleSpec(Spec):
    """Base of the schedules.

    Attributes:
        engine: module and class below `drmad_workers.training`.
        times: the options in steps.
    """

    engine: ClassVar[str]
    times: ClassVar[tuple[str, ...]] = ("warmup",)

    def over(self, total: int, steps: int) -> Self:
        """The schedule of `total` steps in the same shape over another number of steps.

        Shares stay. Numbers of steps become shares where there are fewer steps, and are multiplied
        and rounded where there are more.
        """
        if steps == total:
            return self

        def scaled(time: Any) -> Any:
            if isinstance(time, tuple):
                return tuple(map(scaled, time))
            if time is None or time < 1:
                return time
            if time < total and steps < total:
                return time / total
            return float(max(1, round(time * steps / total)))

        return self.model_copy(update={name: scaled(getattr(self, name)) for name in self.times})


class _WarmedUp(ScheduleSpec):
    warmup: Annotated[float, bounds.Schedule.warmup] = Field(
        default=defaults.Schedule.warmup,
        description="Steps in which the factor rises linearly from 0: a share of all steps below "
        "1, or a number of steps.",
    )


class _Decaying(_WarmedUp):
    final: Annotated[float, bounds.Schedule.final] = Field(
        default=defaults.Schedule.final, description="Factor after the last step."
    )


class ConstantScheduleSpec(_WarmedUp):
    """The learning rate itself after the warm-up."""

    engine: ClassVar[str] = "schedules:ConstantSchedule"

    name: Literal["constant"] = "constant"


class LinearScheduleSpec(_Decaying):
    """A straight line from 1 after the warm-up to `final`."""

    engine: ClassVar[str] = "schedules:LinearSchedule"

    name: Literal["linear"] = "linear"


class CosineScheduleSpec(_Decaying):
    """Half a cosine from 1 after the warm-up to `final`."""

    engine: ClassVar[str] = "schedules:CosineSchedule"

    name: Literal["cosine"] = "cosine"


class StepScheduleSpec(_WarmedUp):
    """A product with `factor` every so many steps, or at milestones."""

    engine: ClassVar[str] = "schedules:StepSchedule"
    times: ClassVar[tuple[str, ...]] = ("warmup", "every", "milestones")

    name: Literal["step"] = "step"
    every: Annotated[float, bounds.Schedule.every] | None = Field(
        default=None,
        description="Steps between two products: a share of all steps below 1, or a number.",
    )
    milestones: tuple[Annotated[float, bounds.Schedule.milestones], ...] = Field(
        default=(),
        max_length=1000,
        description="Steps before which the products are taken, each a share of all steps below 1, "
        "or a number; they take the place of `every`.",
    )
    factor: Annotated[float, bounds.Schedule.factor] = Field(
        default=defaults.Schedule.factor, description="Factor of each product."
    )


class OneCycleScheduleSpec(ScheduleSpec):
    """Half a cosine from `start` up to 1 in the warm-up, and another down to `final`."""

    engine: ClassVar[str] = "schedules:OneCycleSchedule"

    name: Literal["one_cycle"] = "one_cycle"
    warmup: Annotated[float, bounds.Schedule.warmup] = Field(
        default=defaults.Schedule.one_cycle_warmup,
        description="Steps up to the factor 1: a share of all steps below 1, or a number.",
    )
    start: Annotated[float, bounds.Schedule.start] = Field(
        default=defaults.Schedule.one_cycle_start, description="Factor in the first step."
    )
    final: Annotated[float, bounds.Schedule.final] = Field(
        default=defaults.Schedule.one_cycle_final, description="Factor in the last step."
    )


class InverseSqrtScheduleSpec(_WarmedUp):
    """The inverse of the square root of the step after the warm-up."""

    engine: ClassVar[str] = "schedules:InverseSqrtSchedule"
    times: ClassVar[tuple[str, ...]] = ("warmup", "timescale")

    name: Literal["inverse_sqrt"] = "inverse_sqrt"
    timescale: Annotated[float, bounds.Schedule.timescale] | None = Field(
        default=None,
        description="Steps t₀ in 1/√((t + t₀ - warmup)/t₀): a share of all steps below 1, or a "
        "number; null takes the warm-up, or 10000 without one.",
    )


class TableScheduleSpec(ScheduleSpec):
    """Factors of your own, one for each step or interpolated linearly between positions."""

    engine: ClassVar[str] = "schedules:TableSchedule"
    times: ClassVar[tuple[str, ...]] = ()

    name: Literal["table"] = "table"
    factors: tuple[_Factor, ...] = Field(
        min_length=1, max_length=_MAX_ENTRIES, description="The factors, one for each step or `at`."
    )
    at: tuple[Annotated[float, bounds.Schedule.at], ...] | None = Field(
        default=None,
        max_length=_MAX_ENTRIES,
        description="Positions of the factors as increasing shares of all steps, 0 before the "
        "first and 1 after the last; null gives each step a factor.",
    )

    def over(self, total: int, steps: int) -> Self:
        if self.at is not None:
            return self
        kept = [self.factors[int((step + 0.5) * total / steps)] for step in range(steps)]
        return self.model_copy(update={"factors": tuple(kept)})


LearningRateSchedule = Annotated[
    ConstantScheduleSpec
    | LinearScheduleSpec
    | CosineScheduleSpec
    | StepScheduleSpec
    | OneCycleScheduleSpec
    | InverseSqrtScheduleSpec
    | TableScheduleSpec,
    Field(discriminator="name"),
]
