"""Seconds of a hypergradient beside plain training, of eight replicas, of recorded steps."""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from drmad_workers import L2, Replay, Shortcut
from drmad_workers.replica_batch import ReplicaBatch
from drmad_workers.training import cuda_graph
from hypergradient_costs.measurement import lengths, timed
from hypergradient_costs.mnist_mlp import PENALTY, methods_at, problem_of, training_of, tuner_of
from hypergradient_costs.plain_training import Plain

BY_HAND = "plain, penalties' gradients by hand"

COUNTED = {"plain": 1.0, BY_HAND: 1.0, "forward": 1.0}
"""Of plain training, by matrix products; for the methods see Method.cost."""


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Ratios of CPU seconds (on a GPU, of wall clock) to plain training, in turns."""
    steps, rounds = lengths(options, (200,), (2000,))[0], 3
    device = torch.device(options.device)
    plain = Plain(steps, device)
    taken: dict[str, list[float]] = {}

    def clock(name: str, work: Callable[[], object]) -> None:
        taken.setdefault(name, []).append(timed(work, device))

    tuners = {name: tuner_of(steps, method, device) for name, method in methods_at(steps).items()}
    values = tuners["replay"].initial_values()
    for _ in range(rounds):
        for name, tuner in tuners.items():
            clock("plain", plain.train)
            clock(BY_HAND, plain.train_by_hand)
            clock(name, partial(tuner.evaluate, values, 0))
        clock("forward", partial(tuners["replay"].compare, values, [Shortcut(horizon=1)]))
    base = median(taken["plain"])
    return {
        "steps": steps,
        "plain_seconds": base,
        "ratios": {name: median(seconds) / base for name, seconds in taken.items()},
        "counted": COUNTED
        | {name: method.cost(training_of(steps)) for name, method in methods_at(steps).items()},
    }


def replicas(options: argparse.Namespace) -> dict[str, Any]:
    """Eight replicas batched over one alone; with 8 separate runs it would be 8."""
    steps = lengths(options, (50,), (300,))[0]
    device = torch.device(options.device)
    rows = []
    for name, method in {
        "shortcut T/10": Shortcut(horizon=steps // 10, max_adjoint_change=None),
        "replay": Replay(),
    }.items():
        single = tuner_of(steps, method, device)
        kinds = [L2(per="unit", init=PENALTY)]
        many = ReplicaBatch(
            problem_of(), kinds, training_of(steps), method, replicas=range(8), device=device
        )
        values = single.initial_values()
        assert many.reason is None
        taken: dict[str, list[float]] = {"one": [], "eight": []}
        for _ in range(3):
            taken["one"].append(timed(partial(single.evaluate, values, 0), device))
            taken["eight"].append(timed(partial(many.evaluate, values, 0), device))
        rows.append({"method": name, "ratio": median(taken["eight"]) / median(taken["one"])})
    return {"steps": steps, "rows": rows}


def graph(options: argparse.Namespace) -> dict[str, Any]:
    """Steps per second of the small model's training, recorded as a CUDA graph and eagerly."""
    device = torch.device(options.device)
    if device.type != "cuda":
        return {"needs": "a GPU"}
    steps = lengths(options, (300,), (2000,))[0]
    tuner = tuner_of(steps, Shortcut(horizon=1), device)
    values = tuner.initial_values()

    def rate() -> float:
        return steps / median(timed(partial(tuner.train, values), device) for _ in range(3))

    recorded = rate()
    with patch.object(cuda_graph, "recordable", lambda run: False):
        return {"steps": steps, "recorded": recorded, "eager": rate()}
