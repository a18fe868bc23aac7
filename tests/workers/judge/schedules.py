"""The schedules of torch.optim.lr_scheduler and of transformers that those of the engine equal."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import lr_scheduler

from drmad_workers import (
    ConstantSchedule,
    CosineSchedule,
    InverseSqrtSchedule,
    LinearSchedule,
    OneCycleSchedule,
    StepSchedule,
    TableSchedule,
)
from drmad_workers.training.schedules import Schedule


def scheduler_of(
    schedule: Schedule, optimizer: torch.optim.Optimizer, steps: int
) -> lr_scheduler.LRScheduler:
    """The scheduler that a training loop in torch takes in place of the schedule."""
    if isinstance(schedule, OneCycleSchedule):
        rates = [group["lr"] for group in optimizer.param_groups]
        share = schedule.warmup if schedule.warmup < 1 else schedule.warmup / steps
        return lr_scheduler.OneCycleLR(
            optimizer, rates, steps, pct_start=share, div_factor=1.0 / schedule.start,
            final_div_factor=schedule.start / schedule.final, cycle_momentum=False,
        )  # fmt: skip
    if isinstance(schedule, StepSchedule) and schedule.warmup == 0:
        if schedule.every is not None:
            return lr_scheduler.StepLR(optimizer, int(schedule.every), schedule.factor)
        times = [int(time) for time in schedule.milestones]
        return lr_scheduler.MultiStepLR(optimizer, times, schedule.factor)
    if type(schedule) is LinearSchedule and schedule.warmup == 0:
        return lr_scheduler.LinearLR(optimizer, 1.0, schedule.final, steps)
    return lr_scheduler.LambdaLR(optimizer, transformers_lambda(schedule, steps))


def transformers_lambda(schedule: Schedule, steps: int) -> Callable[[int], float]:
    """The functions of transformers.optimization, written out."""
    if isinstance(schedule, TableSchedule):
        assert schedule.at is None
        return [*schedule.factors, 0.0].__getitem__  # torch asks for the step after the last
    assert isinstance(schedule, ConstantSchedule)
    warmup = schedule.warmup
    warmup = math.ceil(steps * warmup) if warmup < 1 else int(warmup)

    def factor(step: int) -> float:
        if step < warmup:
            rise = step / max(1, warmup)
            return rise * decayed(step) if isinstance(schedule, StepSchedule) else rise
        return decayed(step)

    def decayed(step: int) -> float:
        progress = (step - warmup) / max(1, steps - warmup)
        if isinstance(schedule, CosineSchedule):
            cosine = max(0.0, 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * progress)))
            return cosine * (1 - schedule.final) + schedule.final
        if isinstance(schedule, LinearSchedule):
            return max(0.0, 1.0 - progress) * (1 - schedule.final) + schedule.final
        if isinstance(schedule, InverseSqrtSchedule):
            scale = int(schedule.timescale or warmup or 10_000)
            return 1.0 / math.sqrt((step + scale - warmup) / scale)
        if isinstance(schedule, StepSchedule):
            assert schedule.every is not None
            return schedule.factor ** (step // int(schedule.every))
        return 1.0

    return factor


def factors_of(schedule: Schedule, steps: int) -> list[float]:
    """The factor of each step, from the scheduler at a rate of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = scheduler_of(schedule, optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found
