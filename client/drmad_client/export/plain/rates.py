"""The rates of every parameter and step: schedules, groups of parameters, tuned values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drmad_client.export.plain.uses import USES

Tuned = Mapping[str, Tensor]
"""The tuned values in their own units, by name."""


def in_steps(time: float, steps: int) -> int:
    """A time as a number of steps; a share below 1 is rounded up."""
    return math.ceil(time * steps) if time < 1 else int(time)


def factors(stated: Mapping[str, Any], steps: int) -> list[float]:
    """The factor of the learning rate in every step."""
    if "table" in USES:
        if stated["at"] is None:
            return [float(each) for each in stated["factors"]]
        shares = [step / steps for step in range(steps)]
        return [float(each) for each in np.interp(shares, stated["at"], stated["factors"])]
    if "one_cycle" in USES:
        warmup = stated["warmup"]
        top = (warmup * steps if warmup < 1 else warmup) - 1.0
        return [one_cycle(stated, step, steps, top) for step in range(steps)]
    warmup = in_steps(stated["warmup"], steps)
    found = []
    for step in range(steps):
        share, after = (step - warmup) / max(1, steps - warmup), 1.0
        if "cosine" in USES:
            final = stated["final"]
            after = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))
        elif "linear" in USES:
            after = 1 - (1 - stated["final"]) * share
        elif "inverse_sqrt" in USES:
            scale = (
                in_steps(stated["timescale"], steps) if stated["timescale"] else warmup or 10_000
            )
            after = 1.0 / math.sqrt((max(step, warmup) + scale - warmup) / scale)
        rising = step / warmup if step < warmup else after
        if "step" in USES:
            if stated["every"] is not None:
                products = step // in_steps(stated["every"], steps)
            else:
                products = sum(in_steps(time, steps) <= step for time in stated["milestones"])
            rising *= stated["factor"] ** products
        found.append(float(rising))
    return found


def one_cycle(stated: Mapping[str, Any], step: int, steps: int, top: float) -> float:
    def half_cosine(start: float, end: float, share: float) -> float:
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1.0)

    if step <= top:
        return half_cosine(stated["start"], 1.0, step / top if top else 1.0)
    return half_cosine(1.0, stated["final"], (step - top) / (steps - 1 - top))


def stretched(values: Tensor, steps: int) -> Tensor:
    """Values of T steps for N: step t of N has that of step (t + 1/2) T / N, rounded down."""
    places = (torch.arange(steps, dtype=torch.float64) + 0.5) * values.shape[-1] / steps
    return values[..., places.long()]


def group_of(patterns: Sequence[str], name: str) -> int:
    """The first of the patterns that matches a name; -1 for none."""
    for number, pattern in enumerate(patterns):
        if any(fnmatchcase(name, each.strip()) for each in pattern.split("|")):
            return number
    return -1


def rates(settings: Mapping[str, Any], tuned: Tuned, role: str, names: Sequence[str]) -> Tensor:
    """The learning rate, momentum or weight decay of every parameter and step, by their names."""
    steps = settings["steps"]
    if "groups" not in USES and "tuned rates" not in USES:
        return torch.full((len(names), steps), settings[role], dtype=torch.float64)
    stated: list[float | None] = [None] * len(names)
    if "groups" in USES:
        groups = settings["groups"]
        members = [group_of([group["match"] for group in groups], name) for name in names]
        stated = [None if row < 0 else groups[row][role] for row in members]
    own = [settings[role] if value is None else value for value in stated]
    table = torch.tensor(own, dtype=torch.float64)[:, None].repeat(1, steps)
    if "tuned rates" in USES:
        for each in settings["hyperparameters"]:
            if each["kind"] != role:
                continue
            per, values = each["per"], tuned[each["name"]].double()
            if "layer" in per:
                rows = [*range(len(names))]
            elif per != "group":
                rows = [-1 if value is not None else 0 for value in stated]
            elif each["groups"]:
                rows = [group_of(each["groups"], name) for name in names]
            elif "groups" in USES:
                known = sorted(set(members), key=lambda row: (row < 0, row))
                rows = [known.index(row) for row in members]
            else:
                rows = [0] * len(names)
            of_rows = values.reshape(-1, values.shape[-1] if "step" in per else 1)
            of_rows = stretched(of_rows, steps) if "step" in per else of_rows.expand(-1, steps)
            for number, row in enumerate(rows):
                if row >= 0:
                    table[number] = of_rows[row]
    return table
